"""What a model says of an image, and where normal ends."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from padim.errors import UsageError
from padim.images.preprocess import Preprocess
from padim.images.regions import Region, peak_region, regions_above
from padim.scoring.calibration import DEFAULT_PIXEL_RATE, DEFAULT_RATE, Calibration, Threshold

NOT_CALIBRATED = (
    "The model has no threshold. Fit it anew, on two images at least and without --no-calibrate, "
    "or run padim calibrate on good images."
)


@dataclass(frozen=True)
class Decision:
    """Where normal ends, at the false-alarm rates that the user chose.

    Attributes:
        calibration: How good images score.
        threshold: Of the image score.
        pixel_threshold: Of the anomaly map.
    """

    calibration: Calibration
    threshold: Threshold
    pixel_threshold: float


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    Attributes:
        path: Where the image came from; None for one given as pixels.
        score: The image score, in standard deviations of normal patches; higher is more anomalous.
        anomaly_map: The same for each pixel at network size, shape ``(H, W)``, float32; NaN
            outside the region of interest.
        level_scores: What each level of the network adds, coarse to fine: which was surprised.
        source_px: (height, width) of the source image.
        preprocess: The way from the source image to the map.
        picture: The source image of a file, when it was to be kept.
        decision: Where normal ends; None when the model is not calibrated.
    """

    path: Path | None
    score: float
    anomaly_map: NDArray[np.float32]
    level_scores: tuple[float, ...]
    source_px: tuple[int, int]
    preprocess: Preprocess
    picture: Image.Image | None = None
    decision: Decision | None = None

    @property
    def label(self) -> str | None:
        """``normal`` or ``anomalous``; None when the model is not calibrated."""
        if self.decision is None:
            return None
        return "anomalous" if self.score > self.decision.threshold.score else "normal"

    @property
    def p_value(self) -> float | None:
        """Share of good images that score at least as high; None when it is not calibrated."""
        return None if self.decision is None else self.decision.calibration.p_value(self.score)

    def source_map(self) -> NDArray[np.float32]:
        """The anomaly map in source pixels.

        Returns:
            Shape ``source_px``; NaN outside a centre crop or the region of interest.
        """
        return self.preprocess.to_source(self.anomaly_map, self.source_px)

    def region(self) -> Region:
        """Where the image is most anomalous: the hottest 1% of the map around its peak.

        Returns:
            That part in source pixels.
        """
        window = self.preprocess.window(self.source_px)
        return peak_region(self.anomaly_map)[0].in_source(self.preprocess.size_px, window)

    def defects(self, min_region_px: float = 1) -> tuple[list[Region], NDArray[np.bool_]]:
        """Where the map lies above what pixels of good images exceed at the rate decided on.

        Args:
            min_region_px: Source pixels of a region; smaller ones are left out.

        Returns:
            The regions in source pixels, the highest peak first, and ``predicted_mask``, their
            pixels at network size, shape ``(H, W)``.

        Raises:
            UsageError: The model is not calibrated.
        """
        if self.decision is None:
            raise UsageError(NOT_CALIBRATED)
        size_px, window = self.preprocess.size_px, self.preprocess.window(self.source_px)
        source_px_per_px = window[2] * window[3] / (size_px[0] * size_px[1])
        found, predicted_mask = regions_above(
            self.anomaly_map, self.decision.pixel_threshold, min_region_px / source_px_per_px
        )
        return [region.in_source(size_px, window) for region in found], predicted_mask


def decide(
    calibration: Calibration, rate: float | None = None, pixel_rate: float | None = None
) -> Decision:
    """Set the thresholds.

    Args:
        calibration: How good images score.
        rate: As for ``Predictor.at``.
        pixel_rate: As for ``Predictor.at``.

    Raises:
        UsageError: A rate is out of range.
    """
    if rate is None and calibration.chosen is not None:
        threshold = calibration.chosen
    else:
        threshold = calibration.threshold(DEFAULT_RATE if rate is None else rate)
    pixel_rate = DEFAULT_PIXEL_RATE if pixel_rate is None else pixel_rate
    return Decision(calibration, threshold, calibration.pixel_threshold(pixel_rate))
