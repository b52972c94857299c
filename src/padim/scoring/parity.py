"""A few images with their maps, kept with a model to compare engines on; without torch."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from padim.errors import ParityError

N_SAMPLES = 4
STEP_PX = 4  # between the pixels of the map that are kept: its blur leaves nothing finer
TOLERANCE = {"float32": 1e-3, "bfloat16": 1e-2}  # relative


@dataclass(frozen=True)
class Samples:
    """Images at network size and what a model says of them."""

    image: NDArray[np.uint8]  # RGB, (n, H, W, 3)
    anomaly_map: NDArray[np.float32]  # every fourth row and column of the maps, (n, H / 4, W / 4)
    image_score: NDArray[np.float32]  # (n,)
    level_scores: NDArray[np.float32]  # (n, levels)

    def check(self, size_px: tuple[int, int], n_levels: int) -> None:
        """Raise a ``ValueError`` if they are none of a model of this size and so many levels."""
        n, (height, width) = len(self.image_score), size_px
        expected: dict[str, tuple[tuple[int, ...], type]] = {
            "image": ((n, height, width, 3), np.uint8),
            "anomaly_map": ((n, -(-height // STEP_PX), -(-width // STEP_PX)), np.float32),
            "image_score": ((n,), np.float32),
            "level_scores": ((n, n_levels), np.float32),
        }
        for name, (shape, kind) in expected.items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype != kind or not np.isfinite(array).all():
                raise ValueError(
                    f"the {name} of its samples is {array.dtype} of shape {array.shape}, but needs "
                    f"to be finite {kind.__name__} of shape {shape}"
                )

    @classmethod
    def of(
        cls,
        image: NDArray[np.uint8],
        anomaly_map: NDArray[np.float32],
        image_score: NDArray[np.float32],
        level_scores: NDArray[np.float32],
    ) -> "Samples":
        """Keep what a model says of images: maps ``(n, H, W)``, scores and level scores."""
        few = np.ascontiguousarray(anomaly_map[:, ::STEP_PX, ::STEP_PX])
        return cls(image, few, image_score, level_scores)

    def to_json(self) -> list[dict[str, Any]]:
        """The samples as plain data: images as PNG, maps as little-endian float32, in base64."""
        samples = []
        for image, anomaly_map, score, levels in zip(
            self.image, self.anomaly_map, self.image_score, self.level_scores, strict=True
        ):
            png = io.BytesIO()
            Image.fromarray(image).save(png, "PNG", optimize=True)
            samples.append(
                {
                    "image": base64.b64encode(png.getvalue()).decode("ascii"),
                    "anomaly_map": base64.b64encode(anomaly_map.astype("<f4").data).decode("ascii"),
                    "image_score": float(score),
                    "level_scores": levels.tolist(),
                }
            )
        return samples


@dataclass(frozen=True)
class Parity:
    """How far two engines are apart on the same images.

    Attributes:
        n_images: Images compared.
        map_error: Largest relative difference of a pixel of the anomaly maps, among those of every
            fourth row and column.
        score_error: Largest relative difference of an image score. Scores that are further apart
            than twice this keep their order.
        level_error: The same of level scores.
        tolerance: What each may be.
    """

    n_images: int
    map_error: float
    score_error: float
    level_error: float
    tolerance: float

    def merge(self, other: "Parity") -> "Parity":
        """How far they are apart on the images of both."""
        return Parity(
            self.n_images + other.n_images,
            max(self.map_error, other.map_error),
            max(self.score_error, other.score_error),
            max(self.level_error, other.level_error),
            self.tolerance,
        )

    def check(self, what: str, advice: str) -> None:
        """Raise a `ParityError` if they differ by more than the tolerance.

        ``what`` begins the sentence: "The graph differs from torch", say. ``advice`` follows it.
        """
        if max(self.map_error, self.score_error, self.level_error) > self.tolerance:
            raise ParityError(
                f"{what} by {self.map_error:.1e} in the map, {self.score_error:.1e} in the score "
                f"and {self.level_error:.1e} in those of levels, but may by {self.tolerance:g} "
                f"(relative). {advice}"
            )


def resize(images: NDArray[np.uint8], size_px: tuple[int, int]) -> NDArray[np.uint8]:
    """Bring samples to the size that a camera gives, alike on every machine: by nearest pixel."""
    rows, columns = (
        np.arange(n_out) * n_in // n_out
        for n_in, n_out in zip(images.shape[1:3], size_px, strict=True)
    )
    return np.ascontiguousarray(images[:, rows[:, None], columns])


def compare(
    score: Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], ...]],
    expected: Samples,
    tolerance: float,
) -> Parity:
    """Score samples, and compare with what another engine says of them."""
    found = Samples.of(expected.image, *score(expected.image))
    return Parity(
        n_images=len(expected.image),
        map_error=_error(found.anomaly_map, expected.anomaly_map),
        score_error=_error(found.image_score, expected.image_score),
        level_error=_error(found.level_scores, expected.level_scores),
        tolerance=tolerance,
    )


def _error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    difference = np.abs(found.astype(np.float64) - expected) / np.maximum(expected, 1e-12)
    return float(np.nan_to_num(difference, nan=np.inf).max())
