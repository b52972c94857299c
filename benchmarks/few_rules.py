"""Rules that set a threshold by the scores of few good images.

Each takes ascending leave-one-out scores and a rate of false alarms, and gives the score that a
good image is to exceed at that rate. ``ranks`` serve no rate below 1 / (n + 1).
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import scipy.stats  # type: ignore[import-untyped]  # it has no types
from numpy.typing import NDArray

from padim.fitting.review import outlier_p_values
from padim.scoring.calibration import Tail

Floats = NDArray[np.float64]
Rule = Callable[[Floats, float], float]

PRIOR_DEVIATION = 0.2  # of ln s, about what the choosing half has
PRIOR_COUNT = 10  # scores that it is worth
N_SIMULATED = 20_000


def rank(scores: Floats, rate: float) -> float:
    """The conformal threshold."""
    n = len(scores)
    return float(scores[n - max(1, int(rate * (n + 1) + 1e-9))])


def second(scores: Floats, rate: float) -> float:
    """One rank lower."""
    n = len(scores)
    return float(scores[max(0, n - max(1, int(rate * (n + 1) + 1e-9)) - 1)])


def belonging(scores: Floats, rate: float = 0.005) -> Floats:
    """The scores without those that a fit would list as outliers."""
    return scores[outlier_p_values(scores.astype(np.float32)) > rate]


def below_gap(scores: Floats, chance: float) -> Floats:
    """The scores without the highest one, where the gap below it is that unlikely.

    As ``Calibration`` warns of an odd image: the gap below the highest of exponential scores.
    """
    others = scores[:-1]
    if len(others) < 4:
        return scores
    middle, high = np.quantile(others, (0.5, 0.9))
    scale = max((high - middle) / math.log(0.5 / 0.1), 1e-12)
    return others if math.exp((others[-1] - scores[-1]) / scale) <= chance else scores


def student(scores: Floats, rate: float, prior_count: float = 0.0) -> float:
    """The predictive quantile where ln s is normal, its spread pooled with a prior one."""
    logs, n = np.log(scores), len(scores)
    dof = n - 1 + prior_count
    variance = (np.square(logs - logs.mean()).sum() + prior_count * PRIOR_DEVIATION**2) / dof
    spread = math.sqrt(variance * (1 + 1 / n))
    return float(math.exp(logs.mean() + scipy.stats.t.isf(rate, dof) * spread))


def exponential(scores: Floats, rate: float, prior_count: float = 0.0) -> float:
    """The predictive quantile where ln s is exponential above its median."""
    logs = np.log(scores)
    middle = float(np.median(logs))
    excesses = logs[logs > middle] - middle
    # The mean excess of a normal variable over its median is 0.8 deviations.
    total = excesses.sum() + prior_count * 0.8 * PRIOR_DEVIATION
    count = len(excesses) + prior_count
    above = min(rate / 0.5, 1.0)
    return math.exp(middle + total * (above ** (-1 / count) - 1))


@cache
def robust_factor(n: int, rate: float) -> float:
    """How many scaled median deviations above the median one more normal variable seldom lies."""
    rng = np.random.default_rng(n)
    known, new = rng.standard_normal((N_SIMULATED, n)), rng.standard_normal(N_SIMULATED)
    middle = np.median(known, axis=1)
    deviation = 1.4826 * np.median(np.abs(known - middle[:, None]), axis=1)
    return float(np.quantile((new - middle) / deviation, 1 - rate))


def robust(scores: Floats, rate: float) -> float:
    """Median and median deviation of ln s."""
    logs = np.log(scores)
    middle = float(np.median(logs))
    deviation = 1.4826 * float(np.median(np.abs(logs - middle)))
    return math.exp(middle + robust_factor(len(scores), rate) * deviation)


def pareto(scores: Floats, rate: float) -> float:
    """The generalised Pareto tail of a fit, from 21 scores on, and never below the highest."""
    return max(Tail.of(scores).quantile(rate), float(scores[-1])) if len(scores) > 20 else math.inf


RULES: dict[str, Rule] = {
    "rank": rank,
    "second rank": second,
    "rank, outliers left out": lambda s, r: rank(belonging(s), r),
    "rank, 1% outliers left out": lambda s, r: rank(belonging(s, 0.01), r),
    "rank below a gap of 5%": lambda s, r: rank(below_gap(s, 0.05), r),
    "rank below a gap of 1%": lambda s, r: rank(below_gap(s, 0.01), r),
    "Pareto": pareto,
    "Student": student,
    "Student, prior": lambda s, r: student(s, r, PRIOR_COUNT),
    "Student, outliers left out": lambda s, r: student(belonging(s), r),
    "Student, prior, outliers left out": lambda s, r: student(belonging(s), r, PRIOR_COUNT),
    "Student, prior, below a gap of 5%": lambda s, r: student(below_gap(s, 0.05), r, PRIOR_COUNT),
    "exponential": exponential,
    "exponential, prior": lambda s, r: exponential(s, r, PRIOR_COUNT / 2),
    "exponential, prior, outliers left out": lambda s, r: exponential(
        belonging(s), r, PRIOR_COUNT / 2
    ),
    "median deviation": robust,
    "rank or Student": lambda s, r: min(rank(s, r), student(belonging(s), r, PRIOR_COUNT)),
    "rank or Student, no prior": lambda s, r: min(rank(s, r), student(belonging(s), r)),
    "rank or Student, prior of 5": lambda s, r: min(rank(s, r), student(belonging(s), r, 5)),
    "rank or Student, prior of 20": lambda s, r: min(rank(s, r), student(belonging(s), r, 20)),
    "rank or Student of all": lambda s, r: min(rank(s, r), student(s, r, PRIOR_COUNT)),
    "rank or Student below a gap": lambda s, r: min(
        rank(s, r), student(below_gap(s, 0.05), r, PRIOR_COUNT)
    ),
    "rank or exponential": lambda s, r: min(
        rank(s, r), exponential(belonging(s), r, PRIOR_COUNT / 2)
    ),
    "rank or Student, where one is odd": lambda s, r: (
        rank(s, r) if len(belonging(s)) == len(s) else RULES["rank or Student"](s, r)
    ),
    "highest rank or Student": lambda s, r: (
        rank(s, r) if r * (len(s) + 1) >= 2 else RULES["rank or Student"](s, r)
    ),
    "rank, capped": lambda s, r: min(
        rank(s, r), student(below_gap(s, 0.05), 1 / (len(s) + 1), PRIOR_COUNT)
    ),
}
