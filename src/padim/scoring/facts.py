"""What model files and graphs say of themselves, as one table of fields; without torch."""

import base64
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from padim.backbones import BackboneSpec
from padim.documents import Index, Positive, Sha256, Side
from padim.images.camera import MeanImage
from padim.images.facts import ImageFacts
from padim.images.preprocess import Preprocess
from padim.images.roi import read_png
from padim.recipes import RECIPES, Recipe
from padim.scoring.calibration import Calibration, Threshold
from padim.scoring.engines import ENGINES
from padim.scoring.parity import STEP_PX, Samples
from padim.scoring.reference import Reference

_Float32 = Annotated[float, Meta(ge=-3.4e38, le=3.4e38)]
_Text = Annotated[str, Meta(max_length=1 << 22)]


@dataclass(frozen=True)
class LevelFacts:
    """The taps that share one grid, as ``method.pyramid.Level``."""

    grid: tuple[Side, Side]
    taps: Annotated[tuple[Index, ...], Meta(min_length=1, max_length=64)]
    channels: tuple[Annotated[tuple[Index, ...], Meta(min_length=1)], ...]

    def __post_init__(self) -> None:
        """Raise a ``ValueError`` if taps and channels do not fit together."""
        if len(self.channels) != len(self.taps):
            raise ValueError(f"{len(self.taps)} taps need as many lists of channels")
        if any(list(used) != sorted(set(used)) for used in self.channels):
            raise ValueError("channels need to ascend")


@dataclass(frozen=True)
class FusionFacts:
    """What joins the scores of two heads, as ``method.fusion.Fusion``."""

    usual: tuple[Positive, Positive]
    power: Annotated[float, Meta(ge=1, le=1000)]


@dataclass(frozen=True)
class ChosenFacts:
    """A calibration without its arrays."""

    source: Literal["leave-one-out", "held-out"]
    stale: bool
    chosen: Threshold | None = None


_Rows = tuple[Annotated[tuple[_Float32, ...], Meta(max_length=64)], ...]


@dataclass(frozen=True)
class ReferenceFacts:
    """What good images were like, as ``Reference.to_json`` writes it."""

    level_scores: _Rows
    camera: _Rows
    coarse_map: _Rows
    mean_image: _Text | None = None

    def reference(self) -> Reference:
        """What it describes; a ``ValueError`` if it is none."""
        mean_image = None if self.mean_image is None else MeanImage.from_png(self.mean_image)
        level_scores, camera, coarse_map = (
            np.array(rows, np.float32) for rows in (self.level_scores, self.camera, self.coarse_map)
        )
        return Reference(level_scores, camera, coarse_map, mean_image)


@dataclass(frozen=True)
class CalibrationFacts(ChosenFacts):
    """A calibration with its arrays as lists."""

    image_score: tuple[_Float32, ...] = ()
    pixel_score: Annotated[tuple[_Float32, ...], Meta(max_length=1 << 16)] = ()
    pixel_count: tuple[Annotated[int, Meta(ge=0, le=1 << 40)], ...] = ()
    reference: ReferenceFacts | None = None

    def __post_init__(self) -> None:
        """Raise a ``ValueError`` if it is no calibration."""
        self.calibration()

    def calibration(self) -> Calibration:
        """What it describes."""
        return Calibration(
            self.source,
            np.array(self.image_score, np.float32),
            np.array(self.pixel_score, np.float32),
            np.array(self.pixel_count, np.int64),
            self.chosen,
            self.stale,
            None if self.reference is None else self.reference.reference(),
        )


