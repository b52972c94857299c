"""A fitted model as data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from padim.features.encoder import Encoder
from padim.images.facts import ImageFacts
from padim.images.preprocess import Preprocess
from padim.images.reading import AS_IT_IS
from padim.method.fusion import Fusion
from padim.method.pyramid import Pyramid
from padim.method.tiles import Tiling
from padim.recipes import Recipe
from padim.scoring.calibration import Calibration
from padim.scoring.parity import Samples
from padim.tensors.file_tensor import FileTensor

FORMAT_VERSION = 3  # the newest; what needs no more is written as an older one


@dataclass(frozen=True)
class ModelState:
    """A fitted model as data."""

    encoder: Encoder
    recipe: Recipe
    eps: tuple[float, ...]  # what was added to the diagonal, one per level of each head
    count: int  # images it was fitted on
    mean: tuple[Tensor, ...]  # per level of each head, shape (cells, d), float32
    # Likewise, shape (cells, d, D + d), float16 or float32; left in a file where images are looked
    # at tile by tile.
    whitening: tuple[Tensor | FileTensor, ...]
    image_sha256: tuple[str, ...]  # of each image it was fitted on, sorted
    trunk: Mapping[str, Tensor]  # empty when it is not to travel with the model
    samples: Samples | None = None  # a few of the images, mirrored; None when they may not travel
    calibration: Calibration | None = None  # how good images score; None when not asked for
    images: ImageFacts | None = None  # what they were like; None in older models
    # What joins the scores of two heads; that of the first is the image's when None
    fusion: Fusion | None = None

    def in_memory(self) -> list[Tensor]:
        """The whitening rows, all read."""
        return [rows[:] for rows in self.whitening]

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

    @property
    def format_version(self) -> int:
        """The oldest that says all there is to say of it."""
        if self.recipe.has_levers or self.encoder.spec.is_of_timm:
            return 3
        return 1 if self.encoder.preprocess.reading == AS_IT_IS else 2

    def metadata(self) -> dict[str, Any]:
        """Everything but the tensors, as plain data."""
        encoder = self.encoder
        data = {
            "format_version": self.format_version,
            "backbone": asdict(encoder.spec),
            "weights_sha256": encoder.weights_sha256,
            "recipe": self.recipe.to_json(),
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
        optional = {"images": self.images, "fusion": self.fusion}
        return data | {name: asdict(one) for name, one in optional.items() if one is not None}
