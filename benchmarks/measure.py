"""What every benchmark here does alike: time candidates in turn, say on what, write it down."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from padim.files import write_text
from padim.versions import read_versions

SCHEMA_VERSION = 1
ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of one thing.

    Attributes:
        values: In the order they were taken.
    """

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return float(np.median(self.values))

    @property
    def quartiles(self) -> tuple[float, float]:
        """Ends of the interquartile range."""
        low, high = np.quantile(self.values, (0.25, 0.75))
        return float(low), float(high)

    def over(self, alternative: "Spread") -> "Spread":
        """Ratios to an alternative, each to the measurement taken in the same round."""
        pairs = zip(self.values, alternative.values, strict=True)
        return Spread(tuple(own / other for own, other in pairs))

    def minus(self, part: "Spread") -> "Spread":
        """What is left without a part, each measured in the same round."""
        pairs = zip(self.values, part.values, strict=True)
        return Spread(tuple(whole - own for whole, own in pairs))

    def shown(self, factor: float = 1.0, digits: int = 1) -> str:
        """The median and, in brackets, the interquartile range."""
        low, high = (f"{value * factor:.{digits}f}" for value in self.quartiles)
        return f"{self.median * factor:.{digits}f} [{low}, {high}]"

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {"median": self.median, "iqr": self.quartiles, "values": self.values}


@dataclass(frozen=True)
class Aim:
    """What a measurement is to reach.

    Attributes:
        what: What is measured, as a sentence begins.
        value: What came out.
        limit: What it is to be.
        at_least: Whether it is to be that or more; else that or less.
        digits: Decimals to show.
    """

    what: str
    value: float
    limit: float
    at_least: bool = False
    digits: int = 2

    @property
    def is_met(self) -> bool:
        """Whether it was reached."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def shown(self) -> str:
        """The outcome in one sentence."""
        bound = f"at {'least' if self.at_least else 'most'} {self.limit:g}"
        outcome = "met" if self.is_met else "missed"
        return f"{self.what}: {self.value:.{self.digits}f}; the aim, {bound}, is {outcome}."

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        bound = "at_least" if self.at_least else "at_most"
        return {"what": self.what, "value": self.value, bound: self.limit, "is_met": self.is_met}


def in_turn(
    candidates: Mapping[str, Callable[[], float]], n_rounds: int, n_warm_up: int = 1
) -> dict[str, Spread]:
    """Measure candidates in turn, A B A B, so that what disturbs the machine disturbs all alike.

    Args:
        candidates: What measures each, by name.
        n_rounds: How often each is measured.
        n_warm_up: How often each runs before, its measurement thrown away.

    Returns:
        What they returned, by name.
    """
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for i in range(n_warm_up + n_rounds):
        for name, measured in candidates.items():
            value = measured()
            if i >= n_warm_up:
                taken[name].append(value)
    return {name: Spread(tuple(values)) for name, values in taken.items()}


def interleaved(
    candidates: Mapping[str, Callable[[], object]], n_rounds: int, n_warm_up: int = 1
) -> dict[str, Spread]:
    """Time candidates in turn, as ``in_turn``.

    Args:
        candidates: What to run, by name.
        n_rounds: How often each is timed.
        n_warm_up: How often each runs before, untimed.

    Returns:
        Seconds, by name.
    """
    timed = {name: partial(seconds, run) for name, run in candidates.items()}
    return in_turn(timed, n_rounds, n_warm_up)


def seconds(run: Callable[[], object]) -> float:
    """How long something takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def settled(measured: Callable[[], float], n_calls: int) -> float:
    """The median of calls in a row, after one that is not counted.

    What ran before leaves cold caches behind, and threads that wait for more by spinning.

    Args:
        measured: Returns a measurement.
        n_calls: How many count.
    """
    measured()
    return float(np.median([measured() for _ in range(n_calls)]))


def arguments(
    description: str | None, phases: Sequence[str] = (), devices: Sequence[str] = ()
) -> argparse.Namespace:
    """Read the command line, which every benchmark shares.

    Args:
        description: The script's docstring.
        phases: What ``--phase`` may be, which then has to be given.
        devices: What ``--device`` may be, first the one that is measured.
    """
    summary = (description or "").partition("\n")[0]
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tiny settings, to see that it runs; its figures mean nothing and are not written",
    )
    if phases:
        parser.add_argument("--phase", choices=phases, required=True, help="which part to run")
    if devices:
        parser.add_argument("--device", choices=devices, default=devices[0], help="what computes")
    return parser.parse_args()


def facts(packages: Iterable[str] = (), device: str = "cpu") -> dict[str, Any]:
    """The machine, the software and the moment of a measurement.

    Args:
        packages: Whose versions are named beside those that decide a model's numbers.
        device: What computes.
    """
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "os": _os_name(),
            "load_before": round(os.getloadavg()[0], 2),
        },
        "software": {
            "python": platform.python_version(),
            **read_versions(),
            **{name: version(name) for name in packages},
        },
        "n_threads": torch.get_num_threads(),
        "device": device,
        "commit": _git("rev-parse", "HEAD"),
        "tree_is_clean": _is_clean(),
    }


def finish(
    name: str,
    about: Mapping[str, Any],
    content: Mapping[str, Any],
    *,
    quick: bool,
    phase: str | None = None,
) -> dict[str, Any]:
    """Write a result to ``benchmarks/results``, unless it comes from a quick run.

    Args:
        name: Of the benchmark.
        about: What ``facts`` gave before the work began.
        content: What was measured.
        quick: Whether it was a quick run.
        phase: Which part was run, of a benchmark that has several.

    Returns:
        The document.
    """
    document = {
        "schema_version": SCHEMA_VERSION,
        "benchmark": name,
        "command": f"python benchmarks/{name}.py" + (f" --phase {phase}" if phase else ""),
        **about,
        **content,
    }
    text = json.dumps(document, indent=2) + "\n"
    if quick:
        print("\nA quick run: its figures mean nothing and were not written.")
    else:
        path = RESULTS / f"{name}_{phase}.json" if phase else RESULTS / f"{name}.json"
        write_text(path, text)
        print(f"\nWritten: {path.relative_to(ROOT).as_posix()}")
        if not about["tree_is_clean"]:
            print("The tree has changes that are not committed; the result says so.")
    return json.loads(text)  # type: ignore[no-any-return]  # what comes back is what went in


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a plain table: the first column to the left, the others to the right."""
    lines = [list(headers), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        first, *others = (
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join((first, *others)).rstrip())


def show_interval(found: Sequence[float] | None, factor: float = 1, digits: int = 2) -> str:
    """A value and its interval; nothing where it was not measured."""
    if found is None:
        return ""
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*(factor * part for part in found), d=digits)


def judge(aims: Iterable[Aim]) -> list[dict[str, Any]]:
    """Print which aims are met, and give them as plain data."""
    print()
    results = []
    for aim in aims:
        print(aim.shown())
        results.append(aim.to_json())
    return results


def say(text: str) -> None:
    """Say what is going on, apart from the result."""
    print(text, file=sys.stderr, flush=True)


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.machine()


def _os_name() -> str:
    try:
        release = platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        release = platform.release()
    return f"{platform.system()} ({release}, {platform.machine()})"


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ("git", *words), cwd=ROOT, check=True, capture_output=True, encoding="utf-8"
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _is_clean() -> bool | None:
    """Whether the tree is the commit's, whatever the benchmarks wrote of themselves."""
    changes = _git("status", "--porcelain", "--", ".", ":!benchmarks/results", ":!docs/results.md")
    return None if changes is None else not changes
