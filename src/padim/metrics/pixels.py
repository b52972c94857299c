"""Metrics of anomaly maps, from counts of their pixels, resampled or not."""

from collections.abc import Callable
from typing import get_args

import numpy as np
from numpy.typing import ArrayLike

from padim.errors import UnknownNameError, UsageError
from padim.metrics.bins import scores_of
from padim.metrics.counts import MapCounts
from padim.metrics.curves import Floats, Order, f1
from padim.metrics.resamples import LARGE_BYTES, SMALL_BYTES, in_chunks
from padim.metrics.sums import Layout, Sums
from padim.metrics.table import OF_PIXELS


class PixelMetrics:
    """Metrics of maps whose pixels were counted.

    Its methods take

    - ``weights``: how often each image is there, shape ``(N,)`` or ``(B, N)``, such as
      ``bootstrap_weights`` gives; None for once;
    - ``order``: how scores of one bin are ranked. ``tied`` gives the metric of the rounded scores;
      ``worst`` and ``best`` give the limits between which that of the scores themselves lies. How
      far they are apart depends on which pixels share a bin, as each metric of ``Sums`` says.

    and give one number, shape ``()``, or ``(B,)`` where the weights have two axes; NaN where it
    cannot be had. A normal pixel is one outside the ground truth, whatever image it is of. No
    metric looks at a pixel whose score is NaN.

    Args:
        counts: Of N images; they must not change any more.

    Examples:
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
        has_saturation = len(self.counts.defects) > 0
        rows = [row for row in OF_PIXELS if has_saturation or not row.needs_saturation]
        return self._each(
            weights, order, lambda sums: {row.name: row.measure(sums, order) for row in rows}
        )

    def bounds(self) -> dict[str, tuple[float, float] | None]:
        """Between what every metric of the scores lies, whatever rounding did to them.

        Returns:
            By name, the lowest and the highest; equal but for ties where nothing was rounded. None
            where the metric cannot be had.
        """
        low, high = (self.resampled(None, order) for order in ("worst", "best"))
        pairs = {name: (float(value), float(high[name])) for name, value in low.items()}
        return {name: None if np.isnan(pair[0]) else pair for name, pair in pairs.items()}

    def measure(
        self,
        metric: Callable[[Sums, Order], Floats],
        weights: ArrayLike | None = None,
        order: Order = "tied",
    ) -> Floats:
        """One metric, also with limits that are not in the table.

        Args:
            metric: Such as ``lambda sums, order: sums.aupro(0.1, order)``.
            weights: How often each image is there, shape ``(N,)`` or ``(B, N)``; None for once.
            order: How scores of one bin are ranked.
        """
        return self._each(weights, order, lambda sums: {"": metric(sums, order)})[""]

    def f1_threshold(self) -> float:
        """The threshold of F1-max, of equally good ones the highest; NaN where there is none.

        The score of a bin, to which up to a 2048th was rounded up or down: what scores at or above
        it, rounded, is called anomalous.
        """
        found = self.measure(lambda sums, order: f1(sums.tp, sums.fp))
        if np.isnan(found).any():
            return np.nan
        return float(scores_of(self._layout.bins[[found.argmax()]], self.counts.levels)[0])

    def curves(self, n_points: int = 500) -> dict[str, tuple[Floats, Floats]]:
        """Points of the ROC curve and of the per-region overlap, to be drawn.

        Args:
            n_points: How many points a curve has at most, 2 or more.

        Returns:
            ``pixel`` and ``pro``: false positive rate, and true positive rate or overlap, each
            rising from 0 to 1; empty where a class is missing.

        Raises:
            UsageError: Of so few points there is no curve.
        """
        if n_points < 2:
            raise UsageError(f"A curve has 2 points at least, but {n_points} are asked for.")
        layout = self._layout
        sums = Sums(layout, np.ones((1, self.counts.count)))
        nothing = np.empty(0), np.empty(0)
        if not layout.normal_px.sum() or not layout.region_px.sum():
            return {"pixel": nothing, "pro": nothing}
        chosen = np.unique(np.linspace(0, layout.n_columns - 1, n_points - 1).astype(np.intp))
        rates = {"pixel": sums.tp / sums.tp[:, -1:], "pro": sums.overlap()}
        fpr = np.append(0, sums.fpr[0, chosen])
        return {name: (fpr, np.append(0, rate[0, chosen])) for name, rate in rates.items()}

    def _each(
        self,
        weights: ArrayLike | None,
        order: Order,
        metrics: Callable[[Sums], dict[str, Floats]],
    ) -> dict[str, Floats]:
        if order not in get_args(Order):
            raise UnknownNameError("order", order, get_args(Order))
        layout, counts = self._layout, self.counts
        n_columns = max(layout.n_columns, counts.count, len(counts.regions))
        return in_chunks(
            weights,
            counts.count,
            n_columns,
            lambda chosen: metrics(Sums(layout, chosen)),
            SMALL_BYTES if layout.keeps_blocks else LARGE_BYTES,
        )
