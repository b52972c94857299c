"""Metrics of image scores, resampled or not."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from padim.errors import ShapeError, UsageError
from padim.metrics.curves import Floats, f1
from padim.metrics.resamples import in_chunks
from padim.metrics.table import OF_IMAGES, ImageMetric


@dataclass(frozen=True, eq=False)
class ImageMetrics:
    """Metrics of N images whose scores are known, without any error of rounding."""

    scores: Floats  # the highest first
    is_anomalous: NDArray[np.bool_]  # of the images in that order
    rows: NDArray[np.intp]  # where each of them stood
    starts: NDArray[np.intp]  # where each of the K different scores starts among those

    @classmethod
    def of(cls, labels: ArrayLike, scores: ArrayLike) -> "ImageMetrics":
        """Rank images.

        Args:
            labels: True or 1 where anomalous, False or 0 where normal, shape ``(N,)``.
            scores: Shape ``(N,)``, higher is more anomalous, any range, infinities allowed.

        Raises:
            ShapeError: The shapes disagree.
            UsageError: A label is neither 0 nor 1, or a score is NaN.
        """
        labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
        if labels.shape != scores.shape or scores.ndim != 1:
            raise ShapeError(
                f"The labels have shape {labels.shape} and the scores {scores.shape}, but both "
                "need (N,). Give one label per score."
            )
        if ((labels != 0) & (labels != 1)).any():
            raise UsageError(
                "The labels have values that are neither 0 nor 1, but need to be 0 where normal "
                "and 1 where anomalous. Compare or threshold them first."
            )
        if np.isnan(scores).any():
            raise UsageError(
                "The scores have NaN among them, but need to be numbers to be ranked. "
                "Leave out what was not scored."
            )
        rows = np.argsort(-scores, kind="stable")
        ordered = scores[rows]
        is_first = np.ones(ordered.size, np.bool_)
        is_first[1:] = ordered[1:] != ordered[:-1]
        return cls(ordered, labels.astype(np.bool_)[rows], rows, np.flatnonzero(is_first))

    def resampled(self, weights: ArrayLike | None) -> dict[str, Floats]:
        """Every metric by name, shape ``()`` or ``(B,)``; NaN where it cannot be had.

        ``weights`` say how often each image is there, ``(N,)`` or ``(B, N)``; once when None. A
        metric that keeps the normal images takes the weights of the anomalous ones alone.
        """
        values = self._each(weights, [row for row in OF_IMAGES if not row.keeps_normal])
        if weights is not None:
            is_anomalous = self.is_anomalous[np.argsort(self.rows)]
            weights = np.where(is_anomalous, weights, 1.0)
        return values | self._each(weights, [row for row in OF_IMAGES if row.keeps_normal])

    def f1_threshold(self) -> float:
        """The threshold of F1-max, of equally good ones the highest; NaN without one."""
        best = f1(*self._counts(np.ones((1, self.rows.size))))[0]
        return np.nan if np.isnan(best).any() else float(self.scores[self.starts[best.argmax()]])

    def roc(self, n_points: int = 2000) -> tuple[Floats, Floats]:
        """Points of the ROC curve, to be drawn, false positive rates and true ones.

        If the curve has more vertices than there may be points, those are taken that are spread
        evenly over the ranks of either class. Both are empty when a class is missing.

        Source:
            Fawcett 2006, An introduction to ROC analysis: those of one score together.
        """
        both = [found[0] for found in self._counts(np.ones((1, self.rows.size)))]
        if any(found[-1] == 0 for found in both):
            return np.empty(0), np.empty(0)
        n_room = n_points - 1  # beside (0, 0)
        chosen = np.arange(self.starts.size)
        if sum(np.count_nonzero(np.diff(found, prepend=0)) for found in both) > n_room:
            spread = (np.linspace(0, found[-1] - 1, n_room // 2).astype(int) for found in both)
            chosen = np.unique(
                [
                    found.searchsorted(found[-1] - 1 - ranks, "right")
                    for found, ranks in zip(both, spread, strict=True)
                ]
            )
        tpr, fpr = (np.append(0, found[chosen] / found[-1]) for found in both)
        return fpr, tpr

    def _each(self, weights: ArrayLike | None, rows: Sequence[ImageMetric]) -> dict[str, Floats]:
        def measure(chosen: Floats) -> dict[str, Floats]:
            tp, fp = self._counts(chosen)
            return {row.name: row.measure(tp, fp) for row in rows}

        return in_chunks(weights, self.rows.size, self.rows.size, measure)

    def _counts(self, weights: Floats) -> tuple[Floats, Floats]:
        """Anomalous and normal images at or above each score, both of shape ``(B, K)``."""
        if not self.rows.size:
            return np.zeros((len(weights), 1)), np.zeros((len(weights), 1))
        ordered = weights[:, self.rows]
        tp, fp = (
            np.add.reduceat(ordered * part, self.starts, axis=1).cumsum(axis=1)
            for part in (self.is_anomalous, ~self.is_anomalous)
        )
        return tp, fp
