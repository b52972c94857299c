"""Images of any kind in, predictions out, whatever engine scores them; without torch."""

from collections.abc import Callable, Iterable, Iterator
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from padim.errors import ImageReadError, ShapeError, UsageError
from padim.images.ahead import ImageInput, batched, load_ahead
from padim.images.preprocess import Preprocess
from padim.scoring.calibration import Calibration
from padim.scoring.prediction import NOT_CALIBRATED, Decision, Prediction, decide


class Outputs(NamedTuple):
    """What an engine says of a batch of N images.

    Attributes:
        anomaly_map: Standard deviations of normal patches, shape ``(N, H, W)``, float32.
        image_score: Mean of the hottest pixels of the map, shape ``(N,)``.
        level_scores: The same of what each level adds, coarse to fine, shape ``(N, levels)``.
    """

    anomaly_map: NDArray[np.float32]
    image_score: NDArray[np.float32]
    level_scores: NDArray[np.float32]


Score = Callable[[NDArray[np.uint8]], Outputs]


class Predictor:
    """A fitted model, ready to score.

    Safe to share between threads: predicting changes nothing.

    Args:
        score: Runs a batch of images of network size, or of the camera's size when there is one.
        preprocess: The way from an image to the network.
        n_batch: Images in one call.
        engine: Name of what computes.
        description: What the model says of itself, as plain data.
        camera_px: (height, width) of the only images it takes, when its graph resizes them itself.
        calibration: How good images score, if that is known.

    Attributes:
        decision: Where normal ends, at a false-alarm rate of a hundredth for images and a
            thousandth for pixels; None when there is no calibration. ``at`` gives another.
    """

    def __init__(
        self,
        score: Score,
        preprocess: Preprocess,
        n_batch: int,
        engine: str,
        description: dict[str, Any],
        camera_px: tuple[int, int] | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.score = score
        self.preprocess = preprocess
        self.n_batch = n_batch
        self.engine = engine
        self.description = description
        self.camera_px = camera_px
        self.decision: Decision | None = None
        if calibration is not None:
            self.decision = decide(calibration)

    def at(
        self,
        false_alarm_rate: float | None = None,
        pixel_false_alarm_rate: float | None = None,
    ) -> "Predictor":
        """The same model with other thresholds.

        Args:
            false_alarm_rate: Good images that may be called anomalous, above 0 and below 1; when
                None, the threshold that known defects were used for if there is one, else 0.01.
            pixel_false_alarm_rate: Pixels of good images that may be, likewise; 0.001 when None.

        Raises:
            UsageError: A rate is out of range, or the model is not calibrated.
        """
        if false_alarm_rate is pixel_false_alarm_rate is None:
            return self
        if self.decision is None:
            raise UsageError(NOT_CALIBRATED)
        other = copy(self)
        other.decision = decide(self.decision.calibration, false_alarm_rate, pixel_false_alarm_rate)
        return other

    @overload
    def predict(self, images: str | Path | Image.Image | NDArray[np.uint8]) -> Prediction: ...
    @overload
    def predict(self, images: list[ImageInput] | tuple[ImageInput, ...]) -> list[Prediction]: ...
    def predict(self, images: Any) -> Prediction | list[Prediction]:
        """Score images.

        Args:
            images: A path, a Pillow image, a uint8 array ``(H0, W0, 3)``, or a list of such, of
                any sizes.

        Returns:
            One prediction, or one for each.

        Raises:
            ImageReadError: An image cannot be read.
            ShapeError: An image is not of the camera's size.
        """
        if isinstance(images, str | Path | Image.Image | np.ndarray):
            return next(self.stream([images]))
        return list(self.stream(images))

    def stream(
        self,
        images: Iterable[ImageInput],
        unreadable: Callable[[ImageReadError], None] | None = None,
        kept_px: int = 0,
    ) -> Iterator[Prediction]:
        """Score any number of images in bounded memory, in order.

        Args:
            images: As for ``predict``.
            unreadable: Told of an image that cannot be read, which is then left out; raised when
                None.
            kept_px: Pixels of a source image that is kept with its prediction, at most.

        Raises:
            ImageReadError: An image cannot be read and nobody is told.
            ShapeError: An image is not of the camera's size.
        """
        bring = self.preprocess if self.camera_px is None else Camera(self.camera_px)
        loaded = load_ahead(images, bring, unreadable, kept_px=kept_px)
        for batch in batched(loaded, self.n_batch):
            outputs = self.score(np.stack([image.pixels for image in batch]))
            outputs = outputs._replace(anomaly_map=self.preprocess.counted(outputs.anomaly_map))
            for image, anomaly_map, score, levels in zip(batch, *outputs, strict=True):
                yield Prediction(
                    image.path,
                    float(score),
                    anomaly_map,
                    tuple(levels.tolist()),
                    image.source_px,
                    self.preprocess,
                    image.picture,
                    self.decision,
                )


@dataclass(frozen=True)
class Camera:
    """Takes images of one size as they are.

    Attributes:
        size_px: (height, width) of the images.
    """

    size_px: tuple[int, int]

    def __call__(self, image: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bring an image to RGB.

        Args:
            image: RGB, shape ``(H0, W0, 3)``, or a Pillow image of mode ``L`` or ``RGB``.

        Raises:
            ShapeError: It is not of the camera's size.
        """
        if isinstance(image, Image.Image):
            image = np.array(image.convert("RGB"))
        if image.shape != (*self.size_px, 3) or image.dtype != np.uint8:
            raise ShapeError(
                f"The image has shape {image.shape} and type {image.dtype}, but the graph was "
                f"exported for a camera and needs {(*self.size_px, 3)} and uint8. Export it anew "
                "with another --camera, or without."
            )
        return image
