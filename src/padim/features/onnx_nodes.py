"""The nodes and constants of an ONNX graph."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import torch
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper
from torch import Tensor

from padim.features.tracing import Value

_OPSET: Final = 20
_IR_VERSION: Final = 10
_BATCH: Final = "batch"  # what the number of images is called, where any goes
_TYPES: Final[Mapping[torch.dtype, int]] = {
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.float64: TensorProto.DOUBLE,
    torch.int64: TensorProto.INT64,
    torch.int32: TensorProto.INT32,
    torch.uint8: TensorProto.UINT8,
    torch.bool: TensorProto.BOOL,
}

Operand: TypeAlias = Value | Tensor | int | float
Attribute: TypeAlias = int | float | str | Sequence[int]


class Nodes:
    """What a graph computes, node after node.

    Args:
        names: Of the constants that have one.
    """

    def __init__(self, names: Mapping[str, Tensor]) -> None:
        opsets = [helper.make_opsetid("", _OPSET)]
        self._model = helper.make_model(
            GraphProto(name="padim"),
            producer_name="padim",
            opset_imports=opsets,
            ir_version=_IR_VERSION,
        )
        self._graph = self._model.graph  # added to in place: a copy of it is one of all weights
        self._given = {id(tensor): name for name, tensor in names.items()}
        self._known: dict[int, str] = {}  # the names of values, by their number
        # Those of constants by their id, which is theirs as long as they are held; and by content.
        self._places: dict[int, tuple[Tensor, str]] = {}
        self._same: dict[object, str] = {}

    def call(self, value: Value, name: str) -> None:
        """Let a value have a name: that of an input, or of what ``add`` gave."""
        self._known[value.number] = name

    def add(self, kind: str, inputs: Sequence[str], n_outputs: int = 1, **facts: Attribute) -> str:
        """Add a node; gives the name of its first output."""
        name = f"{kind}_{len(self._graph.node)}"
        outputs = [name, *(f"{name}_{i}" for i in range(1, n_outputs))]
        node = helper.make_node(kind, inputs, outputs, name)
        node.attribute.extend(helper.make_attribute(key, fact) for key, fact in facts.items())
        self._graph.node.append(node)
        return name

    def find(self, operand: Operand, dtype: torch.dtype | None = None) -> str:
        """The name of a value, of a tensor or of a number, once it has a type."""
        if isinstance(operand, Value):
            name = self._known[operand.number]
            return name if dtype in (None, operand.dtype) else self.cast(name, dtype)
        if not isinstance(operand, Tensor):
            return self._keep(torch.tensor(operand, dtype=dtype))
        if dtype not in (None, operand.dtype):
            return self._keep(operand.to(dtype))
        if id(operand) not in self._places:
            name = self._keep(operand, self._given.get(id(operand)))
            self._places[id(operand)] = operand, name
        return self._places[id(operand)][1]

    def cast(self, name: str, dtype: torch.dtype) -> str:
        """Turn what has a name into another type."""
        return self.add("Cast", [name], to=_TYPES[dtype])

    def find_integers(self, integers: Sequence[int]) -> str:
        """The name of a list of integers."""
        return self._keep(torch.tensor(integers, dtype=torch.int64))

    def _keep(self, tensor: Tensor, name: str | None = None) -> str:
        """Add a constant; one without a name of its own is there once for all that are the same."""
        values = tensor.contiguous().numpy()
        content = values.tobytes()
        key = (tensor.dtype, values.shape, hashlib.sha256(content).digest())
        if name is None and key in self._same:
            return self._same[key]
        constant = self._graph.initializer.add()
        constant.name = name or f"constant_{len(self._graph.initializer)}"
        constant.data_type = _TYPES[tensor.dtype]
        constant.dims.extend(values.shape)
        constant.raw_data = content
        return self._same.setdefault(key, constant.name)

    def build(
        self, inputs: Sequence[Value], outputs: Sequence[Value], names: Sequence[str]
    ) -> ModelProto:
        """Make it a model, with these names for the outputs."""
        taken: dict[str, str] = {}
        for value, name in zip(outputs, names, strict=True):
            found = self.find(value)
            if found in taken or found in map(self.find, inputs):
                found = self.add("Identity", [found])
            taken[found] = name
        for node in self._graph.node:
            node.input[:] = [taken.get(name, name) for name in node.input]
            node.output[:] = [taken.get(name, name) for name in node.output]
        self._graph.input.extend(_describe(value, self.find(value)) for value in inputs)
        pairs = zip(outputs, names, strict=True)
        self._graph.output.extend(_describe(value, name) for value, name in pairs)
        return self._model


def _describe(value: Value, name: str) -> ValueInfoProto:
    shape = [_BATCH if side is None else side for side in value.shape]
    return helper.make_tensor_value_info(name, _TYPES[value.dtype], shape)
