"""What a graph may compute: what our own export writes, and nothing that makes much of little."""

import math
import os
import re
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from padim.errors import ModelFileError
from padim.scoring.engines import INPUT
from padim.scoring.graph_file import GraphFile, part_beside
from padim.scoring.protobuf import read_fields, read_packed

ONNX_OPERATORS = frozenset((
    "Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "ConstantOfShape", "Conv",
    "Div", "Exp", "Expand", "Floor", "Gather", "GatherND", "Gelu", "Greater", "HardSigmoid",
    "HardSwish", "Identity", "InstanceNormalization", "LayerNormalization", "LessOrEqual", "Log",
    "MatMul", "MaxPool", "Mul", "Neg", "Not", "Pad", "Pow", "Range", "ReduceL2", "ReduceMax",
    "ReduceMean", "ReduceSum", "Relu", "Reshape", "Resize", "Shape", "Sigmoid", "Slice", "Softmax",
    "Split", "Sqrt", "Squeeze", "Sub", "TopK", "Transpose", "Unsqueeze",
))  # fmt: skip
_OPENVINO_INPUTS = (  # layers by how many inputs they have at least; OpenVINO reads them unseen
    ("Const", "Parameter"),
    ("AvgPool", "Clamp", "Concat", "Convert", "Exp", "Floor", "Gelu", "HSwish", "Identity", "Log",
     "LogicalNot", "MaxPool", "ReLU", "Result", "ShapeOf", "Sigmoid", "SoftMax", "Sqrt", "Squeeze",
     "Swish"),
    ("Add", "Broadcast", "Convolution", "Divide", "GatherND", "Greater", "GroupConvolution",
     "Interpolate", "LessEqual", "MVN", "MatMul", "Maximum", "Minimum", "Multiply", "Power",
     "ReduceL2", "ReduceMax", "ReduceMean", "ReduceSum", "Reshape", "Split", "Subtract", "TopK",
     "Transpose", "Unsqueeze"),
    ("Gather", "HardSigmoid", "Pad", "Range", "ScaledDotProductAttention", "VariadicSplit"),
    ("Slice",),
)  # fmt: skip
OPENVINO_LAYERS = {kind: n for n, kinds in enumerate(_OPENVINO_INPUTS) for kind in kinds}
_WINDOWED = ("AveragePool", "Conv", "MaxPool")
_WIDEST = 64  # of a kernel, its padding, its stride, and of an edge
_LARGEST_SCALE = 16  # of a map, in each direction
_MOST_NODES = 100_000
_LARGEST_SCALAR = 200  # bytes of a tensor of one number, with its name
_MOST_ROWS = 1 << 24  # of whitening, in a head
_MOST_IMAGES = 1 << 16  # of a graph for so many at a time
_ANY_LAYER = re.compile(rb"<layer(?!s)")
_LAYER = re.compile(rb'<layer id="([0-9]+)" name="[^"<]*" type="([A-Za-z0-9]+)"')
_EDGE = re.compile(rb'<edge from-[^>]* to-layer="([0-9]+)" to-port="([0-9]+)"')
_ZERO, _ONE = bytes(8), b"\1" + bytes(7)  # as int64
LEAST_BYTES = 256 << 20  # that any tensor may take
BYTES_PER_PX = 4096  # and of an image's pixels; the widest stage of the largest network takes 700

# Numbers of fields in onnx.proto
_GRAPH, _FUNCTIONS = 7, 25  # of ModelProto
_NODE, _TENSOR, _SPARSE = 1, 5, 15  # of GraphProto
_TENSOR_NAME, _RAW, _EXTERNAL = 8, 9, 13  # of TensorProto
_INPUT, _OUTPUT = 1, 2  # of NodeProto
_OP_TYPE, _ATTRIBUTE, _DOMAIN = 4, 5, 7  # of NodeProto
_INTS = 8  # of AttributeProto
_INPUTS = (_GRAPH, 11)  # from ModelProto to each input of its graph
_AXES = (2, 1, 2, 1)  # from an input to each of its axes: type, tensor, shape, axis
_INPUT_NAME = 1  # of an input
_LENGTH = 1  # of an axis


def check_operators(file: GraphFile) -> None:
    """Make sure that a graph computes nothing that our export does not write.

    Raises:
        ModelFileError: It does, or is no graph.
    """
    try:
        if file.path.suffix == ".onnx":
            beside = part_beside(file.path).name if file.beside is not None else ""
            check_onnx(file.content, beside)
        else:
            check_openvino(file.content)
    except ValueError as error:
        raise refuse(file.path, error) from error


