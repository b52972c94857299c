"""Image files as streams of bytes: regular files alone, and none that would take for ever."""

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from padim.errors import ImageReadError

STDIN = Path("/dev/stdin")  # in place of a file: what comes through a pipe
_STDIN_NAMES = ("-", STDIN.as_posix())
_MOST_PIPED_BYTES = 2**29
_MOST_SCANS = 64  # of a JPEG; progressive ones have 6 to 14, and each takes time of its own
_SCAN = b"\xff\xda"
_BLOCK_BYTES = 2**20
_AT_ONCE = getattr(os, "O_NONBLOCK", 0)  # without waiting for who writes into a pipe


@contextmanager
def open_regular(path: Path) -> Iterator[BufferedReader]:
    """Open a file for reading, but no pipe, socket or device, which may never end.

    Raises:
        ImageReadError: It is such a thing.
        OSError: It cannot be opened.
    """
    try:
        stream = open(str(path), "rb", opener=_open_at_once)  # noqa: SIM115  # closed below
    except OSError:
        _require_regular(path, path.stat())  # a socket cannot be opened at all
        raise
    with stream:
        _require_regular(path, os.fstat(stream.fileno()))
        yield stream


def is_stdin(path: Path) -> bool:
    """Whether a path stands for what comes through a pipe."""
    return path.as_posix() in _STDIN_NAMES


def read_stdin() -> bytes:
    """Read the bytes of one image from standard input.

    Raises:
        ImageReadError: They are more than half a gigabyte, or there are none.
    """
    content = sys.stdin.buffer.read(_MOST_PIPED_BYTES + 1)
    if len(content) > _MOST_PIPED_BYTES:
        raise ImageReadError(
            "Standard input", f"it has more than {_MOST_PIPED_BYTES} bytes; name a file in place"
        )
    if not content:
        raise ImageReadError("Standard input", "it is empty; pipe one image file into it")
    return content


def require_few_scans(image: Image.Image, stream: BinaryIO, name: Path | str) -> None:
    """Make sure that a JPEG has no more scans than pictures have; the stream stays where it is.

    One that is not progressive, and whose first scan has all components, has no other.

    Raises:
        ImageReadError: It has more.
    """
    place, n_scans, last = stream.tell(), 0, b""
    n_components: int = getattr(image, "layers", 0)
    stream.seek(max(0, place - 8 - 2 * n_components))  # Pillow stops after the header of a scan
    start = stream.read(5)  # marker, length, number of components
    if start[:2] == _SCAN and start[4] == n_components and not image.info.get("progressive"):
        stream.seek(place)
        return
    stream.seek(0)
    for block in iter(partial(stream.read, _BLOCK_BYTES), b""):
        # Within the data of a scan no other byte than 0 or a restart marker follows 255.
        n_scans += (last + block).count(_SCAN) if last == b"\xff" else block.count(_SCAN)
        last = block[-1:]
        if n_scans > _MOST_SCANS:
            raise ImageReadError(
                name, f"it has more than {_MOST_SCANS} scans; save it anew as a plain JPEG"
            )
    stream.seek(place)


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | _AT_ONCE)


def _require_regular(path: Path, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError
    if not stat.S_ISREG(status.st_mode):
        raise ImageReadError(
            path, f"it is {describe_mode(status.st_mode)}; name a file, or - for a pipe"
        )


def describe_mode(mode: int) -> str:
    """What something is that is neither a file nor a folder, by the mode of its status."""
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"
