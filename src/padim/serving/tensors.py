"""Messages of the Open Inference Protocol: JSON, and tensors in binary behind it.

Source:
    github.com/kserve/open-inference-protocol, and Triton's binary tensor data extension.
"""

import base64
import binascii
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta, Raw, Struct
from numpy.typing import NDArray

from padim.errors import UsageError

INPUT = "image"
MOST_JSON_BYTES = 16 << 20  # numbers take many times their text while they are read
_CHANNELS = 3
_Parameters = dict[str, bool | int | float | str]
_Level = Annotated[int, Meta(ge=0, le=255)]


class InputTensor(Struct, frozen=True):
    """A tensor of a request; its data stay as they come until it is known what they are."""

    name: str
    datatype: str
    shape: Annotated[list[Annotated[int, Meta(ge=0, le=1 << 31)]], Meta(max_length=8)]
    parameters: _Parameters = {}  # msgspec copies it
    data: Raw = Raw()


@dataclass(frozen=True)
class OutputWish:
    """A tensor that a request asks for."""

    name: str
    parameters: _Parameters = field(default_factory=dict)


@dataclass(frozen=True)
class InferRequest:
    """What a request says before its binary data."""

    inputs: Annotated[list[InputTensor], Meta(max_length=64)]
    id: str = ""
    parameters: _Parameters = field(default_factory=dict)
    outputs: Annotated[list[OutputWish], Meta(max_length=64)] = field(default_factory=list)

    def choose_outputs(self, known: Sequence[str]) -> dict[str, bool]:
        """Which outputs are to be given, and whether in binary.

        Raises:
            UsageError: One is unknown, or is to go where it cannot.
        """
        by_default = bool(self.parameters.get("binary_data_output", False))
        if not self.outputs:
            return dict.fromkeys(known, by_default)
        chosen = {}
        for wish in self.outputs:
            if wish.name not in known:
                raise UsageError(
                    f"There is no output {wish.name!r}. Ask for {', '.join(known[:-1])} or "
                    f"{known[-1]}."
                )
            if "shared_memory_region" in wish.parameters:
                raise UsageError("Outputs cannot go to shared memory. Ask for binary_data.")
            chosen[wish.name] = bool(wish.parameters.get("binary_data", by_default))
        return chosen


def parse_request(body: bytes, json_length: int | None) -> tuple[InferRequest, list[bytes]]:
    """Read a request, and the pictures in it as bytes of image files.

    Args:
        body: All of it.
        json_length: Bytes of its JSON, where a header says so; all of it when None.

    Raises:
        UsageError: It is not understood, or its tensor is no pictures.
    """
    n_json = len(body) if json_length is None else json_length
    if not 0 < n_json <= len(body):
        raise UsageError(
            f"Inference-Header-Content-Length is {n_json}, but the body has {len(body)} bytes. It "
            "is the length of the JSON that the body begins with."
        )
    if n_json > MOST_JSON_BYTES:
        raise UsageError(
            f"The JSON has {n_json} bytes, but may have {MOST_JSON_BYTES}. Send tensors in binary."
        )
    view = memoryview(body)
    try:
        request = msgspec.json.decode(view[:n_json], type=InferRequest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"The request is not understood: {error}.") from None
    if len(request.inputs) != 1 or request.inputs[0].name != INPUT:
        names = ", ".join(repr(one.name) for one in request.inputs) or "none"
        raise UsageError(f"The inputs are {names[:200]}, but there is one alone, {INPUT!r}.")
    return request, list(_read_pictures(request.inputs[0], view[n_json:]))


