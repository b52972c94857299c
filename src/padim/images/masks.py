"""Ground truth drawn as an image: which pixels are a defect, and what is doubtful about it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from padim.images.decode import read_layers

# What can be doubtful: words that follow "masks that", and what follows of it.
FLAWS: dict[str, tuple[str, str]] = {
    "inverted-mask": (
        "mark the border and most of their image",
        "background and defect look exchanged",
    ),
    "grey-mask": ("are grey all over, as photographs are", "what is marked is a guess"),
    "covering-mask": ("mark more than half of their image", "look whether that is the defect"),
    "mask-levels": ("have more than two levels", "a defect is what is above half of the range"),
    "alpha-mask": ("are drawn in alpha alone", "a defect is where they are opaque"),
    "box-mask": ("know only the box of a defect", "all of the box counts"),
}
_MOST_CLASSES = 16  # levels, in a map of classes
_LARGEST_CLASS = 31  # of numbers that are classes whatever their shape
_ENDS = 1 / 8  # share of the range, at each end, that noise of a compressed mask stays within
_MOST_GREY = 0.25  # share of pixels between the ends
_COVERED = 0.5  # share of pixels
_BORDER = 0.9  # share of the border's pixels


@dataclass(frozen=True, eq=False)
class MaskImage:
    """Ground truth of an image.

    Attributes:
        mask: True on a defect, shape ``(H, W)``.
        flaws: What is doubtful about it: names of `FLAWS`.
    """

    mask: NDArray[np.bool_]
    flaws: tuple[str, ...] = ()


def read_mask(path: Path) -> MaskImage:
    """Read a mask image, as `judge_levels` has it.

    Palettes are looked up, and the EXIF orientation is obeyed. Alpha is read only where the colour
    is the same everywhere, and alpha is not.

    Raises:
        MaskReadError: It cannot be read.
    """
    levels, alpha = read_layers(path)
    if alpha is not None and _is_constant(levels) and not _is_constant(alpha):
        found = judge_levels(alpha)
        return MaskImage(found.mask, ("alpha-mask", *found.flaws))
    return judge_levels(levels)


def judge_levels(levels: NDArray[Any]) -> MaskImage:
    """Tell the defect in the levels of a mask.

    - One level: all is a defect if it is above 0.
    - Two levels, whatever they are: the defect is the higher one.
    - Classes, the lowest of which is 0: all above 0 is a defect. These are whole numbers up to 31,
      or at most 16 levels that all fill areas and are not all next to the darkest or the brightest.
    - Any others, which blurring, scaling and JPEG leave: above half of their range.

    Args:
        levels: Shape ``(H, W)``, of any type; what is not finite is the lowest.
    """
    levels = _make_finite(levels)
    values = _list_values(levels)
    flaws = []
    if len(values) <= 2 or _are_classes(levels, values):
        lower = values[0] if len(values) == 2 else 0
        mask = np.asarray(levels > lower)
    else:
        low, high = float(values[0]), float(values[-1])
        mask = np.asarray(levels > (low + high) / 2)
        flaws.append("mask-levels")
        end = (high - low) * _ENDS
        if ((levels > low + end) & (levels < high - end)).mean() > _MOST_GREY:
            flaws.insert(0, "grey-mask")
    return MaskImage(mask, (*find_flaws(mask), *flaws))


def find_flaws(mask: NDArray[np.bool_]) -> tuple[str, ...]:
    """Find what is doubtful about which pixels a mask marks: names of `FLAWS`."""
    if not mask.size or mask.mean() <= _COVERED:
        return ()
    border = np.concatenate((mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]))
    is_inverted = not mask.all() and border.mean() >= _BORDER
    return ("inverted-mask" if is_inverted else "covering-mask",)


def _are_classes(levels: NDArray[Any], values: NDArray[Any]) -> bool:
    if values[0] != 0:
        return False
    if values[-1] <= _LARGEST_CLASS and (values == np.round(values)).all():
        return True
    if len(values) > _MOST_CLASSES or min(levels.shape) < 3:
        return False
    end = float(values[-1]) * _ENDS
    if ((values <= end) | (values >= values[-1] - end)).all():
        return False
    middle = levels[1:-1, 1:-1]
    height, width = levels.shape
    is_inside = np.ones(middle.shape, np.bool_)
    for row in range(3):
        for column in range(3):
            is_inside &= levels[row : height - 2 + row, column : width - 2 + column] == middle
    return bool(np.isin(values[1:], middle[is_inside]).all())


def _make_finite(levels: NDArray[Any]) -> NDArray[Any]:
    if not np.issubdtype(levels.dtype, np.floating):
        return levels
    is_finite = np.isfinite(levels)
    return np.where(is_finite, levels, levels.min(initial=0, where=is_finite))


def _list_values(levels: NDArray[Any]) -> NDArray[Any]:
    if levels.dtype == np.uint8:  # many times faster than sorting
        return np.flatnonzero(np.bincount(levels.ravel(), minlength=256))
    return np.unique(levels)


def _is_constant(levels: NDArray[Any]) -> bool:
    return bool(levels.size == 0 or (levels == levels.flat[0]).all())
