"""Exact rank metrics on raw scores: no bins, no rescaling, whole numbers until they divide."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from padim.errors import ShapeError, UsageError

__all__ = ["Ranking"]

_CHUNK = 1 << 16


@dataclass(frozen=True, eq=False)
class Ranking:
    """The scores of normal and of anomalous images or pixels, sorted.

    Its metrics are those of the scores as they are, without any error of rounding; of pixels that
    are counted as they come, ``PixelMetrics`` says how far theirs may be off.

    Attributes:
        normal: Scores of the normal ones, ascending, float32 or float64, without NaN.
        anomalous: Scores of the anomalous ones, likewise and of the same type.
    """

    normal: NDArray[np.floating[Any]]
    anomalous: NDArray[np.floating[Any]]

    @classmethod
    def of(cls, labels: ArrayLike, scores: ArrayLike) -> "Ranking":
        """Rank scores by their labels.

        Beside its arguments it takes at most 7 bytes a score at float32.

        Args:
            labels: True or 1 where anomalous, False or 0 where normal; any shape.
            scores: Scores of the same shape, higher is more anomalous, any range, infinities
                allowed. float32 and float64 stay as they are, other types become float64.

        Raises:
            ShapeError: The shapes disagree.
            UsageError: A label is neither 0 nor 1, or a score is NaN.
        """
        labels, scores = np.asarray(labels), np.asarray(scores)
        if labels.shape != scores.shape:
            raise ShapeError(
                f"The labels have shape {labels.shape}, but need that of the scores, "
                f"{scores.shape}. Give one label per score."
            )
        if scores.dtype not in (np.float32, np.float64):
            scores = scores.astype(np.float64)
        chosen = labels == 1
        anomalous = scores[chosen]
        np.equal(labels, 0, out=chosen)
        normal = scores[chosen]
        if normal.size + anomalous.size != scores.size:
            n_others = scores.size - normal.size - anomalous.size
            raise UsageError(
                f"The labels have {n_others} values that are neither 0 nor 1, but need to be 0 "
                "where normal and 1 where anomalous. Compare or threshold them first."
            )
        for part in (normal, anomalous):
            part.sort()
            if part.size and np.isnan(part[-1]):  # sorting puts NaN last
                raise UsageError(
                    "The scores have NaN among them, but need to be numbers to be ranked. "
                    "Leave out what was not scored."
                )
        return cls(normal, anomalous)

    def auroc(self) -> float | None:
        """Chance that an anomalous score is above a normal one, ties counting half.

        Returns:
            Area under the ROC curve, 0 to 1, or None when a class is missing.

        Source:
            Hanley and McNeil 1982: AUROC = U / (n_normal n_anomalous), U of Mann and Whitney.
        """
        if not self.normal.size or not self.anomalous.size:
            return None
        wins_twice = sum(
            int(self.normal.searchsorted(chunk, side).sum())
            for _, chunk in _chunks(self.anomalous)
            for side in ("left", "right")
        )
        return wins_twice / (2 * self.normal.size * self.anomalous.size)

    def average_precision(self) -> float | None:
        """Sum over the thresholds of precision times gain in recall, without interpolation.

        Returns:
            Average precision, 0 to 1, or None when a class is missing.

        Source:
            ``sklearn.metrics.average_precision_score``; Davis and Goadrich 2006 on why nothing is
            interpolated.
        """
        if not self.normal.size or not self.anomalous.size:
            return None
        total = 0.0
        for _, chunk in _chunks(self.anomalous):
            tp = self.anomalous.size - self.anomalous.searchsorted(chunk, "left")
            fp = self.normal.size - self.normal.searchsorted(chunk, "left")
            total += float((tp / (tp + fp)).sum())
        return total / self.anomalous.size

    def recall(self, n_false_alarms: int) -> float | None:
        """Highest share of the anomalous ones that is found with at most so many false alarms.

        Args:
            n_false_alarms: How many of the normal ones may be called anomalous, 0 or more.

        Returns:
            Recall, 0 to 1, or None when a class is missing.

        Source:
            Fawcett 2006, An introduction to ROC analysis: the true positive rate.
        """
        if not self.normal.size or not self.anomalous.size:
            return None
        if n_false_alarms >= self.normal.size:
            return 1.0
        threshold = self.normal[self.normal.size - 1 - n_false_alarms]
        n_missed = int(self.anomalous.searchsorted(threshold, "right"))
        return (self.anomalous.size - n_missed) / self.anomalous.size

    def f1_max(self) -> tuple[float, float] | tuple[None, None]:
        """Best F1 that any threshold reaches, when scores at or above it are called anomalous.

        F1 is the harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN).

        An oracle: the threshold is chosen with the labels at hand.

        Returns:
            F1, 0 to 1, and its threshold, one of the anomalous scores, the highest of equally good
            ones; or None and None when a class is missing.

        Source:
            van Rijsbergen 1979, Information Retrieval, chapter 7: 1 - E, precision and recall
            weighted alike.
        """
        if not self.normal.size or not self.anomalous.size:
            return None, None
        best, threshold = -1.0, np.inf
        for start, chunk in _chunks(self.anomalous):
            # Of equal scores only the first counts them all; the others fall short, and lose.
            tp = self.anomalous.size - start - np.arange(chunk.size)
            fp = self.normal.size - self.normal.searchsorted(chunk, "left")
            f1 = 2 * tp / (tp + fp + self.anomalous.size)
            last = chunk.size - 1 - int(f1[::-1].argmax())
            if f1[last] >= best:
                best, threshold = float(f1[last]), float(chunk[last])
        return best, threshold

    def roc(self, n_points: int = 2000) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Points of the ROC curve, to be drawn.

        Args:
            n_points: How many points there may be, at least 3. If the curve has more vertices,
                those are taken that are spread evenly over the ranks of either class. Every point
                lies exactly on the curve.

        Returns:
            False positive rate and true positive rate, each of shape ``(n,)``, both rising from
            0 to 1; both empty when a class is missing.

        Raises:
            UsageError: ``n_points`` is below 3.

        Source:
            Fawcett 2006, An introduction to ROC analysis: those of one score together.
        """
        if n_points < 3:
            raise UsageError(
                f"A ROC curve of {n_points} points is asked for, but needs 3. Ask for more."
            )
        if not self.normal.size or not self.anomalous.size:
            return np.empty(0), np.empty(0)
        parts = (self.normal, self.anomalous)
        n_room = n_points - 1  # beside (0, 0)
        starts = tuple(_is_new(part) for part in parts)
        few = sum(np.count_nonzero(start) for start in starts) <= n_room
        some = [
            part[start] if few else _spread(part, n_room // 2)
            for part, start in zip(parts, starts, strict=True)
        ]
        thresholds = np.unique(np.concatenate(some))[::-1]
        fpr, tpr = (
            np.concatenate(([0], part.size - part.searchsorted(thresholds, "left"))) / part.size
            for part in parts
        )
        return fpr, tpr


def _chunks(values: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    for start in range(0, values.size, _CHUNK):
        yield start, values[start : start + _CHUNK]


def _is_new(ascending: NDArray[Any]) -> NDArray[np.bool_]:
    is_new = np.ones(ascending.size, dtype=np.bool_)
    np.not_equal(ascending[1:], ascending[:-1], out=is_new[1:])
    return is_new


def _spread(ascending: NDArray[Any], n_values: int) -> NDArray[Any]:
    return ascending[np.linspace(0, ascending.size - 1, n_values).astype(np.int64)]