def _read_pictures(tensor: InputTensor, binary: memoryview) -> Iterator[bytes]:
    n_binary = tensor.parameters.get("binary_data_size")
    if n_binary is None:
        if not tensor.data:
            raise UsageError(f"The input {INPUT} has neither data nor a binary_data_size.")
        if len(binary):
            raise UsageError(f"{len(binary)} bytes follow the JSON, but no tensor has them.")
    elif n_binary != len(binary) or isinstance(n_binary, bool) or tensor.data:
        raise UsageError(
            f"The binary_data_size is {n_binary}, but {len(binary)} bytes follow the JSON. It is "
            "what follows, and there is no data then."
        )
    if tensor.datatype == "BYTES" and len(tensor.shape) == 1:
        files = _decode_files(tensor.data) if n_binary is None else list(_split_files(binary))
        if len(files) != tensor.shape[0]:
            raise UsageError(f"The shape is {tensor.shape}, but there are {len(files)} pictures.")
        yield from files
        return
    if tensor.datatype == "UINT8" and len(tensor.shape) == 4 and tensor.shape[3] == _CHANNELS:
        pixels = _decode_levels(tensor.data) if n_binary is None else binary
        yield from _write_pixels(pixels, tensor.shape)
        return
    raise UsageError(
        f"The input {INPUT} is {tensor.datatype[:20]} {tensor.shape}, but needs to be BYTES [N], "
        "an image file each, or UINT8 [N, H, W, 3]."
    )


def _split_files(binary: memoryview) -> Iterator[bytes]:
    """Image files of a BYTES tensor: before each its length, in four bytes."""
    place = 0
    while place < len(binary):
        start = place + 4
        if start <= len(binary):
            (n_bytes,) = struct.unpack("<I", binary[place:start])
            place = start + n_bytes
        if start > len(binary) or place > len(binary):
            raise UsageError(
                "The BYTES tensor is cut short. Before each picture goes its length, in four bytes."
            )
        yield bytes(binary[start:place])


def _decode_files(data: Raw) -> list[bytes]:
    """Image files of a BYTES tensor in JSON, which has no bytes: in base64."""
    try:
        return [
            base64.b64decode(one, validate=True)
            for one in msgspec.json.decode(_flatten(data), type=list[str])
        ]
    except (msgspec.MsgspecError, UnicodeDecodeError, binascii.Error, ValueError) as error:
        raise UsageError(
            f"The data of the input {INPUT} are no image files in base64: {error}. Send them in "
            "binary, or each as a string of base64."
        ) from None


def _decode_levels(data: Raw) -> memoryview:
    try:
        levels = msgspec.json.decode(_flatten(data), type=list[_Level])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(
            f"The data of the input {INPUT} are no levels from 0 to 255: {error}."
        ) from None
    return memoryview(bytes(levels))


def _flatten(data: Raw) -> bytes:
    """One list of lists in lists, none of whose values has a bracket."""
    return b"[" + bytes(data).translate(None, b"[]") + b"]"


def _write_pixels(pixels: memoryview, shape: Sequence[int]) -> Iterator[bytes]:
    """Pixels of each image as a PPM: a file like others, which is kept and can be opened."""
    n_images, height, width, _ = shape
    n_bytes = height * width * _CHANNELS
    if n_bytes == 0 or len(pixels) != n_images * n_bytes:
        raise UsageError(
            f"The shape is {list(shape)}, but there are {len(pixels)} levels. It needs a pixel at "
            "least, and three levels for each."
        )
    header = b"P6\n%d %d\n255\n" % (width, height)
    for n in range(n_images):
        yield header + pixels[n * n_bytes : (n + 1) * n_bytes]


def write_answer(
    said: dict[str, object], outputs: dict[str, NDArray[np.float32]], binary: dict[str, bool]
) -> tuple[bytes, int | None]:
    """Write an answer.

    Args:
        said: What it says besides.
        outputs: Its tensors.
        binary: Which of them are wanted, and whether behind the JSON. What is no number is null in
            JSON.

    Returns:
        The body, and how long its JSON is; None when that is all.
    """
    told: list[dict[str, object]] = []
    behind: list[bytes] = []
    for name, is_binary in binary.items():
        tensor = outputs[name]
        one: dict[str, object] = {"name": name, "datatype": "FP32", "shape": list(tensor.shape)}
        if is_binary:
            behind.append(tensor.astype("<f4").tobytes())
            one["parameters"] = {"binary_data_size": len(behind[-1])}
        else:
            one["data"] = tensor.ravel().tolist()
        told.append(one)
    head = msgspec.json.encode({**said, "outputs": told})
    return b"".join((head, *behind)), len(head) if behind else None
