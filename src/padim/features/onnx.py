"""A torch module as an ONNX graph."""

import gc
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.fx import config as fx_config
from torch.onnx import OnnxExporterError

from padim.errors import UsageError
from padim.scoring.engines import INPUT
from padim.scoring.graph_file import DESCRIPTION, write_seal
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
    import onnxscript  # noqa: F401  # torch's exporter needs it; say so as a missing extra

    example = torch.zeros(n_batch or 2, *input_px, 3, dtype=torch.uint8)
    batch = torch.export.Dim("batch") if n_batch is None else None
    with _quiet_exporter(), _naming_torch(), _without_overwriting(module), _hurrying_exporter():
        program = torch.onnx.export(
            module,
            (example, *(torch.zeros(1) for _ in numbers)),
            dynamo=True,
            dynamic_shapes=({0: batch}, *(None for _ in numbers)) if batch is not None else None,
            input_names=[INPUT, *numbers],
            output_names=list(outputs),
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        if node.op_type not in ONNX_OPERATORS:
            raise _refuse(f"it has the operator {node.op_type}")
        node.metadata_props.clear()  # where in which file of this machine it came from
    program.model.metadata_props[DESCRIPTION] = description
    n_bytes = sum(t.numel() * t.element_size() for t in module.state_dict().values())
    program.save(path, external_data=n_bytes > _LARGEST_PROTOBUF)
    write_seal(path)


@contextmanager
def _hurrying_exporter() -> Iterator[None]:
    """Spare the exporter much of its time: it looks for garbage, and where each node is from.

    It makes a million small objects that live as long as it works, and nothing is kept of what
    source a node comes from. Releases of torch that do not know the choice look all the same.
    """
    before = getattr(fx_config, "do_not_emit_stack_traces", False)
    was_collecting = gc.isenabled()
    gc.disable()
    vars(fx_config)["do_not_emit_stack_traces"] = True
    try:
        yield
    finally:
        vars(fx_config)["do_not_emit_stack_traces"] = before
        if was_collecting:
            gc.enable()


@contextmanager
def _without_overwriting(module: nn.Module) -> Iterator[None]:
    """Let activations leave their input as it is: the exporter takes far longer over others."""
    overwriting = [part for part in module.modules() if getattr(part, "inplace", False)]
    try:
        for part in overwriting:
            vars(part)["inplace"] = False
        yield
    finally:
        for part in overwriting:
            vars(part)["inplace"] = True


@contextmanager
def _naming_torch() -> Iterator[None]:
    """Say of a network that torch's exporter fails on that torch runs it."""
    try:
        yield
    except OnnxExporterError as error:
        raise _refuse("torch's exporter fails on it") from error


def _refuse(reason: str) -> UsageError:
    return UsageError(f"The network cannot be a graph: {reason}. Use --engine torch.")


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep to itself what torch's exporter says of its own deprecated parts."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
