"""Changes to model files and moments: to the header, to what they say, and to their tensors.

A file is taken apart without the library that is tested. Sealed again, its hashes are right after
the change, so that the checks behind the seal are reached.
"""

import hashlib
import json
import struct
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from hostile.mutate_bytes import LARGEST, mutate_bytes
from hostile.mutate_json import mutate_json, mutate_value

_TORCH = {
    "F64": "torch.float64", "F32": "torch.float32", "F16": "torch.float16",
    "BF16": "torch.bfloat16", "I64": "torch.int64", "I32": "torch.int32", "U8": "torch.uint8",
}  # fmt: skip
_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1"}


@dataclass
class _Part:
    """A tensor of a file."""

    dtype: str
    shape: list[int]
    content: bytes


@dataclass
class _Parts:
    """A safetensors file taken apart."""

    tensors: dict[str, _Part]
    said: Any  # what it says of itself under the key ``padim``

    @classmethod
    def of(cls, content: bytes) -> "_Parts":
        n_header = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + n_header])
        said = json.loads(header.pop("__metadata__")["padim"])
        data = content[8 + n_header :]
        tensors = {
            name: _Part(one["dtype"], one["shape"], data[slice(*one["data_offsets"])])
            for name, one in header.items()
        }
        return cls(tensors, said)

    def seal(self) -> None:
        """Make the hashes right."""
        self.said["tensor_sha256"] = {name: _hash(one) for name, one in self.tensors.items()}
        self.said.pop("metadata_sha256", None)
        text = json.dumps(self.said, sort_keys=True)
        self.said["metadata_sha256"] = hashlib.sha256(text.encode()).hexdigest()

    def header(self) -> dict[str, Any]:
        """What stands at the start of the file."""
        found: dict[str, Any] = {"__metadata__": {"padim": json.dumps(self.said, sort_keys=True)}}
        at = 0
        for name, one in self.tensors.items():
            offsets = [at, at := at + len(one.content)]
            found[name] = {"dtype": one.dtype, "shape": one.shape, "data_offsets": offsets}
        return found

    def join(self, header: bytes | None = None) -> bytes:
        """The file, with another header where one is given."""
        text = header if header is not None else json.dumps(self.header()).encode()
        text += b" " * (-len(text) % 8)
        data = b"".join(one.content for one in self.tensors.values())
        return struct.pack("<Q", len(text)) + text + data


def mutate_model(random: Random, content: bytes, other: bytes) -> tuple[bytes, str, bool]:
    """Change a model file or moments.

    Args:
        random: Decides all.
        content: The file.
        other: Another, to splice with.

    Returns:
        The changed file, what was done, and whether its seal is the old one.
    """
    way = random.choice(("bytes", "bytes", "header", "length", "order", "said"))
    way = way if random.random() < 0.4 else random.choice(("resealed", "resealed", "tensors"))
    if way == "bytes":
        return *mutate_bytes(random, content, other), True
    parts = _Parts.of(content)
    if way == "header":
        text, what = mutate_json(random, parts.header())
        return parts.join(text), f"header: {what}", True
    if way == "length":
        length = random.choice((0, 1, 2**20, 2**32, LARGEST, 2**64 - 1, len(content) + 1))
        return struct.pack("<Q", length) + content[8:], f"header of {length} bytes", True
    if way == "order":
        items = list(parts.tensors.items())
        random.shuffle(items)
        parts.tensors = dict(items)
        return parts.join(), "tensors in another order", True
    if way == "tensors":
        what = _mutate_tensors(random, parts)
    elif random.random() < 0.85:
        hashes = parts.said.pop("tensor_sha256")
        parts.said, what = mutate_value(random, parts.said)
        if not isinstance(parts.said, dict):
            return parts.join(), what, True
        parts.said.setdefault("tensor_sha256", hashes)
    else:
        parts.said, what = mutate_value(random, parts.said)
        return parts.join(), f"said {what}", True
    if is_resealed := random.random() < 0.9 and way != "said":
        parts.seal()
    return parts.join(), f"{'resealed ' if is_resealed else ''}{what}", not is_resealed


def _mutate_tensors(random: Random, parts: _Parts) -> str:
    name = random.choice(list(parts.tensors))
    if random.random() < 0.6:  # the network has the most tensors by far
        name = random.choice([one for one in parts.tensors if not one.startswith("backbone/")])
    one = parts.tensors[name]
    way = random.choice(
        ("values", "values", "values", "shape", "cut", "type", "drop", "add", "swap")
    )
    if way == "values" and one.dtype in _NUMPY:
        array = np.frombuffer(one.content, _NUMPY[one.dtype]).copy()
        what = _mutate_array(random, array)
        one.content = array.tobytes()
        return f"{name} {what}"
    if way == "shape":
        one.shape = random.choice(
            (one.shape[::-1], [*one.shape, 1], [1, *one.shape], [len(one.content)])
        )
        one.shape = one.shape if len(one.shape) < 9 else []
    elif way == "cut" and one.shape and one.shape[0] > 1:
        n_rows = random.choice((0, 1, one.shape[0] - 1))
        one.content = one.content[: len(one.content) // one.shape[0] * n_rows]
        one.shape = [n_rows, *one.shape[1:]]
    elif way == "type":
        one.dtype = random.choice(
            {"F32": ("I32",), "F16": ("BF16",), "F64": ("I64",)}.get(one.dtype, ("U8",))
        )
    elif way == "drop":
        del parts.tensors[name]
    elif way == "swap":
        other = random.choice(list(parts.tensors))
        parts.tensors[name], parts.tensors[other] = parts.tensors[other], parts.tensors[name]
        return f"{name} swapped with {other}"
    else:
        new = random.choice((f"{name}x", "x", "samples/x", "levels/9/mean", "backbone/x", ""))
        parts.tensors[new] = _Part(one.dtype, one.shape, one.content)
    return f"{name} {way}"


def _mutate_array(random: Random, array: Any) -> str:
    if not array.size:
        return "as it is"
    at = random.randrange(array.size)
    odd: tuple[float, ...] = (0, 1, -1, 100)
    if array.dtype.kind == "f":
        odd += (float("nan"), float("inf"), -float("inf"), float(np.finfo(array.dtype).max), 1e-6)
    value = random.choice(odd)
    with np.errstate(all="ignore"):
        chosen = np.array(value).astype(array.dtype)
        if random.random() < 0.5:
            array[at] = chosen
        elif random.random() < 0.5:
            array[:] = chosen
        else:
            array[:] = array[::-1]
            value = float("nan")
    return f"value {value}"


def _hash(one: _Part) -> str:
    text = f"({_TORCH.get(one.dtype, one.dtype)}, {tuple(one.shape)})"
    return hashlib.sha256(text.encode() + one.content).hexdigest()
