"""Safetensors files read into memory of our own, and hashed on the way."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from padim.files import identify
from padim.tensors.file_tensor import (
    PIECE_BYTES,
    TYPES,
    FileTensor,
    begin_hash,
    pieces,
    raw_bytes,
)

_MOST_HEADER_BYTES = 100_000_000  # as the library safetensors has it
_MOST_AXES = 64  # no tensor of torch has more

Piece = bytearray | memoryview


class TensorFileError(ValueError):
    """A file that is no safetensors file, or is cut short."""


class Content(NamedTuple):
    """What a safetensors file holds, tensors in the order of the file."""

    header: bytes
    tensors: dict[str, Tensor | FileTensor]
    hashes: dict[str, str]  # of each tensor, as ``hash_tensor`` has it

    def sha256(self) -> str:
        """The sha256 of the file as it was read."""
        digest = hashlib.sha256(self.header)
        for tensor in self.tensors.values():
            for piece in pieces(tensor):
                digest.update(piece)
        return digest.hexdigest()


class _Place(NamedTuple):
    """What a header says of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int  # among the bytes behind the header
    stop: int


@dataclass(frozen=True)
class TensorReader:
    """An open safetensors file, whose header has been found right."""

    path: Path
    metadata: Mapping[str, str]
    _file: BinaryIO
    _header: bytes
    _places: Mapping[str, _Place]  # in the order of the file

    def read(self, left: tuple[str, ...] = ()) -> Content:
        """Read all tensors, and hash what has been read.

        Those whose names end in one of ``left`` are hashed alone, and stay in the file.

        Raises:
            TensorFileError: The file has become shorter.
        """
        identity = identify(self._file.fileno())
        tensors: dict[str, Tensor | FileTensor] = {}
        digests = {}
        self._file.seek(len(self._header))
        with ThreadPoolExecutor(1) as executor:
            lane = _HashLane(executor)
            for name, (dtype, shape, start, stop) in self._places.items():
                digests[name] = begin_hash(dtype, shape)
                if name.endswith(left):
                    begin = len(self._header) + start
                    path = Path(self._file.name).absolute()  # the copy here of one elsewhere
                    tensors[name] = FileTensor(path, begin, shape, dtype, identity)
                    content = _make_pieces(stop - start)
                else:
                    tensors[name] = tensor = _allocate(dtype, shape)
                    content = _cut(raw_bytes(tensor))
                for piece in content:
                    self._fill(piece)
                    lane.add(digests[name], piece)
            lane.finish()
        hashes = {name: digest.hexdigest() for name, digest in digests.items()}
        return Content(self._header, tensors, hashes)

    def _fill(self, piece: Piece) -> None:
        view = memoryview(piece)
        while view:
            n_read = self._file.readinto(view)  # type: ignore[attr-defined]  # typeshed leaves it out
            if not n_read:
                raise TensorFileError("it is cut short")
            view = view[n_read:]


class _HashLane:
    """Updates hashes in a thread, in order, while more is read."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self._executor = executor
        self._waiting: list[tuple[Any, Piece]] = []
        self._n_waiting = 0
        self._running: Future[None] | None = None

    def add(self, digest: Any, piece: Piece) -> None:
        """Let a hash take a piece, which stays as it is."""
        self._waiting.append((digest, piece))
        self._n_waiting += len(piece)
        if self._n_waiting >= PIECE_BYTES:
            self._start()

    def finish(self) -> None:
        """Wait until all is hashed."""
        self._start()
        self._start()

    def _start(self) -> None:
        if self._running is not None:
            self._running.result()
        work, self._waiting, self._n_waiting = self._waiting, [], 0
        self._running = self._executor.submit(_update, work)


def _allocate(dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Make room for a tensor; NumPy asks for huge pages, which are filled in half the time."""
    if not (n_bytes := prod(shape) * dtype.itemsize):
        return torch.empty(shape, dtype=dtype)
    room = np.empty(n_bytes, np.uint8)
    return torch.from_numpy(room).view(dtype).view(shape)


def _update(work: list[tuple[Any, Piece]]) -> None:
    for digest, piece in work:
        digest.update(piece)


def _make_pieces(n_bytes: int) -> Iterator[Piece]:
    for first in range(0, n_bytes, PIECE_BYTES):
        yield bytearray(min(PIECE_BYTES, n_bytes - first))


def _cut(content: memoryview) -> Iterator[Piece]:
    for first in range(0, len(content), PIECE_BYTES):
        yield content[first : first + PIECE_BYTES]


@contextmanager
def open_tensors(path: Path) -> Iterator[TensorReader]:
    """Open a safetensors file.

    Raises:
        TensorFileError: It is none, or not whole.
    """
    with path.open("rb", buffering=0) as file:
        n_file = os.fstat(file.fileno()).st_size
        first = file.read(8)
        n_header = int.from_bytes(first, "little")
        if not 2 <= n_header <= min(n_file - 8, _MOST_HEADER_BYTES):
            raise TensorFileError("its header is cut short")
        text = file.read(n_header)
        metadata, places = _parse_header(text)
        ends = [0, *(place.stop for place in places.values())]
        starts = [*(place.start for place in places.values()), n_file - 8 - n_header]
        if ends != starts:
            raise TensorFileError("its tensors do not fill it")
        yield TensorReader(path, metadata, file, first + text, places)


def _parse_header(text: bytes) -> tuple[dict[str, str], dict[str, _Place]]:
    """What a header says, tensors in the order of the file."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TensorFileError("its header is no JSON") from error
    if not isinstance(said, dict):
        raise TensorFileError("its header lists no tensors")
    metadata = said.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise TensorFileError("its metadata is no text")
    places = {name: _parse_place(name, facts) for name, facts in said.items()}
    return metadata, dict(sorted(places.items(), key=lambda item: item[1][2:]))


def _parse_place(name: str, facts: object) -> _Place:
    match facts:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(start), int(stop)]}:
            is_whole = all(type(n) is int and 0 <= n < 2**63 for n in (*shape, start, stop))
            is_counted = is_whole and prod(n or 1 for n in shape) < 2**59  # torch multiplies all
            if dtype in TYPES and is_counted and len(shape) <= _MOST_AXES:
                place = _Place(TYPES[dtype], tuple(shape), start, stop)
                if stop - start == prod(shape) * place.dtype.itemsize:
                    return place
    raise TensorFileError(f"its tensor {name} is of a kind or length that cannot be")
