"""What a model says of an image, and where normal ends."""

import base64
import html
import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
from msgspec import convert
from numpy.typing import NDArray
from PIL import Image

from padim.documents import Finite, Fraction
from padim.errors import ImageReadError, UsageError
from padim.images.ahead import ImageInput, open_image
from padim.images.camera import CameraFacts
from padim.images.heatmap import overlay, save_picture
from padim.images.preprocess import Preprocess
from padim.images.regions import Region, peak_region, regions_above
from padim.places import find_place
from padim.scoring.calibration import DEFAULT_PIXEL_RATE, DEFAULT_RATE, Calibration, Threshold
from padim.scoring.reference import shrink_map

NOT_CALIBRATED = (
    "The model has no threshold. Fit it anew, on two images at least and without --no-calibrate, "
    "or run padim calibrate on good images."
)
_SHOWN_PX = 384  # of the longer side of a picture in a notebook


STALE = (
    "The threshold is stale: the model has changed since it was set. Set it by good images that "
    "are not in the model, with padim calibrate."
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
class Origin:
    """What a prediction came of, so that it can be traced."""

    image_sha256: str  # as content_sha256 has it
    model_sha256: str | None  # of the file it was opened from, as it was read; None if of none
    padim: str  # version of this package
    engine: str  # who computed, with its version


@dataclass(frozen=True)
class _RowFacts:
    """What a row says, beside its hottest region and its origin."""

    path: str | None
    score: Finite
    label: Literal["normal", "anomalous"] | None
    p_value: Fraction | None
    regions: tuple[Region, ...]
    level_scores: tuple[Finite, ...] = ()
    camera: CameraFacts | None = None
    coarse_map: tuple[tuple[Finite, ...], ...] = ()


@dataclass(frozen=True)
class PredictionRecord:
    """A prediction in words and numbers: what is written of it, and what a server answers.

    The fields are those of `Prediction`; regions are in source pixels.
    """

    path: str | None
    score: float
    label: str | None
    p_value: float | None
    hottest: Region  # where the image is most anomalous
    regions: tuple[Region, ...]  # above the threshold of maps, the highest peak first
    decision: Decision | None
    origin: Origin | None
    # What a drift alarm looks at; absent in rows of older releases
    level_scores: tuple[float, ...] = ()
    camera: CameraFacts | None = None  # None of a graph that resizes its images itself
    coarse_map: tuple[tuple[float, ...], ...] = ()  # the mean of the map in 8 x 8 cells

    def to_dict(self) -> dict[str, object]:
        """As a line of JSON has it: all on one level, the regions as a list."""
        decision = self.decision
        return {
            "path": self.path,
            "score": self.score,
            "label": self.label,
            "p_value": self.p_value,
            **asdict(self.hottest),
            "regions": [asdict(region) for region in self.regions],
            "level_scores": list(self.level_scores),
            "camera": None if self.camera is None else asdict(self.camera),
            "coarse_map": [list(row) for row in self.coarse_map],
            "threshold": decision.threshold.score if decision else None,
            "false_alarm_rate": decision.threshold.rate if decision else None,
            "pixel_threshold": decision.pixel_threshold if decision else None,
            **{one.name: getattr(self.origin, one.name, None) for one in fields(Origin)},
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any], decision: Decision | None) -> "PredictionRecord":
        """What ``to_dict`` made, by the same thresholds; of other data a Value- or LookupError."""
        facts, hottest = convert(row, _RowFacts), convert(row, Region)
        origin = None if row["image_sha256"] is None else convert(row, Origin)
        return cls(**vars(facts), hottest=hottest, decision=decision, origin=origin)