def refuse(path: Path, reason: object) -> ModelFileError:
    """What to say of a graph that computes what ours do not."""
    return ModelFileError(f"{path} is no graph of padim export: {reason}. Name one that is.")


def check_onnx(content: bytes | memoryview, beside: str = "") -> None:
    """Raise a ``ValueError`` if an ONNX file computes something else, or is none.

    The file ``beside`` it is the only one whose weights it may have.
    """
    nodes: list[_Node] = []
    tensors: list[memoryview] = []
    for part, inside, *_ in read_fields(memoryview(content)):
        if part == _FUNCTIONS:
            raise ValueError("it defines functions")
        for number, value, start, stop in read_fields(_bytes(inside)) if part == _GRAPH else ():
            if number == _NODE:
                nodes.append(_read_node(_bytes(value)))
            elif number == _TENSOR:
                tensor = _bytes(value)
                _check_place(tensor, beside)
                if stop - start < _LARGEST_SCALAR:
                    tensors.append(tensor)
            elif number == _SPARSE:  # an engine makes them dense, of whatever size
                raise ValueError("it has sparse tensors")
    if len(nodes) > _MOST_NODES:
        raise ValueError(f"it has {len(nodes)} operators")
    makers = {name: node for node in nodes for name in node.outputs}
    checks = {
        b"Range": _check_range,
        b"ConstantOfShape": _check_zeros,
        b"Expand": _check_biases,
        b"Pad": _check_edges,
        b"Resize": _check_scales,
    }
    numbers = dict(map(_read_number, tensors))
    for node in nodes:
        if check := checks.get(node.kind):
            check(node, makers, numbers)


def _check_place(tensor: memoryview, beside: str) -> None:
    for number, value, *_ in read_fields(tensor):
        if number == _EXTERNAL:
            said = {part: bytes(_bytes(text)) for part, text, *_ in read_fields(_bytes(value))}
            if said.get(1) == b"location" and said.get(2) != os.fsencode(beside):
                raise ValueError("it has weights in a file that it says no sha256 of, or lacks")


def read_image_shape(content: memoryview) -> list[int]:
    """The shape of the images of an ONNX graph that was checked; zero where any number goes."""
    shape = []
    for one in _find_inside(content, _INPUTS):
        names = [bytes(name) for name in _find_inside(one, (_INPUT_NAME,))]
        for axis in _find_inside(one, _AXES) if names == [INPUT.encode()] else ():
            lengths = [value for number, value, *_ in read_fields(axis) if number == _LENGTH]
            shape.append(next((length for length in lengths if isinstance(length, int)), 0))
    return shape


def _find_inside(content: memoryview, way: tuple[int, ...]) -> Iterator[memoryview]:
    """The bytes of the fields that a way of numbers leads to, from message to message."""
    for number, value, *_ in read_fields(content) if way else ():
        if number == way[0]:
            yield from _find_inside(_bytes(value), way[1:])
    if not way:
        yield content


def _read_number(tensor: memoryview) -> tuple[bytes, bytes]:
    """The name and the bytes of a small tensor; of what has none, nothing."""
    found = {number: value for number, value, *_ in read_fields(tensor)}
    if _RAW not in found or _TENSOR_NAME not in found:
        return b"", b""
    return bytes(_bytes(found[_TENSOR_NAME])), bytes(_bytes(found[_RAW]))


def _check_range(node: "_Node", makers: dict[bytes, "_Node"], numbers: dict[bytes, bytes]) -> None:
    """Let a graph count the images, and nothing else."""
    start, limit, step = node.inputs if len(node.inputs) == 3 else (b"", b"", b"")
    size = makers.get(limit)
    shape = makers.get(size.inputs[0]) if size is not None and size.inputs else None
    counts = [numbers.get(name) for name in (start, step)] == [_ZERO, _ONE]
    if size is None or shape is None or (size.kind, shape.kind) != (b"Squeeze", b"Shape"):
        counts = False
    if not counts:
        raise ValueError("its Range counts something else than images")


def _is_per_image(size: bytes, makers: dict[bytes, "_Node"], numbers: dict[bytes, bytes]) -> bool:
    """Whether a size is one in each direction, but for the number of images in one of them."""
    joined = makers.get(size)
    sizes = joined.inputs if joined is not None and joined.kind == b"Concat" else []
    above = [makers.get(name) for name in sizes if numbers.get(name) != _ONE]
    return len(above) == 1 and above[0] is not None and above[0].kind == b"Shape"


