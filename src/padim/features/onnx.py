"""A torch module as an ONNX graph."""

from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import onnx
import torch
from onnx import ModelProto, helper
from torch import Tensor, nn

from padim.errors import UsageError
from padim.features.onnx_calls import UnknownCallError, write_call
from padim.features.onnx_nodes import Nodes
from padim.features.tracing import UntraceableError, compare, trace
from padim.scoring.engines import INPUT
from padim.scoring.graph_file import DESCRIPTION, part_beside, write_seal
from padim.scoring.operators import ONNX_OPERATORS

_LARGEST_PROTOBUF = 2**31 - 2**27  # a single ONNX file stays below 2 GiB


def write_onnx(
    module: nn.Module,
    path: Path,
    input_px: tuple[int, int],
    outputs: Sequence[str],
    description: str,
    n_batch: int | None = None,
    numbers: Sequence[str] = (),
) -> None:
    """Write a module that takes uint8 images as a sealed ONNX graph, weights inside under 2 GB.

    Args:
        module: Takes RGB, shape ``(N, H, W, 3)``, uint8.
        path: The file to be, in a folder of its own when the weights are larger than that.
        input_px: (height, width) of the images.
        outputs: Names of the outputs.
        description: Kept in the graph under the key ``padim``.
        n_batch: Images that the graph takes at a time; any number when None.
        numbers: Names of what it takes besides, each float32 of shape ``(1,)``.

    Raises:
        UsageError: torch cannot write the network, or it has operators that no graph may have.
    """
    names = [INPUT, *numbers]
    examples = [
        [torch.zeros(n, *input_px, 3, dtype=torch.uint8), *(torch.zeros(1) for _ in numbers)]
        for n in ([n_batch] if n_batch else (2, 3))
    ]
    try:
        model = _trace(module, examples, names, outputs)
    except (UntraceableError, UnknownCallError):
        from padim.features.onnx_exporter import export  # takes long to load, and longer to run

        model = export(module, examples[0], names, outputs, any_number=n_batch is None)
    for node in model.graph.node:
        if node.op_type not in ONNX_OPERATORS:
            raise refuse(f"it has the operator {node.op_type}")
    helper.set_model_props(model, {DESCRIPTION: description})
    is_large = sum(one.nbytes for one in module.state_dict().values()) > _LARGEST_PROTOBUF
    beside = part_beside(path).name
    onnx.save_model(model, path, save_as_external_data=is_large, location=beside)
    write_seal(path)


def _trace(
    module: nn.Module,
    examples: Sequence[Sequence[Tensor]],
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> ModelProto:
    """Watch what a module computes of one example or two, and write that."""
    found = reduce(compare, (trace(module, example) for example in examples))
    nodes = Nodes(dict(module.named_parameters()) | dict(module.named_buffers()))
    for value, name in zip(found.inputs, inputs, strict=True):
        nodes.call(value, name)
    for call in found.calls:
        write_call(nodes, call)
    return nodes.build(found.inputs, found.outputs, outputs)


def refuse(reason: str) -> UsageError:
    """What to say of a network that no graph can be made of."""
    return UsageError(f"The network cannot be a graph: {reason}. Use --engine torch.")
