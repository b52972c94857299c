"""Resamples of images: their weights, metrics of many at a time, and intervals."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from padim.errors import ShapeError, UsageError
from padim.metrics.curves import Floats

Interval = tuple[float, float]
Values = dict[str, float | None]  # of metrics by name; None where one cannot be had
Intervals = dict[str, Interval | None]

N_RESAMPLES = 1000
SMALL_BYTES = 1 << 19  # of a table; memory of larger ones comes from the system anew for each
LARGE_BYTES = 1 << 26  # some eight tables are there at once
_FEW = 8  # resamples that are worth more memory


def bootstrap_weights(labels: ArrayLike, n: int = N_RESAMPLES, seed: int = 0) -> Floats:
    """How often each image is drawn when as many are drawn with replacement, shape ``(n, N)``.

    Normal and anomalous images, as labels ``(N,)`` say, are drawn apart, so that there are as many
    of each as there were.

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


def interval(values: Floats, level: float = 0.95) -> Interval:
    """Where the middle of the resamples lies: the percentile interval.

    Resamples whose metric is NaN are left out; where all are, so are both ends.
    """
    known = values[~np.isnan(values)]
    if not known.size:
        return np.nan, np.nan
    low, high = np.quantile(known, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def intervals(resampled: Mapping[str, Floats], values: Mapping[str, float | None]) -> Intervals:
    """95% intervals of metrics, by name; None where one cannot be had.

    An interval always holds its metric. That of a handful of images may lie outside the middle of
    its resamples: an image that is drawn twice is a tie, which average precision rewards.
    """
    found: Intervals = {}
    for name, drawn in resampled.items():
        (low, high), value = interval(drawn), values[name]
        found[name] = None
        if value is not None and not np.isnan(low):
            found[name] = min(low, value), max(high, value)
    return found


def p_value(difference: float, drawn: Floats) -> float:
    """Chance of so large a difference where there is none, of either sign.

    Twice the share of the resamples on the other side of 0, or what a normal distribution of their
    spread says, whichever is larger: 1000 resamples alone cannot tell one in a thousand from less.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapters 13 and 15.
    """
    known = drawn[~np.isnan(drawn)]
    if not known.size or not difference:
        return 1.0
    share = 2 * min(float((known <= 0).mean()), float((known >= 0).mean()))
    spread = float(known.std(ddof=1)) if known.size > 1 else np.inf
    tail = math.erfc(abs(difference) / spread / math.sqrt(2)) if spread else 0.0
    return min(1.0, max(share, tail))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for how many there are: at most 5% of such sets have one below 0.05.

    Nothing needs to be independent.

    Source:
        Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    adjusted, highest = list(p_values), 0.0
    for rank, i in enumerate(np.argsort(p_values, kind="stable").tolist()):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def in_chunks(
    weights: ArrayLike | None,
    n_images: int,
    n_columns: int,
    measure: Callable[[Floats], Mapping[str, Floats]],
    table_bytes: int = SMALL_BYTES,
) -> dict[str, Floats]:
    """Take metrics of resamples, as many at a time as memory should hold.

    Args:
        weights: Shape ``(N,)`` or ``(B, N)``, or it is a `ShapeError`; 0 or more, or it is a
            `UsageError`; None for each image once.
        n_images: N.
        n_columns: K, of the tables that a metric makes of ``(B, K)``.
        measure: Takes weights of shape ``(some, N)`` and gives metrics of shape ``(some, ...)``.
        table_bytes: What one table of ``(some, K)`` may take. ``LARGE_BYTES`` where each call of
            ``measure`` costs much, however few the resamples.
    """
    weights = np.ones(n_images) if weights is None else np.asarray(weights, np.float64)
    if weights.ndim not in (1, 2) or weights.shape[-1] != n_images:
        raise ShapeError(
            f"The weights have shape {weights.shape}, but need ({n_images},) or (B, {n_images}). "
            "Give one per image."
        )
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise UsageError("A weight is negative or no number, but needs to be 0 or more.")
    table = np.atleast_2d(weights)
    n_bytes = 8 * max(n_columns, 1)
    n_rows = max(1, table_bytes // n_bytes, min(_FEW, LARGE_BYTES // n_bytes))
    starts = range(0, max(len(table), 1), n_rows)
    parts = [measure(table[start : start + n_rows]) for start in starts]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return whole if weights.ndim == 2 else {name: value[0] for name, value in whole.items()}
