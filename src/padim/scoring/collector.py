"""Scores of good images, gathered one batch after the other; without torch."""

import heapq
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from padim.images.camera import CameraFacts, MeanImage
from padim.scoring.calibration import Calibration
from padim.scoring.reference import MAP_CELLS, Reference, shrink_map

_MAP_STEPS = 1 << 12  # of a coarse map: sums in whole numbers do not depend on their order


class Collector:
    """Gathers the scores of good images, and how many of their pixels have which value.

    It keeps the maps of the ``n_maps`` highest scores by each head. ``start`` is the place of its
    first image among all, when these are a part.
    """

    SUMS = ("coarse_maps", "counts")
    ARRAYS = ("image_score", "level_scores", *SUMS)  # what a file keeps of it, by their names

    def __init__(self, n_maps: int = 0, start: int = 0) -> None:
        self.n_maps = n_maps
        self.start = start
        self._hottest: list[list[tuple[float, int, NDArray[np.float32]]]] = []
        # No arrays: small ones that stay keep the allocator from using the room between them.
        self._scores: list[list[float]] = []
        self._level_scores: list[list[float]] = []
        self._coarse_maps = np.zeros((MAP_CELLS, MAP_CELLS), np.int64)
        self._counts = np.zeros(1 << 16, np.int64)

    def add(
        self,
        anomaly_map: NDArray[np.float32],
        image_score: NDArray[np.float32] | float,
        level_scores: NDArray[np.float32] | None = None,
    ) -> None:
        """Add maps ``(N, H, W)``, NaN where not looked at, and their scores.

        Those are N, or ``(N, heads)``, or a single one. Those by level are ``(N, levels)``; of all
        images or of none.
        """
        scores = np.asarray(image_score, np.float32).reshape(len(anomaly_map), -1)
        if self.n_maps:
            first = self.start + self.count
            places, maps = range(first, first + len(scores)), anomaly_map.copy()
            new = [list(zip(by_head, places, maps, strict=True)) for by_head in scores.T.tolist()]
            self._keep_hottest(new)
        self._scores += scores.tolist()
        if level_scores is not None:
            self._level_scores += level_scores.tolist()
        for one in anomaly_map:
            self._coarse_maps += np.rint(shrink_map(one).astype("f8") * _MAP_STEPS).astype(np.int64)
        seen = anomaly_map[~np.isnan(anomaly_map)]
        patterns = seen.clip(0, 65504).astype(np.float16).view(np.uint16)
        self._counts += np.bincount(patterns, minlength=1 << 16)

    def merge(self, other: "Collector") -> "Collector":
        """What these images and those that come after them give."""
        both = Collector(self.n_maps, self.start)
        both._keep_hottest(self._hottest)
        both._keep_hottest(other._hottest)
        both._scores = [*self._scores, *other._scores]
        both._level_scores = [*self._level_scores, *other._level_scores]
        both._coarse_maps = self._coarse_maps + other._coarse_maps
        both._counts = self._counts + other._counts
        return both

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """What there is to keep in a file, maps left out; the sums are over all images."""
        levels = np.array(self._level_scores, np.float32).reshape(self.count, -1)
        return dict(
            zip(self.ARRAYS, (self.scores(), levels, self._coarse_maps, self._counts), strict=True)
        )

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]], start: int = 0) -> "Collector":
        """What ``to_arrays`` gave, of images of which the first has the place ``start``."""
        found = cls(0, start)
        found._scores = arrays["image_score"].tolist()
        found._level_scores = arrays["level_scores"].tolist() if arrays["level_scores"].size else []
        found._coarse_maps, found._counts = (arrays[name] for name in cls.SUMS)
        return found

    def _keep_hottest(self, new: list[list[tuple[float, int, NDArray[np.float32]]]]) -> None:
        self._hottest = [
            heapq.nlargest(self.n_maps, (*before, *more), itemgetter(0))
            for before, more in zip(self._hottest or [[] for _ in new], new, strict=True)
        ]

    def joined(self, image_score: NDArray[np.float32]) -> "Collector":
        """The same with one score for each image, of those by each head."""
        one = Collector(self.n_maps, self.start)
        one._hottest, one._counts = self._hottest, self._counts
        one._level_scores, one._coarse_maps = self._level_scores, self._coarse_maps
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

    def reference(
        self, camera: Sequence[CameraFacts], mean_image: MeanImage | None
    ) -> Reference | None:
        """What else is kept of them, in the order in which they came; None without level scores.

        ``camera`` is of each, and ``mean_image`` what they are shifted against.
        """
        if len(self._level_scores) != self.count or len(camera) != self.count:
            return None
        levels = np.array(self._level_scores, np.float32)
        mean = np.asarray(self._coarse_maps / (_MAP_STEPS * self.count), np.float32)
        return Reference.of(levels, camera, mean, mean_image)

    def calibration(self, source: str, reference: Reference | None = None) -> Calibration:
        """What follows from them, with what ``reference`` gave."""
        used = np.flatnonzero(self._counts)  # of positive numbers, patterns ascend with values
        values = used.astype(np.uint16).view(np.float16).astype(np.float32)
        scores = self.image_scores()
        if reference is not None:
            # Those of equal scores in an order of their own: the images may come in any.
            columns = np.column_stack((reference.camera, reference.level_scores, scores))
            reference = reference.in_order(np.lexsort(columns.T))
        counts = self._counts[used]
        return Calibration(source, np.sort(scores), values, counts, reference=reference)
