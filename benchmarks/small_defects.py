"""Small defects made on photographs of good parts, with exact masks.

Real sets have few small defects, and what favours large ones would go unnoticed. Sizes are those
that a defect has once the whole image is resized to 256 x 256 px; it is made in the pixels of the
source, so that every recipe sees the same photograph, whatever its geometry.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS = ("scratch", "spot", "hole", "displaced")
SIZE_PX = (4.0, 16.0)  # at NETWORK_PX; a scratch is at least 8 px long
NETWORK_PX = 256
SHIFT_LEVELS = (25.0, 60.0)  # of 255, by which a scratch or a spot is darker or lighter
HOLE_LEVEL = 0.6  # of the place's mean
N_PLACES = 16  # drawn for a displaced patch; the most different one is taken

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SmallDefect:
    """A photograph with one small defect.

    Attributes:
        pixels: As the good photograph.
        mask: True on the defect, shape ``(H0, W0)``.
        kind: One of ``KINDS``.
    """

    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    kind: str


def make_small_defect(good: NDArray[np.uint8], seed: tuple[int, ...]) -> SmallDefect:
    """Damage a photograph in one place.

    Args:
        good: Grey, shape ``(H0, W0)``.
        seed: Decides kind, place, size and shape; the same gives the same.
    """
    rng = np.random.default_rng(seed)
    kind = KINDS[rng.integers(len(KINDS))]
    outside_px = _outside_px(kind, good.shape, rng)
    # An edge as soft as the coarser of the two grids.
    pitch_px = max(1.0, NETWORK_PX / good.shape[0], NETWORK_PX / good.shape[1])
    alpha = np.clip(0.5 - outside_px / pitch_px, 0, 1)
    mask = outside_px <= max(0.0, float(outside_px.min()))
    image = good.astype(np.float64)
    level = float(image[mask].mean())
    if kind == "hole":
        filling: Any = HOLE_LEVEL * level
    elif kind == "displaced":
        filling = _displaced(image, alpha, rng)
    else:
        shift = rng.uniform(*SHIFT_LEVELS) * rng.choice((-1.0, 1.0))
        filling = image + (shift if 0 <= level + shift <= 255 else -shift)
    pixels = image + alpha * (filling - image)
    return SmallDefect(pixels.round().clip(0, 255).astype(np.uint8), mask, kind)


def _outside_px(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Distance of every pixel to the defect's edge, at network size, negative inside."""
    size_px = rng.uniform(*SIZE_PX)
    if kind == "scratch":
        size_px = max(size_px, 8.0)
    centre = rng.uniform(0, NETWORK_PX, size=2)  # the whole image: what a crop loses counts too
    y, x = ((np.arange(n) + 0.5) * (NETWORK_PX / n) - c for n, c in zip(shape, centre, strict=True))
    angle = rng.uniform(0, np.pi)
    along = np.abs(x * np.cos(angle) + y[:, None] * np.sin(angle))
    across = np.abs(y[:, None] * np.cos(angle) - x * np.sin(angle))
    half, other_half = size_px / 2, size_px / 2 * rng.uniform(0.6, 1)
    outside_px: Floats
    if kind == "scratch":
        outside_px = np.hypot(np.maximum(along - half, 0), across) - rng.uniform(1.5, 3) / 2
    elif kind == "spot":
        outside_px = (np.hypot(along / half, across / other_half) - 1) * other_half
    else:
        outside_px = np.maximum(along - half, across - other_half)
    return outside_px


def _displaced(image: Floats, alpha: Floats, rng: np.random.Generator) -> Floats:
    """The image moved, so that another place of it comes to lie on the defect's."""
    rows, columns = (np.flatnonzero(alpha.any(axis=axis)) for axis in (1, 0))
    moved = []
    for _ in range(N_PLACES):
        down = rng.integers(-rows[0], image.shape[0] - rows[-1])
        across = rng.integers(-columns[0], image.shape[1] - columns[-1])
        moved.append(np.roll(image, (-down, -across), axis=(0, 1)))
    return max(moved, key=lambda other: float((alpha * np.abs(other - image)).sum()))
