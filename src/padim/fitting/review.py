"""What in a folder of good images does not look as the rest does; without torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from padim.images.thumbnails import Look, far_sizes, near_duplicates
from padim.scoring.collector import Collector

OUTLIER_RATE = 0.005  # good images that are listed as outliers by mistake, about
_MAD_TO_SIGMA = 1.4826  # for normal deviates
_LEAST_SCALE = 0.01  # of scores, by their median: a hundredth is no spread to judge by
_BEYOND = 0.01  # p-value of scores that do not count for the bulk
_ROUNDS = 10  # three are usual
_FAR_DEVIATIONS = 5  # of brightness


@dataclass(frozen=True)
class Suspect:
    """An image that may not belong."""

    index: int  # which, in the order in which the images came
    reason: str  # outlier, duplicate, size or brightness
    detail: str  # what is wrong, in words
    p_value: float | None = None  # of an outlier: share of good images that would score as high
    other: int | None = None  # of a duplicate: the index of the image that it repeats


def outlier_p_values(image_score: NDArray[np.float32]) -> NDArray[np.float64]:
    """The upper tail of each leave-one-out score, by the bulk of all; a half below the median.

    Above the median, scores are taken for exponential, as far as their 90% quantile says. Those
    beyond a hundredth do not count for the two quantiles, which are then taken anew until nothing
    changes: else images that do not belong would hide in a tail of their own making. Those that are
    more than a tenth of all hide all the same.
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

    Outliers, whose p-values are at most ``rate``, come first, the most certain one at the top.
    Near-duplicates follow, then images far from the rest in size or brightness.
    """
    p_values = outlier_p_values(image_score)
    outliers = [
        Suspect(int(i), "outlier", f"score {image_score[i]:.4g}", p_value=float(p_values[i]))
        for i in np.argsort(p_values, kind="stable")
        if p_values[i] <= rate
    ]
    repeated = [
        Suspect(i, "duplicate", "nearly the same picture", other=other)
        for i, other in near_duplicates(looks)
    ]
    return outliers + repeated + _find_odd(looks)


def review_look(
    collector: Collector, looks: Sequence[Look], rate: float
) -> tuple[tuple[Suspect, ...], dict[int, NDArray[np.float32]]]:
    """Review the images of a second look: what ``review`` lists, and the outliers' maps."""
    suspects = tuple(review(collector.image_scores(), looks, rate))
    outliers = {suspect.index for suspect in suspects if suspect.reason == "outlier"}
    return suspects, {i: found for i, found in collector.maps().items() if i in outliers}


def _find_odd(looks: Sequence[Look]) -> list[Suspect]:
    found = [Suspect(i, "size", words) for i, words in far_sizes(looks)]
    brightness = np.array([look.brightness for look in looks])
    usual_level = float(np.median(brightness))
    spread = _MAD_TO_SIGMA * float(np.median(np.abs(brightness - usual_level))) + 1
    for i in np.flatnonzero(np.abs(brightness - usual_level) > _FAR_DEVIATIONS * spread):
        words = f"mean grey level {brightness[i]:.0f}; {usual_level:.0f} is usual"
        found.append(Suspect(int(i), "brightness", words))
    return found
