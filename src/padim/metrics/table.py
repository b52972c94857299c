"""Every metric, a row for each: whatever measures, writes or shows one reads it here."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from padim.metrics.curves import Floats, Order, average_precision, f1_max, recall, roc_area
from padim.metrics.sums import Sums

AUPIMO_FPR = (1e-5, 1e-4)  # Bertoldo et al. 2024
_ROC = "Hanley and McNeil 1982, The meaning and use of the area under a ROC curve"
_F1 = "van Rijsbergen 1979, Information Retrieval, chapter 7"
_PRECISION = "sklearn.metrics.average_precision_score"
_RECALL = "Fawcett 2006, An introduction to ROC analysis"
_AUPRO = "Bergmann et al. 2021, The MVTec Anomaly Detection Dataset, section 5.1"
_AUPIMO = "Bertoldo et al. 2024, AUPIMO, equations 3 to 5"
_SPRO = "Bergmann et al. 2022, Beyond Dents and Scratches (MVTec LOCO AD), section 4"


@dataclass(frozen=True)
class Metric:
    """What is known of any metric."""

    is_of_pixels: ClassVar[bool]  # whether it is one of maps, else of image scores
    name: str  # in files and on the command line
    title: str  # for people
    source: str  # who defined it
    # Whether the test labels choose its threshold: an upper bound and no promise.
    is_oracle: bool = field(default=False, kw_only=True)

    @property
    def label(self) -> str:
        """The name, with what has to be said of an oracle."""
        return f"{self.name} (oracle)" if self.is_oracle else self.name

    @property
    def heading(self) -> str:
        """The title, likewise."""
        return f"{self.title} (oracle)" if self.is_oracle else self.title


@dataclass(frozen=True)
class ImageMetric(Metric):
    """A metric of image scores."""

    is_of_pixels = False
    # From how many anomalous and normal images score at or above each threshold, (B, K), to (B,).
    measure: Callable[[Floats, Floats], Floats]
    # Whether resampling draws the anomalous images alone. It does where all hangs on single normal
    # images, which resampling can only take away.
    keeps_normal: bool = False


@dataclass(frozen=True)
class PixelMetric(Metric):
    """A metric of maps."""

    is_of_pixels = True
    measure: Callable[[Sums, Order], Floats]  # of B resamples, to (B,)
    needs_saturation: bool = False  # it is left out where no defect comes with one


def _of_all(curve: Callable[[Floats, Floats, Order], Floats]) -> Callable[[Sums, Order], Floats]:
    """A metric of all pixels alike, whatever image or region they are of."""
    return lambda sums, order: curve(sums.tp, sums.fp, order)


_ROWS: tuple[ImageMetric | PixelMetric, ...] = (
    ImageMetric("image_auroc", "Image AUROC", _ROC, roc_area),
    PixelMetric("pixel_auroc", "Pixel AUROC", _ROC, _of_all(roc_area)),
    ImageMetric("image_f1_max", "Image F1-max", _F1, f1_max, is_oracle=True),
    PixelMetric("pixel_f1_max", "Pixel F1-max", _F1, _of_all(f1_max), is_oracle=True),
    ImageMetric(
        "image_average_precision", "Image average precision", _PRECISION, average_precision
    ),
    *(
        ImageMetric(
            f"image_recall_at_{n_alarms}",
            f"Image recall, {words}",
            _RECALL,
            partial(recall, n_false_alarms=n_alarms),
            keeps_normal=True,
            is_oracle=True,
        )
        for n_alarms, words in enumerate(("no false alarm", "one false alarm"))
    ),
    PixelMetric(
        "pixel_average_precision", "Pixel average precision", _PRECISION, _of_all(average_precision)
    ),
    PixelMetric(
        "aupro_30", "AUPRO, to FPR 0.3", _AUPRO, lambda sums, order: sums.aupro(0.3, order)
    ),
    PixelMetric(
        "aupro_05", "AUPRO, to FPR 0.05", _AUPRO, lambda sums, order: sums.aupro(0.05, order)
    ),
    PixelMetric(
        "aupimo",
        "AUPIMO, FPR 1e-5 to 1e-4",
        _AUPIMO,
        lambda sums, order: sums.aupimo(AUPIMO_FPR, order),
    ),
    PixelMetric(
        "spro_05",
        "AUC of sPRO, to FPR 0.05",
        _SPRO,
        lambda sums, order: sums.spro(0.05, order),
        needs_saturation=True,
    ),
)
METRICS = {row.name: row for row in _ROWS}
OF_IMAGES = tuple(row for row in _ROWS if isinstance(row, ImageMetric))
OF_PIXELS = tuple(row for row in _ROWS if isinstance(row, PixelMetric))
HEADLINES = ("image_auroc", "pixel_auroc", "aupro_30")  # where there is room for a few


def format_metric(metric: float | None) -> str:
    """Write a metric with three digits, or ``n/a`` where it cannot be had."""
    return "n/a" if metric is None else f"{metric:.3f}"


def format_interval(ends: tuple[float, float] | None) -> str:
    """Write the interval that follows a metric; nothing where there is none."""
    return "" if ends is None else " [{:.3f}, {:.3f}]".format(*ends)