@dataclass(frozen=True)
class SampleFacts:
    """A sample, as ``parity.Samples.to_json`` writes it."""

    image: _Text
    anomaly_map: _Text
    image_score: _Float32
    level_scores: tuple[_Float32, ...]


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What a model file and a graph say, as docs/format.md lists it."""

    backbone: BackboneSpec
    weights_sha256: Sha256
    recipe: Recipe
    preprocess: Preprocess
    levels: Annotated[tuple[LevelFacts, ...], Meta(min_length=1, max_length=64)]
    eps: tuple[Positive, ...]
    count: Annotated[int, Meta(ge=1, le=1 << 48)]
    image_sha256: tuple[Sha256, ...]
    precision: Literal["float32", "bfloat16"]
    versions: dict[str, str]
    coarse_cells: Annotated[tuple[Index, ...], Meta(min_length=1)] | None = None
    # Absent in older files
    engine: Annotated[str, Meta(max_length=200)] = "torch"
    images: ImageFacts | None = None
    fusion: FusionFacts | None = None

    def __post_init__(self) -> None:
        """Raise a ``ValueError`` if fields do not fit together."""
        size_px, spec = self.preprocess.size_px, self.backbone
        if self.recipe.size_px != size_px:
            raise ValueError("recipe and preprocess need to have one size_px")
        if self.recipe.name not in RECIPES:
            raise ValueError(f"there is no recipe {self.recipe.name!r}")
        if self.engine.partition(" ")[0] not in ENGINES:
            raise ValueError(f"there is no engine {self.engine!r}")
        if len(self.eps) != self.n_level_scores:
            raise ValueError(f"{self.n_level_scores} levels need as many eps")
        if self.fusion is not None and not self.recipe.coarse_scale:
            raise ValueError("there is no second head whose score to join")
        for level in self.levels:
            for tap, used in zip(level.taps, level.channels, strict=True):
                if tap >= len(spec.taps):
                    raise ValueError(f"tap {tap} is none of the {len(spec.taps)} of the backbone")
                grid = tuple(side // spec.strides[tap] for side in size_px)
                if level.grid != grid or any(side % spec.strides[tap] for side in size_px):
                    raise ValueError(f"the grid {level.grid} of tap {tap} does not fit its stride")
                if used[-1] >= spec.channels[tap]:
                    raise ValueError(f"tap {tap} has {spec.channels[tap]} channels, not {used[-1]}")
        for above, level in pairwise(self.levels):
            if level.grid == above.grid or any(
                fine % coarse for fine, coarse in zip(level.grid, above.grid, strict=True)
            ):
                raise ValueError(f"the grids {above.grid} and {level.grid} do not nest")
        n_coarse = self.levels[0].grid[0] * self.levels[0].grid[1]
        cells = self.coarse_cells
        if cells is not None and (len(set(cells)) < len(cells) or max(cells) >= n_coarse):
            raise ValueError(f"coarse_cells need to be different and below {n_coarse}")

    @property
    def n_level_scores(self) -> int:
        """Levels of all heads."""
        return len(self.levels) + (self.recipe.coarse_scale > 0)


@dataclass(frozen=True, kw_only=True)
class GraphFacts(ModelFacts):
    """What a graph says."""

    store: Literal["float16", "float32"]
    camera_px: tuple[Side, Side] | None
    model_sha256: Sha256
    compared_sha256: tuple[Sha256, ...]
    samples: Annotated[tuple[SampleFacts, ...], Meta(max_length=64)]
    calibration: CalibrationFacts | None = None
    verdict: bool = False

    def __post_init__(self) -> None:
        """Raise a ``ValueError`` if fields do not fit together."""
        super().__post_init__()
        if self.verdict and self.calibration is None:
            raise ValueError("a verdict needs a calibration")

    def read_samples(self) -> Samples:
        """The samples; a ``ValueError`` if they are none."""
        height, width = (-(-side // STEP_PX) for side in self.preprocess.size_px)
        maps = [np.frombuffer(base64.b64decode(one.anomaly_map), "<f4") for one in self.samples]
        samples = Samples(
            np.stack([read_png(one.image) for one in self.samples]),
            np.stack(maps).astype(np.float32).reshape(-1, height, width),
            np.array([one.image_score for one in self.samples], np.float32),
            np.array([one.level_scores for one in self.samples], np.float32),
        )
        samples.check(self.preprocess.size_px, self.n_level_scores)
        return samples


@dataclass(frozen=True, kw_only=True)
class FileFacts(ModelFacts):
    """What a model file says, and the moments beside it."""

    tensor_sha256: dict[str, Sha256]
    calibration: ChosenFacts | None = None
    holds: Literal["model", "moments", "shard", "scores"] = "model"
