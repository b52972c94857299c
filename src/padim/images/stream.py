"""Image files as streams of bytes: regular files alone, and none that would take for ever."""

import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from padim.errors import ImageReadError
from padim.images.failures import raise_own_errors
from padim.places import Place

STDIN = Path("/dev/stdin")  # in place of a file: what comes through a pipe
STDIN_WORDS = "Standard input"
_STDIN_NAMES = ("-", STDIN.as_posix())
_MOST_PIPED_BYTES = 2**29
_MOST_SCANS = 64  # of a JPEG; progressive ones have 6 to 14, and each takes time of its own
_SCAN = b"\xff\xda"
_BLOCK_BYTES = 2**20
# How an image begins; and how one of a format ends, where that is a mark of its own.
_START = rb"(?:\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|P[1-6][\s#]|BM|RIFF|II\*\0|MM\0\*)"
_JPEG = b"\xff\xd8"
_ENDS = {_JPEG: rb"\xff\xd9", b"\x89PNG": rb"IEND\xaeB`\x82", b"GIF8": rb"\0;"}
_PICTURES = b"MPF\0"  # the index of a JPEG that holds several by intent (CIPA DC-007)
_NETPBM = re.compile(rb"P([56])(?:\s|#.*\n)+(\d+)(?:\s|#.*\n)+(\d+)(?:\s|#.*\n)+(\d+)\s")
_AT_ONCE = getattr(os, "O_NONBLOCK", 0)  # without waiting for who writes into a pipe


class Piped(bytes):
    """The bytes of an image that came through a pipe."""


class Fetched(bytes):
    """The bytes of an image that is no plain file, and where they are from."""

    path: Path


def fetch(path: Path) -> Path | Fetched:
    """The bytes of what is no plain file, so that it is read once; the path of one that is.

    Raises:
        ImageReadError: They cannot be read.
    """
    if not isinstance(path, Place):
        return path
    with raise_own_errors(path):
        content = Fetched(path.read_bytes())
    content.path = path
    return content


@contextmanager
def open_regular(path: Path) -> Iterator[BufferedReader | BytesIO]:
    """Open a file for reading, but no pipe, socket or device, which may never end.

    Raises:
        ImageReadError: It is such a thing.
        OSError: It cannot be opened.
    """
    if isinstance(path, Place):
        yield BytesIO(path.read_bytes())
        return
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


def read_stdin() -> Piped:
    """Read the bytes of one image from standard input.

    Raises:
        ImageReadError: They are more than half a gigabyte, there are none, or another image
            follows; that is not seen behind a TIFF or a JPEG 2000.
    """
    content = sys.stdin.buffer.read(_MOST_PIPED_BYTES + 1)
    if len(content) > _MOST_PIPED_BYTES:
        raise ImageReadError(
            STDIN_WORDS, f"it has more than {_MOST_PIPED_BYTES} bytes; name a file in place"
        )
    if not content:
        raise ImageReadError(STDIN_WORDS, "it is empty; pipe one image file into it")
    if _has_another(content):
        raise ImageReadError(
            STDIN_WORDS, "it has more than one image; pipe one at a time, or name the files"
        )
    return Piped(content)


def _has_another(content: bytes) -> bool:
    """Whether an image file goes on with another one, with nothing but zeros between."""
    for start, end in _ENDS.items():
        if content.startswith(start):
            begin = _find_scan(content) if start == _JPEG else 0
            found = re.compile(end + rb"\0*" + _START).search(content, begin)
            return found is not None and _PICTURES not in content[:begin]
    n_bytes = _read_length(content)
    return n_bytes is not None and bool(re.match(rb"\0*" + _START, content[n_bytes:]))


def _find_scan(jpeg: bytes) -> int:
    """Where the first scan of a JPEG begins: thumbnails lie before it."""
    place = 2
    while place < len(jpeg) and jpeg[place : place + 2] != _SCAN:
        place += 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
    return place


def _read_length(content: bytes) -> int | None:
    """How long an image file is by its header; None where that says nothing of it."""
    if content.startswith(b"BM"):
        return int.from_bytes(content[2:6], "little") or None
    if content.startswith(b"RIFF"):
        n_bytes = int.from_bytes(content[4:8], "little")
        return 8 + n_bytes + n_bytes % 2
    if (header := _NETPBM.match(content)) is None:
        return None
    kind, width, height, largest = map(int, header.groups())
    n_channels = 3 if kind == 6 else 1
    return header.end() + width * height * n_channels * (2 if largest > 255 else 1)


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
