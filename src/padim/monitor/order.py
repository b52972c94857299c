"""Whether good images may have come in any order, as the drift alarm takes for granted."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from padim.monitor.bets import Bets
from padim.monitor.observation import describe_statistic, name_columns
from padim.monitor.pool import Pool
from padim.scoring.reference import Reference

_N_KEPT = 2000
LIMIT = 100.0  # capital that one order in a hundred reaches, at most, where any is as likely


@dataclass(frozen=True)
class Order:
    """What bets on the order of images have won.

    Attributes:
        capital: The most that there was, of 1.
        statistic: Which one it was won on.
        since: The place of the image that the change began with; the first is 0.
    """

    capital: float
    statistic: str
    since: int

    @property
    def sentence(self) -> str:
        """What to say of an order that is not random; empty of one that may be."""
        if self.capital < LIMIT:
            return ""
        return (
            "The good images, in the order of their names, are not in random order: "
            f"{describe_statistic(self.statistic)} changes from image {self.since + 1} on, and "
            f"one random order in {int(min(self.capital, 1e6)):,} looks like this, or fewer. If "
            "the parts on the line change like that as well, the drift alarm rings for it: let it "
            "look at one part in several with padim monitor --every."
        )


def look_at_order(image_score: NDArray[np.float32], reference: Reference | None) -> Order:
    """Bet on the order of good images.

    Args:
        image_score: Of each, in their order, shape ``(n,)``.
        reference: What else they were like, in the same order.

    Source:
        Ville's inequality: where any order is as likely, the capital reaches c in one of c orders
        at most.
    """
    columns = name_columns(image_score, reference)
    names, rows = list(columns), np.column_stack(list(columns.values()))
    rng = np.random.default_rng(0)
    pool, bets = Pool(rows[:0], _N_KEPT), Bets.start(len(names), 0)
    best = Order(1.0, names[0], 0)
    for i, row in enumerate(rows):
        uniform = rng.random(len(names) + 1)
        bets = bets.step(pool.p_values(row, uniform[:-1]), i)
        pool.add(row, float(uniform[-1]))
        if bets.capital > best.capital:
            culprit = int(bets.log_capital.argmax())
            best = Order(bets.capital, names[culprit], int(bets.since[culprit]))
    return best
