"""A graph in a model repository, as Triton Inference Server opens it.

Source:
    Triton's "Model Repository" and "Model Configuration" pages.
"""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from padim.files import write_text

TRITON = "triton"  # what ``padim export --to`` calls it
MOST_TOGETHER = 16  # images that Triton may put into one batch
_VERSION = "1"
_KINDS = {1: "TYPE_FP32", 2: "TYPE_UINT8"}  # by the numbers of onnx.proto


def place_in_repository(repository: Path, model: Path) -> Path:
    """Where the graph of a model lies in a repository: under the name of the model's file."""
    return repository / model.stem / _VERSION / "model.onnx"


def write_config(graph: Path) -> None:
    """Write beside a graph in a repository what Triton needs to know of it."""
    write_text(_config_of(graph), describe_graph(graph))


def remove_empty(graph: Path) -> None:
    """Remove the folders of a graph that was not kept, as far as nothing else is in them."""
    with suppress(OSError):
        for folder in graph.parents[:2]:
            folder.rmdir()


def describe_graph(graph: Path) -> str:
    """A model configuration, as protobuf's text.

    Triton batches what takes any number of images and has the batch first everywhere; of all else
    the configuration gives whole shapes.
    """
    import onnx  # which only writing graphs needs

    found = onnx.load(graph, load_external_data=False).graph
    tensors = [(one.name, *_read_shape(one)) for one in (*found.input, *found.output)]
    is_batched = all(shape[:1] == [-1] for _, _, shape in tensors)
    n_inputs = len(found.input)
    blocks = [
        f'name: "{_config_of(graph).parent.name}"',
        'platform: "onnxruntime_onnx"',
        f"max_batch_size: {MOST_TOGETHER if is_batched else 0}",
        _write_tensors("input", tensors[:n_inputs], is_batched=is_batched),
        _write_tensors("output", tensors[n_inputs:], is_batched=is_batched),
    ]
    if is_batched:
        blocks.append("dynamic_batching { }")
    return "\n".join((*blocks, ""))


def _config_of(graph: Path) -> Path:
    return graph.parents[1] / "config.pbtxt"


def _read_shape(tensor: Any) -> tuple[str, list[int]]:  # protobuf makes its classes while it runs
    """The type of a tensor, and its sides; -1 for any."""
    kind = tensor.type.tensor_type
    shape = [side.dim_value if side.HasField("dim_value") else -1 for side in kind.shape.dim]
    return _KINDS[kind.elem_type], shape


def _write_tensors(
    what: str, tensors: Iterable[tuple[str, str, list[int]]], *, is_batched: bool
) -> str:
    written = []
    for name, kind, shape in tensors:
        sides = shape[1:] if is_batched else shape
        lines = [f'name: "{name}"', f"data_type: {kind}"]
        if sides:
            lines.append(f"dims: [ {', '.join(map(str, sides))} ]")
        else:  # a number for each image: Triton takes no tensor without a side
            lines += ["dims: [ 1 ]", "reshape { shape: [ ] }"]
        body = "\n".join(f"    {line}" for line in lines)
        written.append(f"  {{\n{body}\n  }}")
    return f"{what} [\n" + ",\n".join(written) + "\n]"
