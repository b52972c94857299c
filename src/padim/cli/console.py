"""What a person or a program reads.

Text goes to stdout, and stderr is for errors, for warnings about what was done, and for progress on
a terminal, so that the first line there is the error. With ``--json`` stdout is the document alone,
and other text moves to stderr.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
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
    advice = ""  # what to say after what went wrong
    lost: OSError | None = None  # why stdout took not all that was said


# What a terminal obeys in place of showing it, but the end of a line: control characters, and those
# that turn the direction of writing, which make a name look like another (Unicode TR 36).
_CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def escape(text: str) -> str:
    """A text in which names can do nothing but be read."""
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def _one_line(text: str) -> str:
    return escape(text).replace("\n", "\\n")


def _write(stream: TextIO, text: str) -> None:
    """Write a text; a stream that takes no more, of a full disk, does not end the work."""
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _silence(stream)
        if stream is sys.stdout:
            Output.lost = error


def flush_streams() -> OSError | None:
    """Write what is left of both streams, so that Python has nothing to complain of as it ends.

    Returns:
        Why stdout took not all that was said, if it is so.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            _silence(stream)
            if stream is sys.stdout and not isinstance(error, BrokenPipeError):
                Output.lost = error
    return Output.lost


def _silence(stream: TextIO) -> None:
    """Let what is still written to a stream go nowhere."""
    with suppress(OSError, ValueError):  # a stream that is no file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()


def say(text: str) -> None:
    """Tell a person something."""
    if not Output.quiet:
        _write(sys.stderr if Output.as_json else sys.stdout, escape(text) + "\n")


def detail(text: str) -> None:
    """Tell a person something only when asked for details."""
    if Output.verbose:
        say(text)


def result(document: Any, text: str) -> None:
    """Give the result of a command: a document as JSON would have it, or a text for a person."""
    _write(sys.stdout, (json.dumps(document, indent=2) if Output.as_json else escape(text)) + "\n")
    Output.has_result = True


def warn(message: str) -> None:
    """Say on stderr what is doubtful about a result, even if only results are wanted."""
    _write(sys.stderr, f"warning: {_one_line(message)}\n")


def fail(error: BaseException, message: str) -> None:
    """Say what went wrong, in one sentence on stderr and as JSON on stdout when that is wanted.

    A document that is there already stays the only one.
    """
    message = f"{message} {Output.advice}".rstrip()
    with suppress(BrokenPipeError):
        _write(sys.stderr, f"error: {_one_line(message)}\n")
    if Output.as_json and not Output.has_result:
        failure = {"error": {"type": type(error).__name__, "message": message}}
        with suppress(BrokenPipeError):
            _write(sys.stdout, json.dumps(failure) + "\n")


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
        _NameColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=Output.quiet or not console.is_terminal,
    )


class _NameColumn(ProgressColumn):
    """What is done, as it is named, which may be by a folder."""

    def render(self, task: Task) -> Text:
        return Text(_one_line(task.description))


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
    """Columns of text, numbers and all, aligned by spaces, a line each."""
    rows = [tuple(map(_one_line, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
    return "\n".join(lines)
