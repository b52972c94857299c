"""Metrics of anomaly maps, from counts of their pixels, resampled or not."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike

from padim.metrics.bins import scores_of
from padim.metrics.counts import MapCounts
from padim.metrics.curves import Floats, Order
from padim.metrics.resamples import in_chunks
from padim.metrics.sums import Layout, Sums

__all__ = ["AUPIMO_FPR", "PixelMetrics"]

AUPIMO_FPR = (1e-5, 1e-4)  # Bertoldo et al. 2024

_Metric = Callable[[Sums], Floats]


class PixelMetrics:
    """Metrics of maps whose pixels were counted.

    Each takes

    - ``weights``: how often each image is there, shape ``(N,)`` or ``(B, N)``, such as
      ``bootstrap_weights`` gives; None for once;
    - ``order``: how scores of one bin are ranked. ``tied`` gives the metric of the rounded scores;
      ``worst`` and ``best`` give the limits between which that of the scores themselves lies. How
      far they are apart depends on which pixels share a bin, as each metric says.

    and gives one number, shape ``()``, or ``(B,)`` where the weights have two axes; NaN where it
    cannot be had. A normal pixel is one outside the ground truth, whatever image it is of. No
    metric looks at a pixel whose score is NaN.

    Args:
        counts: Of N images; they must not change any more.

    Example:
        >>> maps = np.array([[[0.5, 1.0, 2.0]], [[0.5, 3.0, 4.0]]], np.float32)
        >>> masks = [None, np.array([[False, True, True]])]
        >>> padim.PixelMetrics(padim.MapCounts.exact(maps, masks)).metrics()["pixel_auroc"]
        1.0
    """

    def __init__(self, counts: MapCounts) -> None:
        self.counts = counts
        self._layout = Layout(counts)

    def metrics(self) -> dict[str, float | None]:
        """Every metric of the images as they are, by name; None where it cannot be had.

        Of defects with a saturation there is ``spro_05`` only where there are such.
        """
        values = {name: float(value) for name, value in self.resampled(None).items()}
        return {name: None if np.isnan(value) else value for name, value in values.items()}

    def resampled(self, weights: ArrayLike | None, order: Order = "tied") -> dict[str, Floats]:
        """Every metric by name, at a fraction of the time that one by one takes."""
        metrics: dict[str, _Metric] = {
            "pixel_auroc": lambda s: s.auroc(order),
            "pixel_average_precision": lambda s: s.average_precision(order),
            "pixel_f1_max": lambda s: s.f1(order).max(axis=-1),
            "aupro_30": lambda s: s.aupro(0.3, order),
            "aupro_05": lambda s: s.aupro(0.05, order),
            "aupimo": lambda s: s.aupimo(AUPIMO_FPR, order),
        }
        if len(self.counts.defects):
            metrics["spro_05"] = lambda s: s.spro(0.05, order)
        return self._each(weights, metrics)

    def bounds(self) -> dict[str, tuple[float, float] | None]:
        """Between what every metric of the scores lies, whatever rounding did to them.

        Returns:
            By name, the lowest and the highest; equal but for ties where nothing was rounded. None
            where the metric cannot be had.
        """
        low, high = (self.resampled(None, order) for order in ("worst", "best"))
        pairs = {name: (float(value), float(high[name])) for name, value in low.items()}
        return {name: None if np.isnan(pair[0]) else pair for name, pair in pairs.items()}

    def auroc(self, weights: ArrayLike | None = None, order: Order = "tied") -> Floats:
        """Chance that an anomalous pixel scores above a normal one, ties counting half.

        Worst and best lie half the chance that two such pixels share a bin to either side.

        Source:
            Hanley and McNeil 1982; Fawcett 2006, An introduction to ROC analysis.
        """
        return self._one(weights, lambda sums: sums.auroc(order))

    def average_precision(self, weights: ArrayLike | None = None, order: Order = "tied") -> Floats:
        """Sum over the thresholds of precision times gain in recall, without interpolation.

        Worst and best are apart by the sum over the bins of the recall gained there times what
        precision can lose: from all anomalous pixels of the bin and none of its normal ones to
        none and all.

        Source:
            ``sklearn.metrics.average_precision_score``; Davis and Goadrich 2006 on why nothing is
            interpolated.
        """
        return self._one(weights, lambda sums: sums.average_precision(order))

    def f1_max(self, weights: ArrayLike | None = None, order: Order = "tied") -> Floats:
        """Best harmonic mean of precision and recall that any one threshold reaches.

        An oracle: the threshold is chosen with the ground truth at hand, in every resample anew.

        The worst is the tied one: where a bin ends, the scores have a threshold, too. The best
        leaves out the normal pixels of the bin that it stops in. It is higher by n / (m + a) of
        some bin at most, n being its normal pixels, m all pixels in it and above, a all anomalous
        ones.

        Source:
            van Rijsbergen 1979, Information Retrieval, chapter 7: 1 - E, precision and recall
            weighted alike.
        """
        return self._one(weights, lambda sums: sums.f1(order).max(axis=-1))

    def f1_threshold(self, weights: ArrayLike | None = None) -> Floats:
        """The threshold of ``f1_max``, the highest of equally good ones.

        The score of a bin, to which up to a 2048th was rounded up or down: what scores at or above
        it, rounded, is called anomalous.
        """
        best = self._one(weights, lambda sums: sums.f1("tied").argmax(axis=-1))
        scores = np.append(scores_of(self._layout.bins, self.counts.levels), np.nan)
        return np.where(np.isnan(self.f1_max(weights)), np.nan, scores[best.astype(np.intp)])

    def aupro(
        self, limit: float = 0.3, weights: ArrayLike | None = None, order: Order = "tied"
    ) -> Floats:
        """Area under the per-region overlap over the false positive rate, up to a limit.

        The overlap is the share of a region that is called anomalous, averaged over the regions of
        the ground truth, which hang together over edges or corners; the rate is that of all normal
        pixels of all images. The curve is interpolated at the limit, the area divided by it.

        Worst and best are apart by the sum over the bins of what the overlap rises there times
        what the rate grows there below the limit, divided by the limit.

        Args:
            limit: Of the false positive rate.
            weights: As of the class.
            order: As of the class.

        Source:
            Bergmann et al. 2021, The MVTec Anomaly Detection Dataset, section 5.1.
        """
        return self._one(weights, lambda sums: sums.aupro(limit, order))

    def spro(
        self, limit: float = 0.05, weights: ArrayLike | None = None, order: Order = "tied"
    ) -> Floats:
        """Area under the saturated per-region overlap over the false positive rate.

        As ``aupro``, of the defects that came with a saturation: the overlap of one is
        min(pixels found / saturation, 1). Where less of a defect is looked at than saturates it,
        all of that does.

        Worst and best are apart as those of ``aupro``, by what this overlap rises.

        Args:
            limit: Of the false positive rate.
            weights: As of the class.
            order: As of the class.

        Source:
            Bergmann et al. 2022, Beyond Dents and Scratches (MVTec LOCO AD), section 4.
        """
        return self._one(weights, lambda sums: sums.spro(limit, order))

    def aupimo(
        self,
        limits: tuple[float, float] = AUPIMO_FPR,
        weights: ArrayLike | None = None,
        order: Order = "tied",
    ) -> Floats:
        """Mean over the anomalous images of ``aupimo_images``.

        Worst and best are the means of theirs.

        Source:
            Bertoldo et al. 2024, AUPIMO, equations 3 to 5.
        """
        return self._one(weights, lambda sums: sums.aupimo(limits, order))

    def aupimo_images(
        self,
        limits: tuple[float, float] = AUPIMO_FPR,
        weights: ArrayLike | None = None,
        order: Order = "tied",
    ) -> Floats:
        """Share of the anomalous pixels of each image that is found at few false positives.

        Averaged over the logarithm of the shared false positive rate, the mean over the normal
        images of the rate in each. Every score that occurs is a threshold; between two, the share
        is interpolated. Below the least rate above 0 that occurs, it is that at a rate of 0.

        Worst and best are apart by the sum over the bins of what the share rises there times what
        the logarithm of the rate grows there between the limits, divided by that of their ratio.

        Args:
            limits: Of the shared rate.
            weights: As of the class; they change the shared rate.
            order: As of the class.

        Returns:
            Shape ``(N,)`` or ``(B, N)``; NaN for an image without anomalous pixels.

        Source:
            Bertoldo et al. 2024, AUPIMO, equations 3 to 5.
        """
        return self._one(weights, lambda sums: sums.aupimo_images(limits, order))

    def curves(self, n_points: int = 500) -> dict[str, tuple[Floats, Floats]]:
        """Points of the ROC curve and of the per-region overlap, to be drawn.

        Args:
            n_points: How many points a curve has at most.

        Returns:
            ``pixel`` and ``pro``: false positive rate, and true positive rate or overlap, each
            rising from 0 to 1; empty where a class is missing.
        """
        layout = self._layout
        sums = Sums(layout, np.ones((1, self.counts.count)))
        nothing = np.empty(0), np.empty(0)
        if not layout.normal_px.sum() or not layout.region_px.sum():
            return {"pixel": nothing, "pro": nothing}
        chosen = np.unique(np.linspace(0, layout.n_columns - 1, n_points - 1).astype(np.intp))
        rates = {"pixel": sums.tp / sums.tp[:, -1:], "pro": sums.overlap}
        fpr = np.append(0, sums.fpr[0, chosen])
        return {name: (fpr, np.append(0, rate[0, chosen])) for name, rate in rates.items()}

    def _one(self, weights: ArrayLike | None, metric: _Metric) -> Floats:
        return self._each(weights, {"": metric})[""]

    def _each(self, weights: ArrayLike | None, metrics: Mapping[str, _Metric]) -> dict[str, Floats]:
        layout, counts = self._layout, self.counts
        n_columns = max(layout.n_columns, counts.count, len(counts.regions))
        return in_chunks(
            weights, counts.count, n_columns, metrics, lambda chosen: Sums(layout, chosen)
        )
