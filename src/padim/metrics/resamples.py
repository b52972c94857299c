"""Resamples of images: their weights, the metrics of image scores under them, and intervals."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from padim.errors import ShapeError
from padim.metrics.curves import Floats, average_precision, f1, recall, roc_area
from padim.metrics.ranking import Ranking

__all__ = ["ImageScores", "bootstrap_weights", "in_chunks", "interval"]

_CHUNK_BYTES = 1 << 26


def bootstrap_weights(labels: ArrayLike, n: int = 1000, seed: int = 0) -> Floats:
    """How often each image is drawn when as many are drawn with replacement.

    Normal and anomalous images are drawn apart, so that there are as many of each as there were.

    Args:
        labels: True or 1 where anomalous, shape ``(N,)``.
        n: Resamples B.
        seed: Of the draws.

    Returns:
        Multiplicities, shape ``(B, N)``.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 8: two samples.
    """
    labels = np.asarray(labels).astype(np.bool_)
    generator = np.random.default_rng(seed)
    weights = np.zeros((n, labels.size))
    for places in (np.flatnonzero(~labels), np.flatnonzero(labels)):
        if places.size:
            drawn = generator.integers(places.size, size=(n, places.size))
            drawn += places.size * np.arange(n)[:, None]
            counts = np.bincount(drawn.ravel(), minlength=n * places.size)
            weights[:, places] = counts.reshape(n, places.size)
    return weights


def interval(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """Where the middle of the resamples lies: the percentile interval.

    Args:
        values: A metric of each resample, shape ``(B,)``; NaN where it could not be had.
        level: Share of the resamples inside.

    Returns:
        Its ends; NaN both where the metric could never be had.
    """
    known = values[~np.isnan(values)]
    if not known.size:
        return np.nan, np.nan
    low, high = np.quantile(known, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def in_chunks(
    weights: ArrayLike | None,
    n_images: int,
    n_columns: int,
    metrics: Mapping[str, Callable[[Any], Floats]],
    prepare: Callable[[Floats], Any],
) -> dict[str, Floats]:
    """Take metrics of resamples, as many at a time as memory should hold.

    Args:
        weights: Shape ``(N,)`` or ``(B, N)``; None for each image once.
        n_images: N.
        n_columns: K, of the tables that a metric makes of ``(B, K)``.
        metrics: Each gives ``(some, ...)`` of what ``prepare`` gave.
        prepare: Takes weights of shape ``(some, N)``.

    Returns:
        By name, shape ``(...)`` or ``(B, ...)`` as that of the weights.

    Raises:
        ShapeError: There is not one weight per image.
    """
    weights = np.ones(n_images) if weights is None else np.asarray(weights, np.float64)
    if weights.ndim not in (1, 2) or weights.shape[-1] != n_images:
        raise ShapeError(
            f"The weights have shape {weights.shape}, but need ({n_images},) or (B, {n_images}). "
            "Give one per image."
        )
    table = np.atleast_2d(weights)
    n_rows = max(1, _CHUNK_BYTES // (8 * max(n_columns, 1)))
    taken: dict[str, list[Floats]] = {name: [] for name in metrics}
    for start in range(0, len(table), n_rows):
        prepared = prepare(table[start : start + n_rows])
        for name, metric in metrics.items():
            taken[name].append(metric(prepared))
    whole = {name: np.concatenate(values) for name, values in taken.items()}
    return whole if weights.ndim == 2 else {name: value[0] for name, value in whole.items()}


@dataclass(frozen=True, eq=False)
class ImageScores:
    """Scores of images that keep their places, for metrics of resamples.

    Each metric takes weights of shape ``(N,)`` or ``(B, N)``, multiplicities of the images, or
    None for each image once. It gives one number for ``(N,)``, shape ``()``, or ``(B,)``; NaN
    where a class is missing.

    Attributes:
        n_images: N.
        rows: Places of the images by score, the highest first, shape ``(N,)``.
        starts: Where each of the K scores starts among those, shape ``(K,)``.
        is_anomalous: Of the images in that order, shape ``(N,)``.
    """

    n_images: int
    rows: NDArray[np.intp]
    starts: NDArray[np.intp]
    is_anomalous: NDArray[np.bool_]

    @classmethod
    def of(cls, labels: ArrayLike, scores: ArrayLike) -> "ImageScores":
        """Rank images.

        Args:
            labels: True or 1 where anomalous, False or 0 where normal, shape ``(N,)``.
            scores: Shape ``(N,)``, higher is more anomalous, any range.

        Raises:
            ShapeError: The shapes disagree.
            UsageError: A label is neither 0 nor 1, or a score is NaN.
        """
        Ranking.of(labels, scores)  # refuses what it would
        scores = np.asarray(scores)
        rows = np.argsort(-scores, kind="stable")
        ordered = scores[rows]
        is_first = np.ones(ordered.size, np.bool_)
        is_first[1:] = ordered[1:] != ordered[:-1]
        is_anomalous = np.asarray(labels).astype(np.bool_)[rows]
        return cls(scores.size, rows, np.flatnonzero(is_first), is_anomalous)

    def auroc(self, weights: ArrayLike | None = None) -> Floats:
        """As ``Ranking.auroc``."""
        return self._each(weights, roc_area)

    def average_precision(self, weights: ArrayLike | None = None) -> Floats:
        """As ``Ranking.average_precision``."""
        return self._each(weights, lambda tp, fp: _known(average_precision(tp, fp), fp))

    def f1_max(self, weights: ArrayLike | None = None) -> Floats:
        """As ``Ranking.f1_max``, the F1 alone: each resample takes its own best threshold."""
        return self._each(weights, lambda tp, fp: _known(f1(tp, fp).max(axis=-1), fp))

    def recall(self, n_false_alarms: int, weights: ArrayLike | None = None) -> Floats:
        """As ``Ranking.recall``."""
        return self._each(weights, lambda tp, fp: _known(recall(tp, fp, n_false_alarms), fp))

    def _each(
        self, weights: ArrayLike | None, metric: Callable[[Floats, Floats], Floats]
    ) -> Floats:
        def counts(chosen: Floats) -> tuple[Floats, Floats]:
            if not self.n_images:
                return np.zeros((len(chosen), 1)), np.zeros((len(chosen), 1))
            ordered = chosen[:, self.rows]
            tp, fp = (
                np.add.reduceat(ordered * part, self.starts, axis=1).cumsum(axis=1)
                for part in (self.is_anomalous, ~self.is_anomalous)
            )
            return tp, fp

        whole = {"": lambda both: metric(*both)}
        return in_chunks(weights, self.n_images, self.n_images, whole, counts)[""]


def _known(metric: Floats, fp: Floats) -> Floats:
    """A metric, NaN where there are no normal images."""
    return np.where(fp[..., -1] > 0, metric, np.nan)