def _check_zeros(node: "_Node", makers: dict[bytes, "_Node"], numbers: dict[bytes, bytes]) -> None:
    """Let a graph make a row of as many zeros as images, and nothing else."""
    fixed = numbers.get(node.inputs[0], b"") if node.inputs else b""
    sides = [int.from_bytes(fixed[i : i + 8], "little") for i in range(0, len(fixed), 8)]
    if sides and math.prod(sides) <= _MOST_IMAGES:
        return
    if not node.inputs or not _is_per_image(node.inputs[0], makers, numbers):
        raise ValueError("its ConstantOfShape makes something else than a number for each image")


def _check_biases(node: "_Node", makers: dict[bytes, "_Node"], numbers: dict[bytes, bytes]) -> None:
    """Let a graph repeat a number for each row of a head, tokens for each image, and no more."""
    if len(node.inputs) == 2 and _is_per_image(node.inputs[1], makers, numbers):
        return
    found = [numbers.get(name, b"") for name in node.inputs]
    is_small = [len(one) for one in found] == [4, 8]
    if not is_small or int.from_bytes(found[1], "little") > _MOST_ROWS:
        raise ValueError("its Expand makes something else than biases")


def _check_edges(node: "_Node", _makers: dict[bytes, "_Node"], numbers: dict[bytes, bytes]) -> None:
    """Let a graph pad maps by a few cells, and nothing else."""
    found = numbers.get(node.inputs[1], b"") if len(node.inputs) > 1 else b""
    edges = struct.unpack(f"<{len(found) // 8}q", found) if len(found) % 8 == 0 else ()
    if not edges or any(abs(edge) > _WIDEST for edge in edges):
        raise ValueError(f"its Pad makes edges of something else, or of more than {_WIDEST}")


def _check_scales(
    node: "_Node", _makers: dict[bytes, "_Node"], numbers: dict[bytes, bytes]
) -> None:
    """Let a graph make maps a few times as large, and nothing else."""
    found = numbers.get(node.inputs[2], b"") if len(node.inputs) == 3 else b""
    scales = struct.unpack(f"<{len(found) // 4}f", found) if len(found) % 4 == 0 else ()
    if not scales or not all(0 < scale <= _LARGEST_SCALE for scale in scales):
        raise ValueError(f"its Resize is by something else, or by more than {_LARGEST_SCALE}")


def check_openvino(content: bytes | memoryview) -> None:
    """The same of the ``.xml`` of an OpenVINO pair, in the one form that OpenVINO writes."""
    text = bytes(content)
    layers = _LAYER.findall(text)
    if b"\0" in text or b"<!" in text or len(layers) != len(_ANY_LAYER.findall(text)):
        raise ValueError("its layers are written in another form")
    n_inputs = Counter(layer for layer, _ in set(_EDGE.findall(text)))
    for layer, named in layers:
        kind = named.decode()
        if kind not in OPENVINO_LAYERS:
            raise ValueError(f"it has the operator {kind[:40]!r}")
        if n_inputs[layer] < OPENVINO_LAYERS[kind]:
            raise ValueError(f"its {kind} lacks inputs")


class _Node(NamedTuple):
    kind: bytes
    inputs: list[bytes]
    outputs: list[bytes]


def _read_node(node: memoryview) -> _Node:
    found = _Node(b"", [], [])
    windows: list[memoryview] = []
    for number, value, *_ in read_fields(node):
        if number == _INPUT:
            found.inputs.append(bytes(_bytes(value)))
        elif number == _OUTPUT:
            found.outputs.append(bytes(_bytes(value)))
        elif number == _OP_TYPE:
            found = found._replace(kind=bytes(_bytes(value)))
        elif number == _ATTRIBUTE:
            windows.append(_bytes(value))
        elif number == _DOMAIN and len(_bytes(value)):
            raise ValueError("it has operators of others")
    name = found.kind.decode("utf-8", "replace")[:40]
    if name not in ONNX_OPERATORS:
        raise ValueError(f"it has the operator {name!r}")
    if name in _WINDOWED:
        for attribute in windows:
            _check_window(attribute, name)
    return found


def _check_window(attribute: memoryview, kind: str) -> None:
    for number, value, *_ in read_fields(attribute):
        if number == _INTS:
            wide = (value,) if isinstance(value, int) else read_packed(value)
            if any(n > _WIDEST for n in wide):
                raise ValueError(f"its {kind} has a window or a padding of more than {_WIDEST}")


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a field holds a number where it needs bytes")
    return value
