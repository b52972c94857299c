"""Tensors in safetensors files that are larger than memory: written and read piece by piece."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padim.errors import ModelFileError, UsageError
from padim.files import identify
from padim.temporary import TemporaryFolder

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
TYPES = {name: dtype for dtype, name in _NAMES.items()}
PIECE_BYTES = 8 << 20


@dataclass(frozen=True)
class FileTensor:
    """A tensor that stays in its file; slices of its first axis are read."""

    path: Path
    start: int  # where it begins, in bytes
    shape: tuple[int, ...]
    dtype: torch.dtype
    # What the system said of the file when it was opened; None for one that may change
    identity: tuple[int, ...] | None = None
    owner: object = None  # kept as long as it is: the folder of a temporary file

    @classmethod
    def make(
        cls, folder: TemporaryFolder, name: str, shape: tuple[int, ...], dtype: torch.dtype
    ) -> "FileTensor":
        """Make room for a tensor in a temporary file."""
        path = folder.path / name
        with path.open("wb") as file:
            file.truncate(prod(shape) * dtype.itemsize)
        return cls(path, 0, shape, dtype, owner=folder)

    def __deepcopy__(self, _memo: object) -> "FileTensor":
        return self

    def __reduce__(self) -> tuple[object, ...]:
        if self.owner is not None:
            raise UsageError(
                "A model of tiles that was just fitted is still in temporary files, and cannot "
                "travel. Save it, and load its file where it is to be."
            )
        return FileTensor, (self.path, self.start, self.shape, self.dtype, self.identity)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Tensor:
        first, last, step = rows.indices(len(self))
        assert step == 1
        n_row = prod(self.shape[1:]) * self.dtype.itemsize
        n_wanted = max(0, last - first) * n_row
        with self.path.open("rb") as file:
            file.seek(self.start + first * n_row)
            raw = np.fromfile(file, np.uint8, n_wanted)
            is_other = self.identity is not None and self.identity != identify(file.fileno())
        if is_other or len(raw) < n_wanted:
            raise ModelFileError(f"{self.path} has changed since it was loaded. Load it again.")
        return torch.from_numpy(raw).view(self.dtype).view(-1, *self.shape[1:])

    def write(self, first: int, values: Tensor) -> None:
        """Replace the rows from ``first`` on; ``values`` have the shape ``(rows, *shape[1:])``."""
        n_row = prod(self.shape[1:]) * self.dtype.itemsize
        with self.path.open("rb+") as file:
            file.seek(self.start + first * n_row)
            file.write(raw_bytes(values.to(self.dtype)))


def n_bytes(tensors: Mapping[str, Tensor]) -> int:
    """What tensors take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def pieces(tensor: Tensor | FileTensor) -> Iterator[memoryview]:
    """The bytes of a tensor, a piece at a time."""
    if not tensor.shape:
        assert isinstance(tensor, Tensor)
        tensor = tensor.reshape(1)
    n_row = max(1, prod(tensor.shape[1:]) * tensor.dtype.itemsize)
    step = max(1, PIECE_BYTES // n_row)
    for first in range(0, tensor.shape[0], step):
        yield raw_bytes(tensor[first : first + step])


def write_tensors(
    tensors: Mapping[str, Tensor | FileTensor], path: Path, metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file without ever holding all of it.

    Source:
        The format as safetensors describes it; wide types first, so that all are aligned.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    for name in order:
        tensor = tensors[name]
        stop = start + prod(tensor.shape) * tensor.dtype.itemsize
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in order:
            for piece in pieces(tensors[name]):
                file.write(piece)


def hash_tensor(tensor: Tensor | FileTensor) -> str:
    """The sha256 of a tensor: over its type and shape, then its bytes."""
    digest = begin_hash(tensor.dtype, tuple(tensor.shape))
    for piece in pieces(tensor):
        digest.update(piece)
    return str(digest.hexdigest())


def begin_hash(dtype: torch.dtype, shape: tuple[int, ...]) -> Any:
    """A sha256 that has seen the type and the shape of a tensor."""
    return hashlib.sha256(str((dtype, shape)).encode())


def raw_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, those in memory where it is contiguous there."""
    contiguous = tensor.detach().cpu().contiguous()
    # Of an axis of one element, the stride may be anything.
    flat = contiguous.as_strided((contiguous.numel(),), (1,))
    return flat.view(torch.uint8).numpy().data
