"""Recipes: every choice between an image and its score, as data."""

from dataclasses import asdict, dataclass, replace
from typing import Annotated, Literal

from msgspec import Meta

from padim.documents import Fraction, Index, Positive, Side
from padim.errors import UsageError

EPS_RULES = ("absolute", "relative")
MOST_PX = 1 << 26  # of a picture at network size
_LEVERS = ("mirrored", "coarse_scale", "coarse_fraction")  # fields of a recipe
EPS_FLOOR = 1e-4  # a level of dead channels would otherwise have no covariance at all


@dataclass(frozen=True)
class Recipe:
    """How images are brought to the network and distances to a score."""

    name: str  # of the recipe these settings started from
    size_px: tuple[Side, Side]  # (height, width) of what the network sees
    # Side of the centre crop over the resized short side; 1 for the whole
    crop_fraction: Annotated[float, Meta(ge=0.1, le=1)]
    resample: Literal["bilinear", "lanczos"]  # Pillow's filter of the resize, antialiased
    eps: Positive  # added to the diagonal of each covariance
    eps_rule: Literal["absolute", "relative"]  # relative to the mean variance of the level, or not
    sigma_px: Annotated[
        float, Meta(ge=0, le=1 << 16)
    ]  # standard deviation of the Gaussian blur of the map
    # The image score is the mean of the hottest pixels of the map, this fraction of those that
    # count, or of as many as a tile has, and one at least: 0 is the maximum.
    score_fraction: Fraction
    taps: tuple[Index, ...] | None = None  # numbers of blocks, where not the backbone's own
    tile_px: Side | None = None  # side of the square parts that the network sees one at a time
    tile_overlap_px: Index = 128  # at least, and twice what is seen around a region of interest
    mirrored: bool = False  # features are the mean of the image's and its left-right mirror's
    # The coarse head sees a copy of the image at this scale; 0: there is none. Its score, the mean
    # of this fraction of its highest distances, joins the image score.
    coarse_scale: Annotated[float, Meta(ge=0, le=1)] = 0.0
    coarse_fraction: Fraction = 0.05

    @property
    def has_levers(self) -> bool:
        """Whether it has what older releases lack: mirrored features, a coarse head, its name."""
        return self.mirrored or self.coarse_scale > 0 or self.name == "accurate"

    def to_json(self) -> dict[str, object]:
        """The recipe as plain data, without a word of what it has not and older releases lack."""
        data = asdict(self)
        for name in () if self.has_levers else _LEVERS:
            del data[name]
        return data

    def __post_init__(self) -> None:
        """Raise a ``UsageError`` if choices do not fit together."""
        height, width = self.size_px
        if height * width > MOST_PX:
            raise UsageError(
                f"The size is {height}x{width} px, but needs to be {MOST_PX >> 20} megapixels or "
                "less. Try 8192x8192."
            )
        if self.sigma_px > min(height, width):
            raise UsageError(
                f"sigma_px is {self.sigma_px:g}, but needs to lie between 0 and "
                f"{min(height, width)}. Try {min(height, width)}."
            )
        if self.crop_fraction < 1 and height != width:
            raise UsageError(
                f"The {self.name} recipe crops a square, but the size is {height}x{width}. "
                f"Try {min(height, width)}, or the standard recipe."
            )


# Defard et al. 2021: 256 px, centre crop 224 px, eps 0.01, sigma 4, maximum of the map.
_REFERENCE = Recipe(
    name="reference",
    size_px=(224, 224),
    crop_fraction=0.875,
    resample="lanczos",
    eps=0.01,
    eps_rule="absolute",
    sigma_px=4.0,
    score_fraction=0.0,
)
_STANDARD = Recipe(
    name="standard",
    size_px=(256, 256),
    crop_fraction=1.0,
    resample="bilinear",
    eps=0.01,
    eps_rule="relative",
    sigma_px=2.0,
    score_fraction=0.0,
    coarse_scale=0.625,
)
_FAST = replace(_STANDARD, name="fast", score_fraction=0.005, coarse_scale=0.0)
_ACCURATE = replace(_STANDARD, name="accurate", size_px=(288, 288), coarse_scale=0.55)
RECIPES = {recipe.name: recipe for recipe in (_REFERENCE, _STANDARD, _FAST, _ACCURATE)}
DEFAULT_RECIPE = "standard"
TWO_LEVELS = ("standard", "fast")  # look at strides 8 and 16 alone; others at the backbone's taps
