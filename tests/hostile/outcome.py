"""What became of a case, and the table of all."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum


class Verdict(StrEnum):
    """What padim made of an input, a kill or a race."""

    SAME = "same"  # as of what was not changed
    REFUSED = "refused"  # with a sentence of ours
    OTHER = "other"  # another result, finite
    SILENT = "silent"  # another result of a sealed file, or one that is not finite
    TRACEBACK = "traceback"
    HANG = "hang"
    MEMORY = "memory"
    CRASH = "crash"
    LOST = "lost"  # neither what was before nor what was to be, or left behind


KEPT = frozenset({Verdict.SAME, Verdict.REFUSED, Verdict.OTHER})  # what is promised


@dataclass(frozen=True)
class Outcome:
    """What became of a case; its kind, its index and the seed of the run make it again."""

    kind: str
    index: int
    verdict: Verdict
    change: str  # what was done, in a few words
    said: str = ""  # the sentence, or where it went wrong


@dataclass
class Tally:
    """Outcomes counted by kind, and those that break a promise kept."""

    counts: dict[str, Counter[Verdict]] = field(default_factory=dict)
    broken: list[Outcome] = field(default_factory=list)

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Count outcomes."""
        for outcome in outcomes:
            self.counts.setdefault(outcome.kind, Counter())[outcome.verdict] += 1
            if outcome.verdict not in KEPT:
                self.broken.append(outcome)

    def table(self) -> str:
        """A line for each kind, in columns."""
        header = ("kind", "cases", *Verdict)
        rows = [
            (kind, str(counts.total()), *(str(counts[verdict]) for verdict in Verdict))
            for kind, counts in sorted(self.counts.items())
        ]
        width = max([len(row[0]) for row in rows], default=0)
        lines = [
            f"{row[0]:{max(width, 8)}}" + "".join(f"{cell:>10}" for cell in row[1:])
            for row in (header, *rows)
        ]
        return "\n".join(lines)

    def list_broken(self) -> str:
        """Each way in which a promise was broken, once, with the cases that did."""
        alike: dict[tuple[str, Verdict, str], list[Outcome]] = {}
        for outcome in self.broken:
            what = re.sub(r"\d+", "#", outcome.said)
            alike.setdefault((outcome.kind, outcome.verdict, what), []).append(outcome)
        lines = []
        for (kind, verdict, _), found in sorted(alike.items()):
            numbers = ",".join(str(one.index) for one in found[:5])
            more = f" and {len(found) - 5} more" if len(found) > 5 else ""
            lines.append(
                f"{kind} {verdict}: --only {kind}:{numbers}{more} [{found[0].change}] "
                f"{found[0].said}"
            )
        return "\n".join(lines)


_SENTENCE = re.compile(r"[^\n]{8,}[.!?]", re.DOTALL)


def is_sentence(text: str) -> bool:
    """Whether an error is one line of words that ends like one, and no Python's."""
    return bool(_SENTENCE.fullmatch(text)) and "Traceback" not in text
