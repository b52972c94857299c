"""What in a folder of good images does not look as the rest does; without torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OUTLIER_RATE = 0.005  # good images that are listed as outliers by mistake, about
_MAD_TO_SIGMA = 1.4826  # for normal deviates
_LEAST_SCALE = 0.01  # of scores, by their median: a hundredth is no spread to judge by
_BEYOND = 0.01  # p-value of scores that do not count for the bulk
_ROUNDS = 10  # three are usual
_THUMBNAIL_PX = 32
_DUPLICATE_RMS = 1.0  # grey levels between thumbnails
_FAR_DEVIATIONS = 5  # of brightness
_FAR_FACTOR = 2  # of size
_BLOCK = 1024  # thumbnails compared at once


@dataclass(frozen=True)
class Suspect:
    """An image that may not belong.

    Attributes:
        index: Which, in the order in which the images came.
        reason: ``outlier``, ``duplicate``, ``size`` or ``brightness``.
        detail: What is wrong, in words.
        p_value: Of an outlier: share of good images that would score at least as high.
        other: Of a duplicate: the index of the image that it repeats.
    """

    index: int
    reason: str
    detail: str
    p_value: float | None = None
    other: int | None = None


@dataclass(frozen=True)
class Look:
    """What is kept of an image to compare it with the rest.

    Attributes:
        source_px: (height, width) of the source image.
        brightness: Mean grey level, 0 to 255.
        thumbnail: Shape ``(32, 32)``, grey levels.
    """

    source_px: tuple[int, int]
    brightness: float
    thumbnail: NDArray[np.float32]

    @classmethod
    def of(cls, pixels: NDArray[np.uint8], source_px: tuple[int, int]) -> "Look":
        """Look at an image.

        Args:
            pixels: RGB at network size, shape ``(H, W, 3)``.
            source_px: (height, width) of the source image.
        """
        grey = pixels.mean(axis=2, dtype=np.float32)
        edges = [np.arange(_THUMBNAIL_PX) * side // _THUMBNAIL_PX for side in grey.shape]
        sums = np.add.reduceat(np.add.reduceat(grey, edges[0], axis=0), edges[1], axis=1)
        counts = [np.diff(edge, append=side) for edge, side in zip(edges, grey.shape, strict=True)]
        n_pixels = np.maximum(np.outer(*counts), 1).astype(np.float32)  # below 32 px some have none
        return cls(source_px, float(grey.mean()), sums / n_pixels)


def outlier_p_values(image_score: NDArray[np.float32]) -> NDArray[np.float64]:
    """How far out each leave-one-out score lies, by the bulk of all.

    Above the median, scores are taken for exponential, as far as their 90% quantile says. Those
    beyond a hundredth do not count for the two quantiles, which are then taken anew until nothing
    changes: else images that do not belong would hide in a tail of their own making. Those that are
    more than a tenth of all hide all the same.

    Args:
        image_score: Leave-one-out scores, shape ``(n,)``, positive.

    Returns:
        Upper tail of each, shape ``(n,)``; a half below the median.
    """
    scores = image_score.astype(np.float64)
    belongs = np.ones(len(scores), np.bool_)
    p_values = np.full(len(scores), 0.5)
    for _ in range(_ROUNDS):
        middle, high = np.quantile(scores[belongs], (0.5, 0.9))
        scale = max((high - middle) / math.log(0.5 / 0.1), _LEAST_SCALE * middle, 1e-12)
        p_values = np.exp(np.minimum((middle - scores) / scale, 0)) / 2
        belonged, belongs = belongs, p_values > _BEYOND
        if np.array_equal(belongs, belonged):
            break
    return p_values


def review(
    image_score: NDArray[np.float32], looks: Sequence[Look], rate: float = OUTLIER_RATE
) -> list[Suspect]:
    """List the images that do not look as the rest does.

    Args:
        image_score: Leave-one-out scores, shape ``(n,)``.
        looks: The n images.
        rate: Largest p-value of an outlier.

    Returns:
        Outliers, the most certain first, then near-duplicates, then images far from the rest in
        size or brightness.
    """
    p_values = outlier_p_values(image_score)
    outliers = [
        Suspect(int(i), "outlier", f"score {image_score[i]:.4g}", p_value=float(p_values[i]))
        for i in np.argsort(p_values, kind="stable")
        if p_values[i] <= rate
    ]
    return outliers + _duplicates(looks) + _odd_ones(looks)


def _duplicates(looks: Sequence[Look]) -> list[Suspect]:
    flat = np.stack([look.thumbnail.ravel() for look in looks])
    flat = flat - flat.mean(axis=0)
    squares = (flat**2).sum(axis=1)
    limit = _DUPLICATE_RMS**2 * flat.shape[1]
    found = []
    for start in range(0, len(flat), _BLOCK):
        block = slice(start, start + _BLOCK)
        apart_sq = squares[block, None] + squares - 2 * flat[block] @ flat.T
        for i, row in enumerate(apart_sq, start):
            if i and (earlier := np.flatnonzero(row[:i] <= limit)).size:
                other = int(earlier[0])
                found.append(Suspect(i, "duplicate", "nearly the same picture", other=other))
    return found


def _odd_ones(looks: Sequence[Look]) -> list[Suspect]:
    found = []
    sizes = np.array([look.source_px for look in looks], np.float64)
    usual = np.median(sizes, axis=0)
    for i in np.flatnonzero((np.abs(np.log(sizes / usual)) > math.log(_FAR_FACTOR)).any(axis=1)):
        height, width = looks[int(i)].source_px
        found.append(
            Suspect(int(i), "size", f"{height}x{width} px; {usual[0]:g}x{usual[1]:g} is usual")
        )
    brightness = np.array([look.brightness for look in looks])
    usual_level = float(np.median(brightness))
    spread = _MAD_TO_SIGMA * float(np.median(np.abs(brightness - usual_level))) + 1
    for i in np.flatnonzero(np.abs(brightness - usual_level) > _FAR_DEVIATIONS * spread):
        words = f"mean grey level {brightness[i]:.0f}; {usual_level:.0f} is usual"
        found.append(Suspect(int(i), "brightness", words))
    return found
