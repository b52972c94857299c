"""An inspection: what came, and what was said of it. It has one of three verdicts, and only one."""

import math
import secrets
import time
from dataclasses import dataclass, field
from enum import StrEnum

from padim.images.regions import Region

_RANDOM_BITS = 74
_LONGEST_REASON = 500  # characters


class Verdict(StrEnum):
    """What an inspection ends in. Whoever moves parts treats ``NOT INSPECTED`` as ``NOK``."""

    OK = "OK"
    NOK = "NOK"
    NOT_INSPECTED = "NOT INSPECTED"


@dataclass(frozen=True)
class Arrival:
    """A picture, or a trigger without one, that was accepted.

    Attributes:
        id: Text that ascends with time, and that no other has.
        recipe: What it is to be inspected by.
        time_s: When it came, in seconds since 1970.
        source: Who brought it: ``http``, or the name of a source.
        key: What its source knows it by, the same after a restart; None when it does not. A source
            and a key have one inspection.
        serial: Of the part, when it has one.
        tags: Other keys of the part.
    """

    id: str
    recipe: str
    time_s: float
    source: str
    key: str | None = None
    serial: str | None = None
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Replace letters that a database does not take: one such text would hold up all others."""
        for name in ("recipe", "source", "key", "serial"):
            text = getattr(self, name)
            if text is not None and not is_storable(text):
                object.__setattr__(self, name, make_storable(text))
        if not all(is_storable(one) for pair in self.tags.items() for one in pair):
            tags = {make_storable(key): make_storable(one) for key, one in self.tags.items()}
            object.__setattr__(self, "tags", tags)


@dataclass(frozen=True)
class Findings:
    """What a model said of a picture.

    Attributes:
        model_sha256: Of the model file; None when it was opened from none.
        score: The image score, in standard deviations of normal patches.
        p_value: Share of good images that score at least as high.
        threshold: Images that score higher are NOK.
        threshold_kind: As of ``scoring.calibration.Threshold``.
        label: ``normal`` or ``anomalous``.
        regions: Above the threshold of maps, in source pixels, the highest peak first.
        level_scores: What each level of the network adds, coarse to fine.
        monitor: What the drift alarm says, in a word: ``quiet``, ``alarm``, or
            ``failed``.
    """

    model_sha256: str | None
    score: float
    p_value: float
    threshold: float
    threshold_kind: str
    label: str
    regions: tuple[Region, ...]
    level_scores: tuple[float, ...]
    monitor: str

    def __post_init__(self) -> None:
        """Raise a ``ValueError`` if a number is none, which a database would not give back."""
        numbers = [self.score, self.p_value, self.threshold, *self.level_scores]
        numbers += [number for one in self.regions for number in (one.peak, one.mean)]
        if not all(map(math.isfinite, numbers)):
            raise ValueError("what a model found is not finite")


@dataclass(frozen=True)
class Milliseconds:
    """How long a picture took, step by step; None for a step that was not reached."""

    queue: float | None = None
    decode: float | None = None
    score: float | None = None


@dataclass(frozen=True)
class Inspection:
    """An arrival with its verdict.

    Attributes:
        arrival: What came.
        verdict: What it ended in.
        reason: Why it was not inspected, as a sentence; empty otherwise.
        finished_s: When that was known, in seconds since 1970.
        image_sha256: Of the picture's bytes; None when none came.
        image_bytes: How many those are.
        findings: What the model said; None when it was not inspected.
        took: How long each step took.
    """

    arrival: Arrival
    verdict: Verdict
    finished_s: float
    reason: str = ""
    image_sha256: str | None = None
    image_bytes: int = 0
    findings: Findings | None = None
    took: Milliseconds = Milliseconds()

    def __post_init__(self) -> None:
        """Raise a ``ValueError`` if the verdict does not fit what was found."""
        is_inspected = self.verdict is not Verdict.NOT_INSPECTED
        if is_inspected != (self.findings is not None) or is_inspected == bool(self.reason):
            raise ValueError("a verdict needs findings, and NOT INSPECTED needs a reason alone")


def is_storable(text: str) -> bool:
    """Whether a database takes a text: PostgreSQL no zero, and none half of a surrogate pair."""
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def make_storable(text: str) -> str:
    """The same text with a question mark for each letter that a database does not take."""
    return text.replace("\0", "?").encode(errors="replace").decode()


def refuse(
    arrival: Arrival, reason: str, *, image_sha256: str | None = None, image_bytes: int = 0
) -> Inspection:
    """End an arrival as not inspected, for a reason that is a sentence."""
    return Inspection(
        arrival,
        Verdict.NOT_INSPECTED,
        time.time(),
        make_storable(reason)[:_LONGEST_REASON],
        image_sha256,
        image_bytes,
    )


def name_inspection(time_s: float) -> str:
    """A new id, which ascends with time: a UUID of version 7, in 36 characters.

    Source:
        RFC 9562, section 5.7.
    """
    random = secrets.randbits(_RANDOM_BITS)
    number = (int(time_s * 1000) & (1 << 48) - 1) << 80 | 7 << 76 | (random >> 62) << 64
    digits = f"{number | 2 << 62 | random & (1 << 62) - 1:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
