"""Counts of images summed under weights: what the metrics of pixels are computed from."""

from collections.abc import Iterable
from functools import cached_property

import numpy as np

from padim.metrics.bins import Block, Rows, n_block_rows
from padim.metrics.counts import MapCounts
from padim.metrics.curves import Floats, Order, area, over, worth


class Layout:
    """Where the bins in use stand in a table of thresholds, and what does not depend on weights.

    The arrays are of the K bins in use, descending (``bins``), the N images (``normal_px``,
    ``image_px``, ``is_normal``) or the R regions (``region_px``, ``region_image``).
    """

    def __init__(self, counts: MapCounts) -> None:
        self.counts = counts
        in_use = np.zeros(counts.n_levels, np.bool_)
        for rows in (counts.normal, counts.regions, counts.defects):
            for bins in rows.bins:
                in_use[bins] = True
        self.bins = np.flatnonzero(in_use)[::-1]
        self.n_columns = max(self.bins.size, 1)
        self.column = np.zeros(counts.n_levels, np.intp)
        self.column[self.bins] = np.arange(self.bins.size)
        self.normal_px = counts.normal.n_px()
        self.region_px = counts.regions.n_px()
        self.region_image = np.array(counts.region_image, np.intp)
        self.image_px = np.bincount(self.region_image, self.region_px, minlength=counts.count)
        # Whether the false positive rate of an image counts for AUPIMO.
        self.is_normal = ~np.array(counts.is_anomalous, np.bool_) & (self.normal_px > 0)
        self._n_block_rows = n_block_rows(self.n_columns)
        self._kept: dict[Rows, list[Block]] = {}

    @property
    def keeps_blocks(self) -> bool:
        """Whether no rows have to be written out anew for the next resamples."""
        counts = self.counts
        return all(map(self._keeps, (counts.normal, counts.regions, counts.defects)))

    def _keeps(self, rows: Rows) -> bool:
        return len(rows) <= self._n_block_rows

    def blocks(self, rows: Rows) -> Iterable[Block]:
        """Some rows at a time, written out; a single block is kept for the next resamples."""
        if rows in self._kept:
            return self._kept[rows]
        blocks = rows.blocks(self.column, self.n_columns)
        return self._kept.setdefault(rows, list(blocks)) if self._keeps(rows) else blocks

    def sum(self, rows: Rows, weights: Floats, saturation_px: Floats | None = None) -> Floats:
        """Rows times their weights ``(B, rows)``, at each threshold, shape ``(B, K)``.

        If saturations are given, each row is first cut off there, from the highest score down.
        """
        total = np.zeros((len(weights), self.n_columns))
        for chosen, columns, block in self.blocks(rows):
            if saturation_px is not None:
                found = np.minimum(block.cumsum(axis=1), saturation_px[chosen, None])
                total[:, columns] += weights[:, chosen] @ np.diff(found, axis=1, prepend=0)
            else:
                total[:, columns] += weights[:, chosen] @ block
        return total


