"""Recipes: every choice between an image and its score, as data."""

from dataclasses import dataclass, replace
from typing import Literal

EPS_RULES = ("absolute", "relative")
EPS_FLOOR = 1e-4  # a level of dead channels would otherwise have no covariance at all


@dataclass(frozen=True)
class Recipe:
    """How images are brought to the network and distances to a score.

    Attributes:
        name: Name of the recipe these settings started from.
        size_px: (height, width) of what the network sees.
        crop_fraction: Side of the centre crop over the resized short side; 1 keeps the whole image.
        resample: Pillow filter of the resize, antialiased.
        eps: Added to the diagonal of each covariance.
        eps_rule: ``absolute``, or ``relative`` to the mean variance of the level.
        sigma_px: Standard deviation of the Gaussian blur of the map.
        score_fraction: The image score is the mean of the hottest pixels of the map, this fraction
            of those that count, or of as many as a tile has, and one at least: 0 is the maximum.
        taps: Numbers of the tapped blocks; the backbone's own when None.
        tile_px: Side of the square parts that the network sees one at a time, when it does not see
            the whole.
        tile_overlap_px: By how much neighbouring tiles overlap at least, and twice what is seen
            around a region of interest.
    """

    name: str
    size_px: tuple[int, int]
    crop_fraction: float
    resample: Literal["bilinear", "lanczos"]
    eps: float
    eps_rule: Literal["absolute", "relative"]
    sigma_px: float
    score_fraction: float
    taps: tuple[int, ...] | None = None
    tile_px: int | None = None
    tile_overlap_px: int = 128


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
    sigma_px=4.0,
    score_fraction=0.01,
)
# Two taps: no worse at large defects with a third of the numbers
# (benchmarks/recipe_levers.py, EfficientNet-Lite0).
_FAST = replace(_STANDARD, name="fast", sigma_px=2.0, score_fraction=0.005, taps=(2, 4))
RECIPES = {recipe.name: recipe for recipe in (_REFERENCE, _STANDARD, _FAST)}
DEFAULT_RECIPE = "standard"
