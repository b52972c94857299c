"""What good images were like beside their image scores: what a drift alarm begins with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from padim.images.camera import CameraFacts, MeanImage

MAP_CELLS = 8  # of a side of a coarse map
CAMERA = ("grey", "contrast", "sharpness", "shift_px")  # columns; the last may be missing
_SAMPLED_PX = 64  # of a side of a map; its blur leaves nothing much finer


@dataclass(frozen=True)
class Reference:
    """How good images score by each level, and what they say of the camera.

    Attributes:
        level_scores: One row an image, in the order of the image scores, float32.
        camera: Their ``CAMERA``, shape ``(n, 4)``; ``(n, 3)`` where there is no mean image to be
            shifted against, float32.
        coarse_map: The mean of their maps in cells, shape ``(8, 8)``, float32.
        mean_image: What shifts are measured against; None where that may not travel.
    """

    level_scores: NDArray[np.float32]
    camera: NDArray[np.float32]
    coarse_map: NDArray[np.float32]
    mean_image: MeanImage | None = None

    def __post_init__(self) -> None:
        """Raise a ``ValueError`` if these are no statistics of images."""
        n_camera = len(CAMERA) - (self.mean_image is None)
        levels = self.level_scores.shape
        shapes = {
            "level_scores": levels,
            "camera": (*levels[:1], n_camera),
            "coarse_map": (MAP_CELLS, MAP_CELLS),
        }
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array.shape != shape or len(shape) != 2 or not np.isfinite(array).all():
                raise ValueError(f"{name} of the reference needs to be finite, of shape {shape}")

    @classmethod
    def of(
        cls,
        level_scores: NDArray[np.float32],
        camera: Sequence[CameraFacts],
        coarse_map: NDArray[np.float32],
        mean_image: MeanImage | None,
    ) -> "Reference":
        """Put together what is known of images, in one order."""
        names = CAMERA[: len(CAMERA) - (mean_image is None)]
        values = [[getattr(facts, name) for name in names] for facts in camera]
        return cls(level_scores, np.array(values, np.float32), coarse_map, mean_image)

    def in_order(self, order: NDArray[np.int64]) -> "Reference":
        """The same images in another order."""
        return replace(self, level_scores=self.level_scores[order], camera=self.camera[order])

    def to_json(self) -> dict[str, object]:
        """As plain data."""
        arrays = {name: getattr(self, name).tolist() for name in ARRAYS}
        return arrays | {"mean_image": self.mean_image and self.mean_image.to_png()}


ARRAYS = ("level_scores", "camera", "coarse_map")


def shrink_map(anomaly_map: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of a map ``(H, W)`` in each of 8 x 8 cells; 0 where it does not look."""
    steps = [max(1, side // _SAMPLED_PX) for side in anomaly_map.shape]
    few = anomaly_map[steps[0] // 2 :: steps[0], steps[1] // 2 :: steps[1]]
    few = np.where(np.isnan(few), np.float32(0), few)
    rows, columns = map(_average, few.shape)
    return np.asarray(rows @ few @ columns.T, np.float32)


@cache
def _average(side: int) -> NDArray[np.float32]:
    """The mean of each eighth of a side, as a matrix ``(8, side)``."""
    cells = np.arange(side) * MAP_CELLS // side
    inside = cells == np.arange(MAP_CELLS)[:, None]
    return np.asarray(inside / np.maximum(inside.sum(axis=1, keepdims=True), 1), np.float32)
