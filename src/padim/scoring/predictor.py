"""Images of any kind in, predictions out, whatever engine scores them; without torch."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from io import IOBase
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple, Self, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from padim.errors import ImageReadError, ModelFileError, ShapeError, UsageError
from padim.images.ahead import (
    DECODE_AHEAD,
    DECODE_THREADS,
    IMAGE_TYPES,
    Bring,
    ImageInput,
    Loaded,
    batched,
    load_ahead,
    load_image,
    map_ahead,
)
from padim.images.camera import CameraFacts, Snapshot
from padim.images.decode import rgb_pixels
from padim.images.facts import ImageFacts, describe_clipping
from padim.scoring.calibration import Calibration
from padim.scoring.description import Description
from padim.scoring.engines import ENGINES, n_cores
from padim.scoring.parity import Samples
from padim.scoring.prediction import NOT_CALIBRATED, Decision, Origin, Prediction, decide


class Outputs(NamedTuple):
    """What an engine says of a batch of N images.

    Attributes:
        anomaly_map: Standard deviations of normal patches, shape ``(N, H, W)``.
        image_score: Mean of the hottest pixels of the map, shape ``(N,)``, raised by what a coarse
            head says besides.
        level_scores: The same of what each level adds, coarse to fine, given the coarser ones, over
            its own cells and without blur, shape ``(N, levels)``: which of them was surprised. Last
            is the score of a coarse head, where there is one.
    """

    anomaly_map: NDArray[np.float32]
    image_score: NDArray[np.float32]
    level_scores: NDArray[np.float32]


_MOST_DECODERS = 8  # threads; with more, they are in each other's way
Score = Callable[[NDArray[np.uint8]], Outputs]
FileHash = str | Callable[[], str] | None  # one that is called at first use


class Predictor:
    """A fitted model, ready to score.

    Safe to share between threads: predicting changes nothing.

    Args:
        score: Runs a batch of images of network size, or of the camera's size when there is one.
        description: What the model says of itself.
        n_batch: Images in one call.
        engine: Name of what computes.
        path: The file that it was opened from, if any.
        file_sha256: Of that file, as it was read, or what tells it.
        n_calls: Batches that ``stream`` has scored at a time.
        n_decoders: Threads of ``stream`` that decode.

    Attributes:
        preprocess: The way from an image to the network.
        camera_px: (height, width) of the only images it takes, when its graph resizes them itself.
        decision: Where normal ends, at a false-alarm rate of a hundredth for images and a
            thousandth for pixels; None when the model is not calibrated. ``at`` gives another.

    Examples:
        >>> model = padim.load("part.safetensors").at(false_alarm_rate=0.2)
        >>> [prediction.label for prediction in model.predict(["good.png", "spot.png"])]
        ['normal', 'anomalous']
    """

    def __init__(
        self,
        score: Score,
        description: Description,
        n_batch: int,
        engine: str,
        path: Path | None = None,
        file_sha256: FileHash = None,
        n_calls: int = 1,
        n_decoders: int = DECODE_THREADS,
    ) -> None:
        self.score = score
        self.description = description
        self.preprocess = description.preprocess
        self.camera_px = description.camera_px
        self.n_batch = n_batch
        self.engine = engine
        self.path = path
        self.n_calls = n_calls
        self.n_decoders = n_decoders
        self._file_sha256 = file_sha256
        self.decision: Decision | None = None
        if description.calibration is not None:
            self.decision = decide(description.calibration)

    def at(
        self,
        false_alarm_rate: float | None = None,
        pixel_false_alarm_rate: float | None = None,
    ) -> Self:
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

    def calibrated(self, calibration: Calibration) -> Self:
        """The same model with thresholds by other images."""
        other = copy(self)
        other.description = self.description.calibrate(calibration)
        other.decision = decide(calibration)
        return other

    @overload
    def predict(self, images: ImageInput) -> Prediction: ...  # type: ignore[overload-overlap]  # a str is an Iterable[str] as well
    @overload
    def predict(self, images: Iterable[ImageInput]) -> list[Prediction]: ...
    def predict(self, images: Any) -> Prediction | list[Prediction]:
        """Score images.

        Args:
            images: A path, the bytes of an image file, a Pillow image, a uint8 array of shape
                ``(H0, W0)`` or ``(H0, W0, 1, 3 or 4)``; or several of these, of any sizes.

        Returns:
            One prediction, or a list with one for each.

        Raises:
            ImageReadError: An image cannot be read.
            ShapeError: An image is not of 8 bits, or not of the camera's size.
            UsageError: It is no image.
            ModelFileError: A score is no finite number.
        """
        # An open file would give its lines.
        is_one = isinstance(images, (*IMAGE_TYPES, IOBase)) or not isinstance(images, Iterable)
        return next(self.stream([images])) if is_one else list(self.stream(images))

    def stream(
        self,
        images: Iterable[ImageInput],
        unreadable: Callable[[ImageReadError], None] | None = None,
        *,
        n_ahead: int | None = None,
        kept_px: int = 0,
        traced: bool = False,
    ) -> Iterator[Prediction]:
        """Score any number of images in bounded memory, in order.

        Args:
            images: As for ``predict``.
            unreadable: Told of an image that cannot be read, which is then left out; raised when
                None.
            n_ahead: Images taken before the first of them is answered, beyond that one: 0 for a
                camera, which is asked for the next image when the last one has been judged. When
                None, as many as it takes to be fast.
            kept_px: Pixels of a file's picture that is kept with its prediction, at most.
            traced: Whether predictions say of which image and model file they are.

        Raises:
            ImageReadError: An image cannot be read and nobody is told.
            ShapeError: An image is not of 8 bits, or not of the camera's size.
            UsageError: It is no image, or one alone, or ``n_ahead`` is below 0.
            ModelFileError: A score is no finite number.

        Examples:
            >>> model = padim.load("part.safetensors")
            >>> camera = (Image.open(name) for name in ["good.png", "spot.png"])
            >>> for prediction in model.stream(camera, n_ahead=0):
            ...     print(prediction.label)
            normal
            anomalous
        """
        is_several = isinstance(images, np.ndarray) and (
            images.ndim == 4
            or (images.ndim == 3 and images.shape[2] > 4)  # grey ones: channels are fewer
            or (images.ndim == 1 and images.dtype.kind in "OU")  # paths
        )
        if not isinstance(images, Iterable) or (isinstance(images, IMAGE_TYPES) and not is_several):
            raise UsageError(
                f"Images cannot be of type {type(images).__name__}. Give a list of them, or one "
                "image to predict."
            )
        n_batch, n_decoded = self.n_batch, max(DECODE_AHEAD, 2 * self.n_decoders)
        if n_ahead is not None:
            is_whole = isinstance(n_ahead, Integral)
            if not is_whole or n_ahead < 0:
                raise UsageError(
                    f"n_ahead is {n_ahead!r}, but needs to be a whole number, 0 or more. Try 0."
                )
            # A batch takes its own images, and each of them that is decoded lets another one in.
            n_batch = min(n_batch, n_ahead // 2 + 1)
            n_decoded = n_ahead + 2 - n_batch
        loaded = load_ahead(
            images,
            self._bring,
            unreadable,
            reading=self.preprocess.reading,
            hashed=traced,
            kept_px=kept_px,
            n_ahead=n_decoded,
            n_threads=self.n_decoders,
        )
        batches = batched(loaded, n_batch)
        judge = partial(self.judge, traced=traced)
        if n_ahead is None and self.n_calls > 1:
            judged: Iterable[list[Prediction]] = map_ahead(
                judge, batches, self.n_calls, self.n_calls + 1
            )
        else:
            judged = map(judge, batches)
        for predictions in judged:
            yield from predictions

    def read(self, image: ImageInput, *, hashed: bool = False, kept_px: int = 0) -> Loaded:
        """Decode one image and bring it to the size that the model takes, for ``judge``.

        Args:
            image: As for ``predict``.
            hashed: Whether its content is to be hashed.
            kept_px: Pixels of a file's picture that is kept with its prediction, at most.

        Raises:
            ImageReadError: The image cannot be read.
            ShapeError: It is not of 8 bits, or not of the camera's size.
            UsageError: It is no image.
        """
        reading = self.preprocess.reading
        return load_image(image, self._bring, reading, hashed=hashed, kept_px=kept_px)

    def judge(self, batch: Sequence[Loaded], *, traced: bool = False) -> list[Prediction]:
        """Score images that ``read`` gave, together.

        Args:
            batch: As many as fit in memory; of ``n_batch`` at a time most are fastest.
            traced: Whether predictions say of which image and model file they are; the images need
                to be hashed then.

        Raises:
            ModelFileError: A score is no finite number.
        """
        outputs = self.score(np.stack([image.pixels for image in batch]))
        _check_finite(outputs, batch)
        whole = self.preprocess.blank_outside(outputs.anomaly_map)
        facts = self.description.images
        return [
            Prediction(
                image.image,
                float(score),
                anomaly_map,
                tuple(levels.tolist()),
                image.source_px,
                self.preprocess,
                image.picture,
                self.decision,
                Origin(image.sha256, *self.origin) if traced else None,
                (
                    *(facts.compare(ImageFacts.of(image)) if facts else ()),
                    *describe_clipping(image),
                ),
                self._look_at_camera(image),
            )
            for image, anomaly_map, score, levels in zip(
                batch, whole, outputs.image_score, outputs.level_scores, strict=True
            )
        ]

    def read_samples(self) -> Samples | None:
        """A few images of network size, and what was said of them where the model was written.

        None when it brings none.

        Raises:
            ModelFileError: They cannot be read.
        """
        return None if self.path is None else self.description.read_samples(self.path)

    def _look_at_camera(self, image: Loaded) -> CameraFacts | None:
        """What an image says of the camera; None where it is not of network size."""
        if self.camera_px is not None:
            return None
        calibration = self.description.calibration
        reference = calibration.reference if calibration else None
        return Snapshot.of(image.pixels).compare(reference.mean_image if reference else None)

    @property
    def _bring(self) -> Bring:
        return self.preprocess if self.camera_px is None else Camera(self.camera_px)

    def save(self, path: str | Path, *, moments: bool = False) -> None:
        """Write the model to one file, which ``PaDiM`` can do; a graph is not saved.

        Args:
            path: The file.
            moments: Whether to write the moments beside it.

        Raises:
            UsageError: It is a graph.
        """
        raise UsageError(
            "A graph is a copy of a model, and is not saved. Copy its file, or save the model that "
            "it was exported from."
        )

    @cached_property
    def file_sha256(self) -> str | None:
        """The sha256 of the file that it was opened from, as it was read; None without a file."""
        told = self._file_sha256
        return told() if callable(told) else told

    @cached_property
    def origin(self) -> tuple[str | None, str, str]:
        """The sha256 of the model file, the version of this package, and that of the engine."""
        return (
            self.file_sha256,
            version("padim-efficientnet"),
            f"{self.engine} {ENGINES[self.engine].version()}",
        )

    def __repr__(self) -> str:
        threshold = "no threshold"
        if self.decision is not None:
            found = self.decision.threshold
            stale = "stale " if self.decision.calibration.stale else ""
            threshold = (
                f"{stale}threshold {found.score:.4g} at a false-alarm rate of {found.rate:.3g}"
            )
        name = type(self).__name__
        return f"{name}({self.description.words()}; {threshold}; {self.engine})"


def choose_decoders(device: str) -> int:
    """Threads that decode: as many as help, where the CPU does not compute as well."""
    if device == "cpu":
        return DECODE_THREADS
    return max(DECODE_THREADS, min(_MOST_DECODERS, n_cores()))


def _check_finite(outputs: Outputs, batch: Sequence[Loaded]) -> None:
    """Raise a `ModelFileError` if a score, or one of a map, is no number."""
    highest, lowest = (  # NaN where there is one
        look(outputs.anomaly_map, axis=(1, 2)) for look in (np.max, np.min)
    )
    scores = np.column_stack((highest, outputs.image_score, outputs.level_scores, lowest))
    for image, row in zip(batch, scores, strict=True):
        if not np.isfinite(row).all():
            raise ModelFileError(
                f"The score of {image.path or 'an image'} is {row[1]:g} and its map goes from "
                f"{row[-1]:g} to {row[0]:g}, but a score needs to be a finite number. The "
                "model or its engine is at fault: try --engine torch, or fit it anew."
            )


@dataclass(frozen=True)
class Camera:
    """Takes images of one size as they are, and brings them to RGB."""

    size_px: tuple[int, int]

    def __call__(self, image: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bring an image to RGB; one of another size is a `ShapeError`."""
        pixels = rgb_pixels(image)
        if pixels.shape[:2] != self.size_px:
            raise ShapeError(
                f"The image has shape {pixels.shape}, but the graph was exported for a camera and "
                f"needs {(*self.size_px, 3)}. Export it anew with another --camera, or without."
            )
        return pixels