@dataclass(frozen=True, repr=False)
class Prediction:
    """What a model says of one image.

    Attributes:
        image: As it was given. Pictures are drawn of it, so a frame must not be written over.
        score: The image score, in standard deviations of normal patches; higher is more anomalous.
        anomaly_map: The same for each pixel at network size, shape ``(H, W)``, float32; NaN
            outside the region of interest.
        level_scores: What each level of the network adds, coarse to fine: which was surprised; and
            what a coarse head says, where there is one.
        source_px: (height, width) of the source image.
        preprocess: The way from the source image to the map.
        picture: What was read of a file, when it was to be kept.
        decision: Where normal ends; None when the model is not calibrated.
        origin: What it came of; None when nobody asked for it.
        differences: How the image differs in depth, colour or brightness from those of the fit, in
            words; values above white are among them.
        camera: What its light, contrast, focus and place are; None of a graph that resizes its
            images itself.

    Examples:
        >>> prediction = padim.load("part.safetensors").predict("part/test/spot/0.png")
        >>> prediction.label
        'anomalous'
        >>> prediction.anomaly_map.shape
        (64, 64)
        >>> defects, predicted_mask = prediction.defects(min_region_px=4)
        >>> defects[0].peak > prediction.decision.pixel_threshold
        True
        >>> prediction.save("spot.jpg")
    """

    image: ImageInput
    score: float
    anomaly_map: NDArray[np.float32]
    level_scores: tuple[float, ...]
    source_px: tuple[int, int]
    preprocess: Preprocess
    picture: Image.Image | None = None
    decision: Decision | None = None
    origin: Origin | None = None
    differences: tuple[str, ...] = ()
    camera: CameraFacts | None = None

    @property
    def path(self) -> Path | None:
        """Where the image came from; None for one given otherwise."""
        return find_place(self.image) if isinstance(self.image, str | Path) else None

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
        """The anomaly map, shape ``source_px``; NaN outside a centre crop or region of interest."""
        return self.preprocess.to_source(self.anomaly_map, self.source_px)

    def region(self) -> Region:
        """Where the image is most anomalous: the hottest 1% of the map around its peak."""
        return self._in_source(peak_region(self.anomaly_map)[0])

    def defects(self, min_region_px: float = 1) -> tuple[list[Region], NDArray[np.bool_]]:
        """Where the map lies above what pixels of good images exceed at the rate decided on.

        Args:
            min_region_px: Source pixels of a region; smaller ones are left out.

        Returns:
            The regions in source pixels, the highest peak first, and ``predicted_mask``, true in
            the same regions but at network size, as ``anomaly_map``, shape ``(H, W)``.

        Raises:
            UsageError: The model is not calibrated.
        """
        if self.decision is None:
            raise UsageError(NOT_CALIBRATED)
        is_number = isinstance(min_region_px, Real)
        if not is_number or not min_region_px >= 0:
            raise UsageError(
                f"min_region_px is {min_region_px!r}, but needs to be a number of pixels, 0 or "
                "more. Try 1."
            )
        size_px, window = self.preprocess.size_px, self._window
        source_px_per_px = window[2] * window[3] / (size_px[0] * size_px[1])
        found, predicted_mask = regions_above(
            self.anomaly_map, self.decision.pixel_threshold, min_region_px / source_px_per_px
        )
        return [self._in_source(region) for region in found], predicted_mask

    def outlined(self, min_region_px: float = 1) -> tuple[list[Region], NDArray[np.bool_]]:
        """What a picture outlines: as ``defects``, or the hottest part of a model without any.

        Args:
            min_region_px: Source pixels of a region; smaller ones are left out.

        Returns:
            As of ``defects``: regions in source pixels, a mask at network size.
        """
        if self.decision is None:
            return [], peak_region(self.anomaly_map)[1]
        return self.defects(min_region_px)

    def record(self, regions: Iterable[Region]) -> PredictionRecord:
        """What is written of it, with the regions that were found."""
        return PredictionRecord(
            None if self.path is None else str(self.path),
            self.score,
            self.label,
            self.p_value,
            self.region(),
            tuple(regions),
            self.decision,
            self.origin,
            self.level_scores,
            self.camera,
            tuple(tuple(float(f"{value:.4g}") for value in row) for row in self.coarse_map()),
        )

    def coarse_map(self) -> NDArray[np.float32]:
        """The mean of the map in 8 x 8 cells, 0 where it does not look."""
        return shrink_map(self.anomaly_map)

    def to_dict(self, min_region_px: float = 1) -> dict[str, object]:
        """All but the map as plain data, for JSON.

        Args:
            min_region_px: Source pixels of a region; smaller ones are left out.
        """
        return self.record(self.outlined(min_region_px)[0]).to_dict()

    def draw(self, outlined: NDArray[np.bool_] | None = None) -> Image.Image:
        """Lay the map over the image.

        Args:
            outlined: Pixels to outline, shape ``(H, W)``; those of ``outlined`` when None.

        Raises:
            ImageReadError: The image is a file that cannot be read any more.
        """
        shown = self.outlined()[1] if outlined is None else outlined
        return overlay(self._open(), self.anomaly_map, shown, self._window)

    def save(self, path: str | Path) -> None:
        """Write what ``draw`` gives.

        Args:
            path: An image file, by its suffix a ``.jpg`` or ``.png``, say.

        Raises:
            UsageError: The suffix is that of no image.
            ImageReadError: The image is a file that cannot be read any more.
        """
        save_picture(self.draw(), Path(path))

    def show(self) -> None:
        """Open what ``save`` writes in this machine's viewer; a notebook shows it by itself."""
        self.draw().show()

    def __repr__(self) -> str:
        return f"Prediction({self.path or 'an image'}: {self._verdict()})"

    def _repr_html_(self) -> str:
        """The image, its map and the verdict, in one piece."""
        words = html.escape(f"{self.path.name if self.path else 'image'}: {self._verdict()}")
        try:
            pictures = "".join(_img(picture) for picture in (self._open(), self.draw()))
        except ImageReadError as error:
            pictures = html.escape(str(error))
        return f"<figure>{pictures}<figcaption>{words}</figcaption></figure>"

    def _verdict(self) -> str:
        height, width = self.source_px
        score = f"score {self.score:.4g}, {height}x{width} px"
        if self.decision is None:
            return f"{score}, the model has no threshold"
        return (
            f"{self.label}, {score}, threshold {self.decision.threshold.score:.4g}, "
            f"p {self.p_value:.2g}"
        )

    def _open(self) -> Image.Image:
        opened = self.picture or open_image(self.image, self.preprocess.reading)[0]
        return opened if isinstance(opened, Image.Image) else Image.fromarray(opened)

    @property
    def _window(self) -> tuple[int, int, int, int]:
        return self.preprocess.window(self.source_px)

    def _in_source(self, region: Region) -> Region:
        return region.in_source(self.preprocess.size_px, self._window)


def decide(
    calibration: Calibration, rate: float | None = None, pixel_rate: float | None = None
) -> Decision:
    """Set the thresholds.

    Args:
        calibration: How good images score.
        rate: Good images that may be called anomalous; when None, the threshold that known defects
            were used for if there is one, else 0.01.
        pixel_rate: Pixels of good images that may be, likewise; 0.001 when None.

    Raises:
        UsageError: A rate is out of range.
    """
    if rate is None and calibration.chosen is not None:
        threshold = calibration.chosen
    else:
        threshold = calibration.threshold(DEFAULT_RATE if rate is None else rate)
    if calibration.stale:
        threshold = replace(threshold, warning=f"{STALE} {threshold.warning}".rstrip())
    pixel_rate = DEFAULT_PIXEL_RATE if pixel_rate is None else pixel_rate
    return Decision(calibration, threshold, calibration.pixel_threshold(pixel_rate))


def _img(picture: Image.Image) -> str:
    """A small picture with all its bytes, for HTML."""
    small, buffer = picture.convert("RGB"), io.BytesIO()
    small.thumbnail((_SHOWN_PX, _SHOWN_PX))
    small.save(buffer, "JPEG", quality=90)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="" src="data:image/jpeg;base64,{data}">'
