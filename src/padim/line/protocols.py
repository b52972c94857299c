"""What a source of pictures and a receiver of verdicts have to do."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from padim.store.inspection import Inspection


@dataclass(frozen=True)
class Part:
    """What a source hands over: a picture, or a trigger whose picture is missing.

    Attributes:
        picture: The bytes of an image file; None when there is none.
        key: What the source knows it by, the same after a restart, so that it is inspected once.
        time_s: When it was triggered, in seconds since 1970.
        recipe: What it is to be inspected by.
        reason: Why there is no picture, as a sentence; empty when there is one.
        serial: Of the part, when it has one.
        tags: Other keys of the part.
        deadline_s: Seconds from now until its answer; it waits for its turn when None.
    """

    picture: bytes | None
    key: str
    time_s: float
    recipe: str
    reason: str = ""
    serial: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    deadline_s: float | None = None


class Source(Protocol):
    """Brings pictures.

    One thread calls its methods; whatever they raise ends it, and a supervisor opens it again.

    Attributes:
        name: As settings have it.
    """

    name: str

    @property
    def trouble(self) -> str:
        """What is wrong, as a sentence, though it goes on; empty when all is well."""

    def open(self) -> None:
        """Connect; an error says in a sentence what is missing."""

    def take(self, n_most: int, timeout_s: float) -> list[Part]:
        """Hand over parts that are new, at most so many.

        The first of them is waited for at most so long; none is handed over when none came.
        """

    def forget(self, part: Part, inspection: Inspection) -> None:
        """Told that the verdict is written, so that the part needs not be brought again.

        It gets the very part that ``take`` gave since it was last opened.
        """

    def close(self) -> None:
        """Disconnect; what was handed over and not forgotten is brought again later."""


class Sink(Protocol):
    """Takes verdicts.

    One thread calls its methods; whatever they raise ends it, and a supervisor opens it again: what
    was not delivered is delivered then.

    Attributes:
        name: As settings have it.
        n_together: How many it is given at once, at most.
    """

    name: str
    n_together: int

    def open(self) -> None:
        """Connect; an error says in a sentence what is missing."""

    def deliver(self, inspections: Sequence[Inspection]) -> None:
        """Pass them on, in order, and return when the receiver has them for good.

        After a failure all of them may come again: the id tells the receiver so.
        """

    def check(self) -> None:
        """Called each second while there is nothing to deliver; raises if the receiver is gone."""

    def close(self) -> None:
        """Disconnect."""
