"""A fitted model as data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from padim.backbones import BackboneSpec
from padim.features.encoder import Encoder
from padim.images.preprocess import Preprocess
from padim.method.pyramid import Pyramid
from padim.method.tiles import Tiling
from padim.model.file_tensor import FileTensor
from padim.recipes import Recipe
from padim.scoring.calibration import Calibration
from padim.scoring.parity import Samples

FORMAT_VERSION = 1


@dataclass(frozen=True)
class ModelState:
    """A fitted model as data.

    Attributes:
        encoder: What decided the features that it was fitted on.
        recipe: The settings it was fitted with.
        eps: What was added to the diagonal, one per level.
        count: Images it was fitted on.
        mean: Per level, shape ``(cells, d)``, float32.
        whitening: Per level, shape ``(cells, d, D + d)``, float16 or float32; left in a file where
            images are looked at tile by tile.
        image_sha256: Of each image it was fitted on, sorted.
        trunk: The trunk's tensors, or empty when they are not to travel with the model.
        samples: A few of the images, mirrored, with their maps; None when they may not travel.
        calibration: How good images score; None when it was not asked for.
    """

    encoder: Encoder
    recipe: Recipe
    eps: tuple[float, ...]
    count: int
    mean: tuple[Tensor, ...]
    whitening: tuple[Tensor | FileTensor, ...]
    image_sha256: tuple[str, ...]
    trunk: Mapping[str, Tensor]
    samples: Samples | None = None
    calibration: Calibration | None = None

    def in_memory(self) -> list[Tensor]:
        """The whitening rows, all read."""
        return [rows[:] for rows in self.whitening]

    @property
    def spec(self) -> BackboneSpec:
        """Facts of the backbone."""
        return self.encoder.spec

    @property
    def preprocess(self) -> Preprocess:
        """The way from an image to the network."""
        return self.encoder.preprocess

    @property
    def tiling(self) -> Tiling:
        """What the network sees of an image at a time."""
        return self.encoder.tiling

    @property
    def pyramid(self) -> Pyramid:
        """The modelled cells."""
        return self.encoder.pyramid

    def metadata(self) -> dict[str, Any]:
        """Everything but the tensors, as plain data."""
        encoder = self.encoder
        return {
            "format_version": FORMAT_VERSION,
            "backbone": asdict(encoder.spec),
            "weights_sha256": encoder.weights_sha256,
            "recipe": asdict(self.recipe),
            "preprocess": encoder.preprocess.to_json(),
            "levels": encoder.pyramid.to_json(),
            "coarse_cells": encoder.pyramid.coarse_cells,
            "eps": self.eps,
            "count": self.count,
            "engine": str(encoder.engine),
            "precision": encoder.precision,
            "image_sha256": self.image_sha256,
            "versions": dict(encoder.versions),
            "calibration": self.calibration and self.calibration.without_arrays(),
        }
