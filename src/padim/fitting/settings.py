"""Every choice of a fit, said once: its name, type, default, range, help and option."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, Unpack, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

from padim.backbones import BACKBONES, DEFAULT_BACKBONE, TIMM
from padim.choices import Choice, Range, is_same, parse_size
from padim.errors import UsageError
from padim.images.reading import FULL_WHITE, Reading
from padim.memory import parse_bytes
from padim.recipes import DEFAULT_RECIPE, EPS_RULES, RECIPES, Recipe
from padim.scoring.engines import DEVICES, ENGINES, MOST_THREADS, PRECISIONS

STORE_NAMES = ("float16", "float32")
Size = int | str | tuple[int, int]
_EPS = Range(0, 1e6, is_open=True, usual=0.01)  # far above, every distance is zero


def _parse_taps(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"The taps are {text!r}, but need to be such as 1,2,4.") from None


def _parse_number(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text


@dataclass(frozen=True)
class FitSettings:
    """Every choice of a fit, checked one by one when it is made.

    What a field means is said in its ``help``; ``None`` leaves it to the recipe, the backbone or
    the machine. Lengths are pixels, sizes (height, width).

    Raises:
        UsageError: A value is of another kind than it must be, or outside its range.
        UnknownNameError: A name is not one of those that there are.

    Examples:
        >>> settings = padim.FitSettings(size_px=(64, 64), store="float32")
        >>> padim.fit("part", settings, sigma_px=2).state.recipe.sigma_px
        2
    """

    roi: Annotated[
        str | Path | NDArray[np.bool_] | None,
        Choice(
            "Region of interest: a mask image, or a polygon in a .json. Nothing else counts.",
            "data",
            "FILE",
        ),
    ] = None
    white: Annotated[
        int | Literal["auto"],
        Choice(
            "White in 16-bit files, such as 4095; auto looks at the images.",
            "data",
            "N",
            within=Range(1, FULL_WHITE, usual=4095),
            parse=_parse_number,
        ),
    ] = FULL_WHITE
    page: Annotated[
        int | None,
        Choice(
            "Page of files that have several, from 1; the model reads the same one.",
            "data",
            "N",
            within=Range(1),
        ),
    ] = None
    backbone: Annotated[
        str,
        Choice(
            "See padim backbones; timm:NAME is any of timm.",
            "network",
            "NAME",
            names=tuple(BACKBONES),
            prefix=TIMM,
        ),
    ] = DEFAULT_BACKBONE
    recipe: Annotated[
        str,
        Choice("standard, fast, accurate or reference.", "network", "NAME", names=tuple(RECIPES)),
    ] = DEFAULT_RECIPE
    size_px: Annotated[
        Size | None,
        Choice(
            "What the network sees: 256, or 256x512 (HxW).",
            "network",
            "PX",
            words="The size",
            within=Range(1, usual=256),
            older=("--size",),
            parse=parse_size,
        ),
    ] = None
    taps: Annotated[
        tuple[int, ...] | None,
        Choice(
            "Blocks to tap, such as 1,2,4; of timm:NAME, its feature maps.",
            "network",
            "N,N",
            parse=_parse_taps,
        ),
    ] = None
    dims: Annotated[
        int | Literal["all"] | None,
        Choice(
            "all, or how many dimensions to draw at random.", "network", "N", parse=_parse_number
        ),
    ] = None
    dims_seed: Annotated[
        int, Choice("Of the draw of dimensions.", "network", "N", within=Range(0))
    ] = 0
    eps: Annotated[
        float | None,
        Choice("Added to the covariances' diagonal.", "network", "X", within=_EPS),
    ] = None
    eps_rule: Annotated[
        str | None,
        Choice("absolute, or relative to the variance.", "network", "NAME", names=EPS_RULES),
    ] = None
    tile_px: Annotated[
        int | None,
        Choice("Large images: the network sees parts of NxN px in turn.", "network", "N"),
    ] = None
    tile_overlap_px: Annotated[
        int | None,
        Choice("By how much tiles overlap, such as 64; else the recipe says.", "network", "N"),
    ] = None
    weights: Annotated[
        str | Path | None, Choice("Local weights of the backbone.", "network", "FILE")
    ] = None
    engine: Annotated[
        str,
        Choice(
            "auto, torch, onnxruntime, openvino or tensorrt computes.",
            "network",
            "NAME",
            names=("auto", *ENGINES),
        ),
    ] = "auto"
    device: Annotated[str, Choice("auto, cpu or cuda.", "network", "NAME", names=DEVICES)] = "auto"
    precision: Annotated[
        str,
        Choice(
            "float32 or bfloat16; for a graph, of its products.",
            "network",
            "NAME",
            names=PRECISIONS,
        ),
    ] = "float32"
    mirrored: Annotated[
        bool | None,
        Choice(
            "Features are the mean of the image's and its left-right mirror's: twice the time of "
            "the network.",
            "network",
        ),
    ] = None
    coarse_scale: Annotated[
        float | None,
        Choice(
            "The coarse head sees a copy of the image at this scale; 0: there is none.",
            "network",
            "X",
            within=Range(0, 1, usual=0.625),
        ),
    ] = None
    sigma_px: Annotated[
        float | None,
        Choice("Blur of the map; 0 for none.", "map", "PX", within=Range(0), older=("--sigma",)),
    ] = None
    score_fraction: Annotated[
        float | None,
        Choice(
            "The score of the map is the mean of this fraction of its hottest pixels; 0: its "
            "maximum.",
            "map",
            "X",
            within=Range(0, 1),
        ),
    ] = None
    calibrate: Annotated[
        bool,
        Choice(
            "Find the threshold by leaving each good image out in turn; without it, the coarse "
            "head is left out too.",
            "threshold",
        ),
    ] = True
    drop_outliers: Annotated[
        float,
        Choice(
            "Leave images out whose p-value by the bulk of the scores is at most this, such as "
            "0.005; 0 for none.",
            "threshold",
            "RATE",
            words="The rate of outliers",
            within=Range(0, 1, is_open=True, usual=0.005),
        ),
    ] = 0.0
    max_memory: Annotated[
        int | str | None,
        Choice("Refuse a fit that needs more, such as 2GiB.", "memory", "BYTES", within=Range(1)),
    ] = None
    n_batch: Annotated[
        int | None,
        Choice(
            "Images in one forward pass; what suits the device by default.",
            "memory",
            "N",
            words="The batch size",
            within=Range(1),
        ),
    ] = None
    n_threads: Annotated[
        int | None,
        Choice(
            "Threads; one for each core by default.",
            "memory",
            "N",
            words="The number of threads",
            within=Range(1, MOST_THREADS, usual=1),
            older=("--threads",),
        ),
    ] = None
    store: Annotated[
        str, Choice("The file holds float16 or float32.", "output", "NAME", names=STORE_NAMES)
    ] = "float16"
    include_backbone: Annotated[
        bool | None,
        Choice("The network travels in the model file; by default when under 50 MB.", "output"),
    ] = None
    keep_moments: Annotated[
        bool, Choice("Write the float64 moments beside the model as well.", "output")
    ] = False
    keep_samples: Annotated[
        bool,
        Choice(
            "A few of the images travel with the model, to compare engines on.",
            "output",
            older=("--samples/--no-samples",),
        ),
    ] = True

    def __post_init__(self) -> None:
        """Check each choice by itself; what must fit together is checked by ``prepare``."""
        for one in fields(self):
            value = getattr(self, one.name)
            if not is_same(value, one.default):
                read = CHOICES[one.name].read(one.name, value, KINDS[one.name])
                object.__setattr__(self, one.name, read)

    @property
    def max_bytes(self) -> int | None:
        """Peak memory that a fit may have; any when None.

        Raises:
            UsageError: The words for it are not understood.
        """
        limit = self.max_memory
        return parse_bytes(limit) if isinstance(limit, str) else limit

    @property
    def reading(self) -> Reading:
        """How image files are read; white that is not known yet is as high as can be."""
        return Reading(FULL_WHITE if isinstance(self.white, str) else self.white, self.page)

    def __eq__(self, other: object) -> bool:
        """Whether every choice is the same; a region of interest may be an array."""
        if not isinstance(other, FitSettings):
            return NotImplemented
        return all(is_same(getattr(self, name), getattr(other, name)) for name in CHOICES)


class FitChoices(TypedDict, total=False):
    """The fields of ``FitSettings`` that somebody chose: the typed keywords of ``padim.fit``."""

    roi: str | Path | NDArray[np.bool_] | None
    white: int | Literal["auto"]
    page: int | None
    backbone: str
    recipe: str
    size_px: Size | None
    taps: tuple[int, ...] | None
    dims: int | Literal["all"] | None
    dims_seed: int
    eps: float | None
    eps_rule: str | None
    tile_px: int | None
    tile_overlap_px: int | None
    weights: str | Path | None
    engine: str
    device: str
    precision: str
    mirrored: bool | None
    coarse_scale: float | None
    sigma_px: float | None
    score_fraction: float | None
    calibrate: bool
    drop_outliers: float
    max_memory: int | str | None
    n_batch: int | None
    n_threads: int | None
    store: str
    include_backbone: bool | None
    keep_moments: bool
    keep_samples: bool


_HINTS = get_type_hints(FitSettings, include_extras=True)
KINDS: Mapping[str, Any] = {name: get_args(hint)[0] for name, hint in _HINTS.items()}
CHOICES: Mapping[str, Choice] = {name: get_args(hint)[1] for name, hint in _HINTS.items()}


def settings_with(base: FitSettings | None = None, **choices: Unpack[FitChoices]) -> FitSettings:
    """Change some choices of a fit, or of the defaults.

    Raises:
        UsageError: There is no such setting, or it cannot have such a value.
    """
    require_known(choices)
    return replace(base or FitSettings(), **choices)


def require_known(names: Mapping[str, object]) -> None:
    """Make sure that there are such settings.

    Raises:
        UsageError: There is none of a name.
    """
    for name in names:
        if name not in CHOICES:
            close = get_close_matches(name, CHOICES, n=1)
            hint = f"Did you mean {close[0]}?" if close else f"There are: {', '.join(CHOICES)}."
            raise UsageError(f"There is no setting {name}. {hint}")


def recipe_of(settings: FitSettings) -> Recipe:
    """The recipe of a fit with its changes.

    Raises:
        UsageError: They do not fit together.
    """
    names = [one.name for one in fields(Recipe) if one.name in CHOICES]
    given = {name: value for name in names if (value := getattr(settings, name)) is not None}
    base = RECIPES[settings.recipe]
    recipe = replace(base, **given)
    if settings.coarse_scale is not None:
        return recipe
    # Only calibrating says what a coarse head is worth.
    return replace(recipe, coarse_scale=_coarse_scale(recipe, base) if settings.calibrate else 0.0)


def _coarse_scale(recipe: Recipe, base: Recipe) -> float:
    """What gives a larger image a copy of as many pixels as the recipe has."""
    seen_px = recipe.size_px if recipe.tile_px is None else (recipe.tile_px, recipe.tile_px)
    ratio = math.prod(base.size_px) / math.prod(seen_px)
    return base.coarse_scale * min(1.0, math.sqrt(ratio))