class Sums:
    """The counts of B resamples with weights ``(B, N)``, and the metrics of pixels that follow."""

    def __init__(self, layout: Layout, weights: Floats) -> None:
        self.layout = layout
        self.weights = weights

    @cached_property
    def fp(self) -> Floats:
        """Normal pixels at or above each threshold, shape ``(B, K)``."""
        return self.layout.sum(self.layout.counts.normal, self.weights).cumsum(axis=1)

    @cached_property
    def tp(self) -> Floats:
        """Anomalous pixels at or above each threshold, shape ``(B, K)``."""
        return self.layout.sum(self.layout.counts.regions, self._of_regions).cumsum(axis=1)

    @cached_property
    def fpr(self) -> Floats:
        """False positive rate of all normal pixels, shape ``(B, K)``."""
        return over(self.fp, self.fp[:, -1:])

    @cached_property
    def shared_fpr(self) -> Floats:
        """Mean of the false positive rates of the normal images, shape ``(B, K)``."""
        layout = self.layout
        weights = self.weights * layout.is_normal
        of_rows = weights / np.maximum(layout.normal_px, 1)
        rates = layout.sum(layout.counts.normal, of_rows).cumsum(axis=1)
        return over(rates, weights.sum(axis=1, keepdims=True))

    @property
    def _of_regions(self) -> Floats:
        return self.weights[:, self.layout.region_image]

    @cached_property
    def _shares(self) -> Floats:
        """What the sum of the shares of regions grows by at each threshold, shape ``(B, K)``."""
        layout = self.layout
        return layout.sum(layout.counts.regions, self._of_regions / layout.region_px)

    def overlap(self) -> Floats:
        """Mean share of a region at or above each threshold, shape ``(B, K)``."""
        return over(self._shares.cumsum(axis=1), self._of_regions.sum(axis=1, keepdims=True))

    def aupro(self, limit: float, order: Order = "tied") -> Floats:
        """Area under the per-region overlap over the false positive rate, up to a limit.

        The overlap is the share of a region that is called anomalous, averaged over the regions of
        the ground truth, which hang together over edges or corners; the rate is that of all normal
        pixels of all images. The curve is interpolated at the limit, the area divided by it.

        Worst and best are apart by the sum over the bins of what the overlap rises there times
        what the rate grows there below the limit, divided by the limit.

        Source:
            Bergmann et al. 2021, The MVTec Anomaly Detection Dataset, section 5.1.
        """
        rise = over(self._shares, self._of_regions.sum(axis=1, keepdims=True))
        return self._under(rise, limit, order)

    def spro(self, limit: float, order: Order = "tied") -> Floats:
        """Area under the saturated per-region overlap over the false positive rate, up to a limit.

        It is that of ``aupro``, of the defects that came with a saturation: the overlap of one is
        min(pixels found / saturation, 1). Where less of a defect is looked at than saturates it,
        all of that does. Worst and best are apart by what this overlap rises.

        Source:
            Bergmann et al. 2022, Beyond Dents and Scratches (MVTec LOCO AD), section 4.
        """
        counts = self.layout.counts
        weights = self.weights[:, np.array(counts.defect_image, np.intp)]
        saturation_px = np.array(counts.saturation_px)
        overlap = self.layout.sum(counts.defects, weights / saturation_px, saturation_px)
        return self._under(over(overlap, weights.sum(axis=1, keepdims=True)), limit, order)

    def aupimo_images(self, limits: tuple[float, float], order: Order = "tied") -> Floats:
        """Share of the anomalous pixels of each image that is found at few false positives.

        Averaged over the logarithm of the shared false positive rate, the mean over the normal
        images of the rate in each. Every score that occurs is a threshold; between two, the share
        is interpolated. Below the least rate above 0 that occurs, it is that at a rate of 0.

        Worst and best are apart by the sum over the bins of what the share rises there times what
        the logarithm of the rate grows there between the limits, divided by that of their ratio.

        Returns:
            Shape ``(B, N)``; NaN for an image without anomalous pixels.

        Source:
            Bertoldo et al. 2024, AUPIMO, equations 3 to 5.
        """
        layout = self.layout
        worths = worth(self.shared_fpr, limits, log=True, order=order)
        found = np.zeros((layout.counts.count, len(self.weights)))
        for chosen, columns, block in layout.blocks(layout.counts.regions):
            np.add.at(found, layout.region_image[chosen], block @ worths[:, columns].T)
        return over(found.T, layout.image_px).clip(0, 1)

    def aupimo(self, limits: tuple[float, float], order: Order = "tied") -> Floats:
        """Mean over the anomalous images of ``aupimo_images``."""
        weights = self.weights * (self.layout.image_px > 0)
        per_image = self.aupimo_images(limits, order)
        whole = np.where(self.layout.image_px > 0, per_image, 0)
        return over((weights * whole).sum(axis=1), weights.sum(axis=1))

    def _under(self, rise: Floats, limit: float, order: Order) -> Floats:
        """Area under a curve over the false positive rate up to a limit."""
        return area(rise, worth(self.fpr, (0.0, limit), order=order))
