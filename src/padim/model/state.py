"""A fitted model as data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from padim.backbones import BackboneSpec
from padim.images.preprocess import Preprocess
from padim.method.pyramid import Pyramid
from padim.method.tiles import Tiling, plan_tiles
from padim.model.file_tensor import FileTensor
from padim.recipes import Recipe
from padim.scoring.calibration import Calibration
from padim.scoring.parity import Samples

FORMAT_VERSION = 1


@dataclass(frozen=True)
class ModelState:
    """A fitted model as data.

    Attributes:
        spec: Facts of the backbone.
        recipe: The settings it was fitted with.
        preprocess: The way from an image to the network.
        pyramid: The levels.
        eps: What was added to the diagonal, one per level.
        count: Images it was fitted on.
        mean: Per level, shape ``(cells, d)``, float32.
        whitening: Per level, shape ``(cells, d, D + d)``, float16 or float32; left in a file where
            images are looked at tile by tile.
        engine: Who ran the trunk: ``torch``, or another engine with its version.
        precision: What the trunk computed in, ``float32`` or ``bfloat16``.
        weights_sha256: Of the file the backbone's weights came from.
        image_sha256: Of each image it was fitted on, sorted.
        trunk: The trunk's tensors, or empty when they are not to travel with the model.
        versions: Packages it was fitted with.
        samples: A few of the images, mirrored, with their maps; None when they may not travel.
        calibration: How good images score; None when it was not asked for.
    """

    spec: BackboneSpec
    recipe: Recipe
    preprocess: Preprocess
    pyramid: Pyramid
    eps: tuple[float, ...]
    count: int
    mean: tuple[Tensor, ...]
    whitening: tuple[Tensor | FileTensor, ...]
    engine: str
    precision: str
    weights_sha256: str
    image_sha256: tuple[str, ...]
    trunk: Mapping[str, Tensor]
    versions: Mapping[str, str]
    samples: Samples | None = None
    calibration: Calibration | None = None

    def in_memory(self) -> list[Tensor]:
        """The whitening rows, all read."""
        return [rows if isinstance(rows, Tensor) else rows[:] for rows in self.whitening]

    @cached_property
    def tiling(self) -> Tiling:
        """What the network sees of an image at a time."""
        roi = self.preprocess.roi
        return plan_tiles(self.pyramid, self.recipe, None if roi is None else roi.touched)

    def metadata(self) -> dict[str, Any]:
        """Everything but the tensors, as plain data."""
        return {
            "format_version": FORMAT_VERSION,
            "backbone": asdict(self.spec),
            "weights_sha256": self.weights_sha256,
            "recipe": asdict(self.recipe),
            "preprocess": self.preprocess.to_json(),
            "levels": self.pyramid.to_json(),
            "coarse_cells": self.pyramid.coarse_cells,
            "eps": self.eps,
            "count": self.count,
            "engine": self.engine,
            "precision": self.precision,
            "image_sha256": self.image_sha256,
            "versions": dict(self.versions),
            "calibration": self.calibration
            and {
                "source": self.calibration.source,
                "chosen": self.calibration.chosen and asdict(self.calibration.chosen),
                "stale": self.calibration.stale,
            },
        }
