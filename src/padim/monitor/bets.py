"""Bets against the claim that nothing has changed: what they win is the evidence that it has."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

_MOST_EVIDENCE = 1e300  # of an alarm that nobody looks at for thousands of parts
JUMP = 0.01  # part of the capital that changes its mind each time
_SIDES = np.array([-1.0, 0.0, 1.0])  # on small p-values, on nothing, on large ones


@dataclass(frozen=True)
class Bets:
    """What has been won on each of several statistics.

    Attributes:
        shares: Of the capital on each side, shape ``(statistics, 3)``.
        log_capital: Its logarithm; the capital begins with 1.
        evidence: The Shiryaev-Roberts statistic of the capital: of exchangeable parts it is as
            large as their number on average, and begins with 0. It stays finite.
        lowest: The lowest logarithm so far.
        since: The number of the part before which that was: there a change began, if there is one.
    """

    shares: NDArray[np.float64]
    log_capital: NDArray[np.float64]
    evidence: NDArray[np.float64]
    lowest: NDArray[np.float64]
    since: NDArray[np.int64]

    @classmethod
    def start(cls, n_statistics: int, number: int) -> "Bets":
        """Before the first bet, which is on the part of this number."""
        zeros = np.zeros(n_statistics)
        shares = np.full((n_statistics, len(_SIDES)), 1 / len(_SIDES))
        return cls(shares, zeros, zeros, zeros, np.full(n_statistics, number))

    def step(self, p_values: NDArray[np.float64], number: int) -> "Bets":
        """Bet on the p-values of the part of a number.

        Source:
            Vovk et al. 2021, Retrain or not retrain: conformal test martingales for change-point
            detection (arXiv 2102.10439): the Simple Jumper, and Shiryaev-Roberts upon it.
        """
        is_lowest = self.log_capital <= self.lowest
        shares = (1 - JUMP) * self.shares + JUMP / len(_SIDES)
        shares = shares * (1 + _SIDES * (p_values[:, None] - 0.5))
        factor = shares.sum(axis=1)
        return replace(
            self,
            shares=shares / factor[:, None],
            log_capital=self.log_capital + np.log(factor),
            evidence=np.minimum(self.evidence + 1, _MOST_EVIDENCE) * factor,
            lowest=np.where(is_lowest, self.log_capital, self.lowest),
            since=np.where(is_lowest, number, self.since),
        )

    @property
    def total(self) -> float:
        """The evidence of all statistics together: the mean is evidence as each of them is."""
        return float(self.evidence.mean())

    @property
    def capital(self) -> float:
        """The mean capital."""
        highest = float(self.log_capital.max())
        return math.exp(min(highest, 700.0)) * float(np.exp(self.log_capital - highest).mean())

    def find_culprit(self) -> int:
        """The statistic with the most evidence."""
        return int(self.evidence.argmax())

    def is_higher(self, statistic: int) -> bool:
        """Whether a statistic has been betted on as higher than before, rather than lower."""
        return bool(self.shares[statistic, 0] > self.shares[statistic, 2])

    def find_gain(self, statistic: int) -> float:
        """How many times the capital on a statistic has grown from its lowest."""
        return math.exp(min(float(self.log_capital[statistic] - self.lowest[statistic]), 700.0))
