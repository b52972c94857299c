"""What a person or a program reads.

Text goes to stdout, and stderr is for errors, for warnings about what was done, and for progress on
a terminal, so that the first line there is the error. With ``--json`` stdout is the document alone,
and other text moves to stderr.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class Output:
    """How this run speaks; the options of a command set it."""

    as_json = False  # one document on stdout instead of text
    quiet = False
    verbose = False
    has_result = False  # so that stdout takes no other document


def say(text: str) -> None:
    """Tell a person something."""
    if not Output.quiet:
        stream = sys.stderr if Output.as_json else sys.stdout
        stream.write(text + "\n")
        stream.flush()


def detail(text: str) -> None:
    """Tell a person something only when asked for details."""
    if Output.verbose:
        say(text)


def result(document: Any, text: str) -> None:
    """Give the result of a command: a document as JSON would have it, or a text for a person."""
    if Output.as_json:
        text = json.dumps(document, indent=2)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    Output.has_result = True


def warn(message: str) -> None:
    """Say on stderr what is doubtful about a result, even if only results are wanted."""
    sys.stderr.write(f"warning: {message}\n")


def fail(error: BaseException, message: str) -> None:
    """Say what went wrong, in one sentence on stderr and as JSON on stdout when that is wanted.

    A document that is there already stays the only one.
    """
    sys.stderr.write(f"error: {message}\n")
    if Output.as_json and not Output.has_result:
        failure = {"error": {"type": type(error).__name__, "message": message}}
        sys.stdout.write(json.dumps(failure) + "\n")
        sys.stdout.flush()


@contextmanager
def progress(description: str, n_items: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr; what it gives is told of further steps done."""
    with phases() as begin:
        yield begin(description, n_items)


@contextmanager
def phases() -> Iterator[Callable[[str, int], Callable[[int], None]]]:
    """Show a progress bar on stderr for each phase of some work.

    Yields:
        What is told of the name of a phase that begins and its number of steps; gives what is told
        of further steps done.
    """
    with bars() as bar:

        def begin(phase: str, n_items: int) -> Callable[[int], None]:
            task = bar.add_task(phase, total=n_items)
            return lambda n_done: bar.advance(task, n_done)

        yield begin


def bars() -> Progress:
    """Progress bars on stderr, where that is a terminal."""
    console = Console(stderr=True, soft_wrap=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=Output.quiet or not console.is_terminal,
    )


class _RateColumn(ProgressColumn):
    """How many steps are done a second."""

    def render(self, task: Task) -> Text:
        seconds = task.finished_time or task.elapsed
        rate = task.completed / seconds if seconds else 0.0
        words = f"{rate:.3g}/s" if rate < 100 else f"{rate:.0f}/s"
        return Text(words if rate else "", style="progress.data.speed")


def align(lines: dict[str, str]) -> str:
    """What is said of each thing, below one another."""
    width = max(map(len, lines))
    return "\n".join(f"{key.ljust(width)}  {value}" for key, value in lines.items())


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Columns of text, numbers and all, aligned by spaces."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
    return "\n".join(lines)
