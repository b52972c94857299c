"""How high few good images may score, by their spread; without torch."""

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

ODD_CHANCE = 0.05  # of a gap as wide below the highest of scores that belong together
# What is expected of the deviation of ln s, and how many scores that is worth: chosen by
# benchmarks/few_images.py.
PRIOR_DEVIATION, PRIOR_COUNT = 0.2, 10
_LEAST_SCORE = 1e-6  # its logarithm is still a number


def is_highest_odd(ascending: NDArray[np.float32]) -> bool:
    """Whether the highest of three scores or more is too far above the next to belong.

    The gap below the highest of exponential scores is exponential, of the same scale.

    Source:
        Renyi 1953, On the theory of order statistics.
    """
    others = ascending[:-1].astype(np.float64)
    # Quantiles of what is sorted; np.quantile would import all of numpy.ma.
    places = np.multiply((0.5, 0.9), len(others) - 1)
    middle, high = np.interp(places, np.arange(len(others)), others)
    scale = max((high - middle) / math.log(0.5 / 0.1), 1e-12)
    return math.exp(-(float(ascending[-1]) - others[-1]) / scale) <= ODD_CHANCE


def predict_highest(ascending: NDArray[np.float32]) -> float:
    """The score that one more good image exceeds as seldom as the highest of n: 1 in n + 1.

    The logarithms of scores are taken for normal. Their variance is a mean of their own and of a
    prior one, which is worth `PRIOR_COUNT` scores. The highest does not count where it is odd.

    Source:
        Gelman et al. 2013, Bayesian Data Analysis, section 3.3: the predictive distribution.
    """
    belong = ascending[: len(ascending) - is_highest_odd(ascending)].astype(np.float64)
    logs = np.log(np.maximum(belong, _LEAST_SCORE))
    count, dof = len(logs), len(logs) - 1 + PRIOR_COUNT
    prior = PRIOR_COUNT * PRIOR_DEVIATION**2
    variance = (float(np.square(logs - logs.mean()).sum()) + prior) / dof
    above = student_quantile(1 / (1 + len(ascending)), dof)
    return math.exp(float(logs.mean()) + above * math.sqrt(variance * (1 + 1 / count)))


def student_quantile(rate: float, dof: int) -> float:
    """What a Student variable exceeds at a rate.

    To a hundred-thousandth at rates from 0.02 and degrees of freedom from 13.

    Source:
        Abramowitz & Stegun 1964, equation 26.7.5.
    """
    z = -NormalDist().inv_cdf(rate)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return math.fsum(term / dof**i for i, term in enumerate(terms))
