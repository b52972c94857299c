"""What the drift alarm says: typed, and as sentences that a person understands."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from padim.monitor.observation import describe_statistic

MANY_REJECTED = 20  # parts in a row
Basis = Literal["leave-one-out", "held-out", "parts"]


@dataclass(frozen=True)
class Moment:
    """A part among those that came."""

    number: int  # the first is 1
    name: str = ""  # what a person knows it by

    def __str__(self) -> str:
        return f"part {self.number}" + (f" ({self.name})" if self.name else "")


@dataclass(frozen=True)
class Evidence:
    """How much speaks for a change of one statistic.

    Attributes:
        statistic: Its name.
        value: The Shiryaev-Roberts statistic.
        since: Where the change began, if there is one.
        is_higher: Whether it is higher since, rather than lower.
    """

    statistic: str
    value: float
    since: Moment
    is_higher: bool


@dataclass(frozen=True)
class Place:
    """Where the maps have risen most, from 0 to 1, and by how much."""

    right: float
    down: float
    rise: float  # standard deviations of normal patches


@dataclass(frozen=True)
class Alarm:
    """Something has changed.

    Attributes:
        at: The part that it was noticed at.
        culprit: The statistic that speaks for it most.
        gain: How many times a bet on that has grown since the change.
        basis: What the parts were compared with.
        parts_between_alarms: Parts between two false alarms, on average and at least.
        place: Where the maps have risen; None when nothing is known, or it is not about the map.
    """

    at: Moment
    culprit: Evidence
    gain: float
    basis: Basis
    parts_between_alarms: int
    place: Place | None = None

    @property
    def sentence(self) -> str:
        """Since when, what, how improbable, and where."""
        name, since = describe_statistic(self.culprit.statistic), self.culprit.since
        side = "higher" if self.culprit.is_higher else "lower"
        before = "before" if self.basis == "parts" else "that of the good images"
        text = (
            f"Drift: since {since}, {name} is {side} than {before}; noticed at {self.at}. "
            f"A bet on that has grown {format_gain(self.gain)}-fold. A line that does not change "
            f"rings once in {self.parts_between_alarms:,} parts on average, or less often."
        )
        if self.place is not None:
            text += (
                f" The maps have risen most at {self.place.right:.0%} from the left and "
                f"{self.place.down:.0%} from the top."
            )
        return text


@dataclass(frozen=True)
class MonitorState:
    """Where a monitor stands.

    Attributes:
        n_seen: Parts that came.
        n_accepted: Of those, which were found good.
        n_rejected_in_a_row: Rejected since the last one that was accepted.
        basis: What the next part is compared with, beside those that came: the good images of the
            fit, held-out ones, or ``parts`` alone.
        n_compared: How many those are.
        evidence: Of each statistic; empty before the first part.
        total: Their mean. At ``parts_between_alarms`` the alarm rings, and all begins anew.
        alarm: What rang with the last part; None otherwise.
    """

    n_seen: int
    n_accepted: int
    n_rejected_in_a_row: int
    basis: Basis
    n_compared: int
    evidence: tuple[Evidence, ...]
    total: float
    alarm: Alarm | None

    @property
    def notice(self) -> str:
        """What is wrong but no drift that is proven; empty when there is nothing."""
        if self.n_rejected_in_a_row < MANY_REJECTED:
            return ""
        return (
            f"The last {self.n_rejected_in_a_row} parts were all rejected, and drift is judged by "
            "accepted ones. Look at the parts, at the camera and at its light."
        )


def find_place(recent: NDArray[np.float64], usual: NDArray[np.float64]) -> Place | None:
    """Where a coarse map has risen most above what is usual; None where it has not."""
    rise = recent - usual
    down, right = np.unravel_index(int(rise.argmax()), rise.shape)
    highest = float(rise[down, right])
    if highest <= 0:
        return None
    height, width = rise.shape
    return Place((int(right) + 0.5) / width, (int(down) + 0.5) / height, highest)


def format_gain(gain: float) -> str:
    """A factor in few digits: ``35``, ``12,000``, ``more than a billion``."""
    if gain > 1e9:
        return "more than a billion"
    return f"{float(f'{gain:.2g}'):,.0f}"
