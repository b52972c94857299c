"""Scores of good images, gathered one batch after the other; without torch."""

import heapq
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from padim.scoring.calibration import Calibration


class Collector:
    """Gathers the scores of good images, and how many of their pixels have which value.

    It keeps the maps of the ``n_maps`` highest scores by each head. ``start`` is the place of its
    first image among all, when these are a part.
    """

    def __init__(self, n_maps: int = 0, start: int = 0) -> None:
        self.n_maps = n_maps
        self.start = start
        self._hottest: list[list[tuple[float, int, NDArray[np.float32]]]] = []
        # No arrays: small ones that stay keep the allocator from using the room between them.
        self._scores: list[list[float]] = []
        self._counts = np.zeros(1 << 16, np.int64)

    def add(
        self, anomaly_map: NDArray[np.float32], image_score: NDArray[np.float32] | float
    ) -> None:
        """Add maps ``(N, H, W)``, NaN where not looked at, and their scores.

        Those are N, or ``(N, heads)``, or a single one.
        """
        scores = np.asarray(image_score, np.float32).reshape(len(anomaly_map), -1)
        if self.n_maps:
            first = self.start + self.count
            places, maps = range(first, first + len(scores)), anomaly_map.copy()
            new = [list(zip(by_head, places, maps, strict=True)) for by_head in scores.T.tolist()]
            self._keep_hottest(new)
        self._scores += scores.tolist()
        seen = anomaly_map[~np.isnan(anomaly_map)]
        patterns = seen.clip(0, 65504).astype(np.float16).view(np.uint16)
        self._counts += np.bincount(patterns, minlength=1 << 16)

    def merge(self, other: "Collector") -> "Collector":
        """What these images and those that come after them give."""
        both = Collector(self.n_maps, self.start)
        both._keep_hottest(self._hottest)
        both._keep_hottest(other._hottest)
        both._scores = [*self._scores, *other._scores]
        both._counts = self._counts + other._counts
        return both

    def _keep_hottest(self, new: list[list[tuple[float, int, NDArray[np.float32]]]]) -> None:
        self._hottest = [
            heapq.nlargest(self.n_maps, (*before, *more), itemgetter(0))
            for before, more in zip(self._hottest or [[] for _ in new], new, strict=True)
        ]

    def joined(self, image_score: NDArray[np.float32]) -> "Collector":
        """The same with one score for each image, of those by each head."""
        one = Collector(self.n_maps, self.start)
        one._hottest, one._counts = self._hottest, self._counts
        one._scores = image_score[:, None].tolist()
        return one

    @property
    def count(self) -> int:
        """Images added."""
        return len(self._scores)

    def scores(self) -> NDArray[np.float32]:
        """The scores by each head in the order in which they came, shape ``(n, heads)``."""
        return np.array(self._scores, np.float32)

    def image_scores(self) -> NDArray[np.float32]:
        """The scores by the first head in the order in which they came, shape ``(n,)``."""
        return self.scores()[:, 0]

    def maps(self) -> dict[int, NDArray[np.float32]]:
        """The maps that were kept, by the places of their images."""
        return {place: found for by_head in self._hottest for _, place, found in by_head}

    def calibration(self, source: str) -> Calibration:
        """What follows from them."""
        used = np.flatnonzero(self._counts)  # of positive numbers, patterns ascend with values
        values = used.astype(np.uint16).view(np.float16).astype(np.float32)
        return Calibration(source, np.sort(self.image_scores()), values, self._counts[used])
