"""What the functions of torch are in ONNX."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import EllipsisType
from typing import Final, TypeAlias

import torch
from torch import Tensor

from padim.features.onnx_nodes import Nodes, Operand
from padim.features.tracing import PER_IMAGE, Call, Value, flatten

_INTEGERS = torch.iinfo(torch.int64)  # beyond either end of every axis
Sides: TypeAlias = int | Sequence[int]
Index: TypeAlias = Operand | slice | EllipsisType | None
Array: TypeAlias = Value | Tensor
Write: TypeAlias = Callable[..., str]  # takes the nodes, the result, and what torch's function does


class UnknownCallError(Exception):
    """A call that has no form here."""


def write_call(nodes: Nodes, call: Call) -> None:
    """Add the nodes of a call.

    Raises:
        UnknownCallError: It is of another function, or with other arguments, than are known here.
    """
    name = call.function.strip("_")
    result, *others = call.results
    if name in _LAID_OUT:
        before = call.args[0]
        if not isinstance(before, Value) or before.dtype != result.dtype:
            raise UnknownCallError("the same bytes as another type")
        nodes.call(result, _lay_out(nodes, result, nodes.find(before), before.shape))
        return
    write = _CALLS.get(name)
    facts = {key: one for key, one in call.kwargs.items() if key not in _UNSEEN}
    given = flatten((call.args, facts.values()))
    if write is None or any(one is PER_IMAGE for one in given):
        raise UnknownCallError(name)
    try:
        first = write(nodes, result, *call.args, **facts)
    except (TypeError, ValueError, IndexError) as error:  # arguments of other kinds or numbers
        raise UnknownCallError(name) from error
    nodes.call(result, first)
    for i, one in enumerate(others, start=1):
        nodes.call(one, f"{first}_{i}")


def _lay_out(
    nodes: Nodes, result: Value, name: str, shape: Sequence[int | None] | None = None
) -> str:
    """Give what has a name the shape of the result, if it has another."""
    if shape is not None and tuple(shape) == result.shape:
        return name
    if result.shape.count(None) > 1:
        raise UnknownCallError("two sides that more images make longer")
    sides = nodes.find_integers([-1 if side is None else side for side in result.shape])
    return nodes.add("Reshape", [name, sides])


# What changes no number: values have no place to be overwritten in, and nothing is trained.
_UNSEEN: Final = frozenset(("inplace", "momentum"))
# Of the same values in the same order, the shape of the result says everything.
_LAID_OUT: Final = frozenset((
    "clone", "contiguous", "detach", "flatten", "reshape", "squeeze", "unflatten", "unsqueeze",
    "view",
))  # fmt: skip


def _unary(kind: str, nodes: Nodes, result: Value, input: Array) -> str:
    return nodes.add(kind, [nodes.find(input, result.dtype)])


def _binary(kind: str, nodes: Nodes, result: Value, input: Operand, other: Operand) -> str:
    return nodes.add(kind, [nodes.find(one, result.dtype) for one in (input, other)])


def _swapped(kind: str, nodes: Nodes, result: Value, input: Operand, other: Operand) -> str:
    return _binary(kind, nodes, result, other, input)


def _compared(kind: str, nodes: Nodes, _result: Value, input: Array, other: Operand) -> str:
    dtype = input.dtype
    if isinstance(other, Array):
        dtype = torch.promote_types(dtype, other.dtype)
    elif isinstance(other, float) and not dtype.is_floating_point:
        raise UnknownCallError("whole numbers beside others")
    return nodes.add(kind, [nodes.find(one, dtype) for one in (input, other)])


def _reduced(
    kind: str,
    nodes: Nodes,
    result: Value,
    input: Array,
    dim: Sides,
    keepdim: bool = False,
) -> str:
    axes = nodes.find_integers(_as_sides(dim, 1))
    return nodes.add(kind, [nodes.find(input, result.dtype), axes], keepdims=int(keepdim))


def _clipped(
    nodes: Nodes,
    result: Value,
    input: Array,
    min: float | None = None,
    max: float | None = None,
) -> str:
    ends = ["" if end is None else nodes.find(end, result.dtype) for end in (min, max)]
    return nodes.add("Clip", [nodes.find(input, result.dtype), *ends])


def _hardtanh(
    nodes: Nodes,
    result: Value,
    input: Array,
    min_val: float = -1,
    max_val: float = 1,
) -> str:
    return _clipped(nodes, result, input, min_val, max_val)


def _relu6(nodes: Nodes, result: Value, input: Array) -> str:
    return _clipped(nodes, result, input, 0, 6)


def _silu(nodes: Nodes, _result: Value, input: Array) -> str:
    name = nodes.find(input)
    return nodes.add("Mul", [name, nodes.add("Sigmoid", [name])])


def _hardsigmoid(nodes: Nodes, _result: Value, input: Array) -> str:
    return nodes.add("HardSigmoid", [nodes.find(input)], alpha=1 / 6, beta=0.5)


def _square(nodes: Nodes, _result: Value, input: Array) -> str:
    name = nodes.find(input)
    return nodes.add("Mul", [name, name])


def _cast(nodes: Nodes, result: Value, input: Array, *_to: object) -> str:
    return nodes.cast(nodes.find(input), result.dtype)


def _convolved(
    nodes: Nodes,
    _result: Value,
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Sides = 1,
    padding: Sides | str = 0,
    dilation: Sides = 1,
    groups: int = 1,
) -> str:
    if isinstance(padding, str):
        raise UnknownCallError("a padding by its name")
    n_axes = len(weight.shape) - 2
    parts = [input, weight] if bias is None else [input, weight, bias]
    return nodes.add(
        "Conv",
        list(map(nodes.find, parts)),
        group=groups,
        strides=_as_sides(stride, n_axes),
        pads=_as_sides(padding, n_axes) * 2,
        dilations=_as_sides(dilation, n_axes),
    )


def _normalised(
    nodes: Nodes,
    _result: Value,
    input: Array,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    eps: float = 1e-5,
) -> str:
    if training:
        raise UnknownCallError("a batch norm that is trained")
    weight = torch.ones_like(running_mean) if weight is None else weight
    bias = torch.zeros_like(running_mean) if bias is None else bias
    parts = input, weight, bias, running_mean, running_var
    return nodes.add("BatchNormalization", list(map(nodes.find, parts)), epsilon=eps)


def _max_pooled(
    nodes: Nodes,
    result: Value,
    input: Array,
    kernel_size: Sides,
    stride: Sides | None = None,
    padding: Sides = 0,
    dilation: Sides = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> str:
    if return_indices:
        raise UnknownCallError("places of maxima")
    n_axes = len(result.shape) - 2
    return nodes.add(
        "MaxPool",
        [nodes.find(input)],
        kernel_shape=_as_sides(kernel_size, n_axes),
        strides=_as_sides(kernel_size if stride is None else stride, n_axes),
        pads=_as_sides(padding, n_axes) * 2,
        dilations=_as_sides(dilation, n_axes),
        ceil_mode=int(ceil_mode),
    )


def _averaged(nodes: Nodes, result: Value, input: Array, output_size: Sides) -> str:
    if set(_as_sides(output_size, 1)) != {1}:
        raise UnknownCallError("averages of parts of a map")
    return _reduced("ReduceMean", nodes, result, input, (-2, -1), keepdim=True)


def _padded(
    nodes: Nodes,
    result: Value,
    input: Array,
    pad: Sequence[int],
    mode: str = "constant",
    value: float | None = None,
) -> str:
    if mode != "constant":
        raise UnknownCallError(f"edges that are {mode}")
    n_others = len(result.shape) - len(pad) // 2
    # Torch has the last axis first, and both ends of an axis together.
    starts, stops = ([0] * n_others + list(pad[i::2])[::-1] for i in (0, 1))
    edges = nodes.find_integers(starts + stops)
    return nodes.add("Pad", [nodes.find(input), edges, nodes.find(value or 0, result.dtype)])


def _transposed(nodes: Nodes, result: Value, input: Array, dim0: int = 0, dim1: int = 1) -> str:
    axes = list(range(len(result.shape)))
    axes[dim0], axes[dim1] = axes[dim1], axes[dim0]
    return nodes.add("Transpose", [nodes.find(input)], perm=axes)


def _permuted(nodes: Nodes, result: Value, input: Array, *dims: Sides) -> str:
    axes = [axis % len(result.shape) for one in dims for axis in _as_sides(one, 1)]
    return nodes.add("Transpose", [nodes.find(input)], perm=axes)


def _flipped(nodes: Nodes, _result: Value, input: Array, *dims: Sides) -> str:
    axes = [axis for one in dims for axis in _as_sides(one, 1)]
    return _slice(nodes, nodes.find(input), [(axis, -1, _INTEGERS.min, -1) for axis in axes])


def _chosen(nodes: Nodes, _result: Value, input: Array, dim: int, index: Array) -> str:
    if index.dtype == torch.bool:
        raise UnknownCallError("a mask")
    return nodes.add("Gather", [nodes.find(input), nodes.find(index)], axis=dim)


def _indexed(nodes: Nodes, result: Value, input: Array, index: Index | tuple[Index, ...]) -> str:
    if isinstance(index, Array):
        return _chosen(nodes, result, input, 0, index)
    wanted = list(index) if isinstance(index, tuple) else [index]
    if (place := next((i for i, one in enumerate(wanted) if one is ...), None)) is not None:
        n_named = sum(one is not None for one in wanted) - 1
        wanted[place : place + 1] = [slice(None)] * (len(input.shape) - n_named)
    parts = []
    for axis, one in enumerate(one for one in wanted if one is not None):
        if type(one) is int:
            parts.append((axis, one, one + 1 or _INTEGERS.max, 1))
        elif not isinstance(one, slice):
            raise UnknownCallError("an index that chooses")
        elif one != slice(None):
            stop = _INTEGERS.max if one.stop is None else one.stop
            parts.append((axis, one.start or 0, stop, one.step or 1))
    name = nodes.find(input)
    name = _slice(nodes, name, parts) if parts else name
    if all(isinstance(one, slice) for one in wanted):
        return name
    return _lay_out(nodes, result, name)


def _slice(nodes: Nodes, name: str, parts: Sequence[tuple[int, int, int, int]]) -> str:
    """Take of each axis what lies from a start to a stop, in steps."""
    axes, starts, stops, steps = (nodes.find_integers(one) for one in zip(*parts, strict=True))
    return nodes.add("Slice", [name, starts, stops, axes, steps])


def _stacked(nodes: Nodes, result: Value, tensors: Sequence[Array], dim: int = 0) -> str:
    axis = nodes.find_integers([dim])
    parts = [nodes.add("Unsqueeze", [nodes.find(one, result.dtype), axis]) for one in tensors]
    return nodes.add("Concat", parts, axis=dim)


def _joined(nodes: Nodes, result: Value, tensors: Sequence[Array], dim: int = 0) -> str:
    return nodes.add("Concat", [nodes.find(one, result.dtype) for one in tensors], axis=dim)


def _highest(
    nodes: Nodes,
    _result: Value,
    input: Array,
    k: int,
    dim: int = -1,
    largest: bool = True,
    sorted: bool = True,
) -> str:
    inputs = [nodes.find(input), nodes.find_integers([k])]
    order = {"largest": int(largest), "sorted": int(sorted)}
    return nodes.add("TopK", inputs, n_outputs=2, axis=dim, **order)


def _as_sides(sides: Sides, n_axes: int) -> list[int]:
    return [sides] * n_axes if isinstance(sides, int) else list(sides)


_CALLS: Final[Mapping[str, Write]] = {
    **{name: partial(_unary, kind) for name, kind in {
        "exp": "Exp", "floor": "Floor", "hardswish": "HardSwish", "invert": "Not", "log": "Log",
        "neg": "Neg", "relu": "Relu", "sigmoid": "Sigmoid", "sqrt": "Sqrt",
    }.items()},
    **{name: partial(_binary, kind) for name, kind in {
        "add": "Add", "div": "Div", "matmul": "MatMul", "mul": "Mul", "pow": "Pow", "sub": "Sub",
    }.items()},
    **{name: partial(_swapped, kind) for name, kind in {"rdiv": "Div", "rsub": "Sub"}.items()},
    **{name: partial(_compared, kind) for name, kind in {
        "gt": "Greater", "le": "LessOrEqual",
    }.items()},
    **{name: partial(_reduced, kind) for name, kind in {
        "amax": "ReduceMax", "mean": "ReduceMean", "sum": "ReduceSum",
    }.items()},
    **dict.fromkeys(("bool", "double", "float", "half", "int", "long", "to"), _cast),
    **dict.fromkeys(("conv1d", "conv2d"), _convolved),
    "adaptive_avg_pool2d": _averaged,
    "batch_norm": _normalised,
    "cat": _joined,
    "clamp": _clipped,
    "clamp_min": _clipped,
    "flip": _flipped,
    "getitem": _indexed,
    "hardsigmoid": _hardsigmoid,
    "hardtanh": _hardtanh,
    "index_select": _chosen,
    "max_pool2d": _max_pooled,
    "pad": _padded,
    "permute": _permuted,
    "relu6": _relu6,
    "silu": _silu,
    "square": _square,
    "stack": _stacked,
    "t": _transposed,
    "topk": _highest,
    "transpose": _transposed,
}  # fmt: skip
