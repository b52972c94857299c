"""What a person or a program reads.

Text goes to stdout, and stderr is for errors, for warnings about what was done, and for progress on
a terminal, so that the first line there is the error. With ``--json`` stdout is the document alone,
and other text moves to stderr.
"""

import json
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TextIO

from padim.errors import redact

SKIP_ADVICE = "Mend it, or leave images out with --skip-unreadable."


class Output:
    """How this run speaks; the options of a command set it."""

    as_json = False  # one document on stdout instead of text
    quiet = False
    verbose = False
    has_result = False  # so that stdout takes no other document
    advice = ""  # what to say after what went wrong
    can_skip = False  # whether images that cannot be read could be left out
    lost: OSError | None = None  # why stdout took not all that was said


# What a terminal obeys in place of showing it, but the end of a line: control characters, and those
# that turn the direction of writing, which make a name look like another (Unicode TR 36).
_CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def escape(text: str) -> str:
    """A text in which names can do nothing but be read."""
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def one_line(text: str) -> str:
    """A text in which names can do nothing but be read, the ends of lines as well."""
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
    _write(sys.stderr, f"warning: {one_line(redact(message))}\n")


def fail(error: BaseException, message: str) -> None:
    """Say what went wrong, in one sentence on stderr and as JSON on stdout when that is wanted.

    A document that is there already stays the only one.
    """
    message = redact(f"{message} {Output.advice}".rstrip())
    with suppress(BrokenPipeError):
        _write(sys.stderr, f"error: {one_line(message)}\n")
    if Output.as_json and not Output.has_result:
        failure = {"error": {"type": type(error).__name__, "message": message}}
        with suppress(BrokenPipeError):
            _write(sys.stdout, json.dumps(failure) + "\n")


def align(lines: dict[str, str]) -> str:
    """What is said of each thing, below one another."""
    width = max(map(len, lines))
    return "\n".join(f"{key.ljust(width)}  {value}" for key, value in lines.items())


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, numbers and all, aligned by spaces, a line each."""
    rows = [tuple(map(one_line, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
    return "\n".join(lines)
