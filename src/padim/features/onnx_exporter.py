"""Torch's own exporter: slow, for modules that compute what ``onnx_calls`` does not know."""

import gc
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from onnx import ModelProto
from torch import Tensor, nn
from torch.fx import config as fx_config
from torch.onnx import OnnxExporterError

from padim.features.onnx import refuse


def export(
    module: nn.Module,
    example: Sequence[Tensor],
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    any_number: bool,
) -> ModelProto:
    """Let torch write a module as a graph.

    Args:
        module: What is to be written; the images are the first that it takes.
        example: What it takes.
        inputs: Names of that.
        outputs: Names of what it gives.
        any_number: Whether it takes any number of images.

    Raises:
        UsageError: Torch cannot.
    """
    import onnxscript  # noqa: F401  # torch's exporter needs it; say so as a missing extra

    shapes = ({0: torch.export.Dim("batch")}, *(None for _ in example[1:]))
    with _quiet_exporter(), _naming_torch(), _without_overwriting(module), _hurrying_exporter():
        program = torch.onnx.export(
            module,
            tuple(example),
            dynamo=True,
            dynamic_shapes=shapes if any_number else None,
            input_names=list(inputs),
            output_names=list(outputs),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # where in which file of this machine it came from
    return model


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
def _naming_torch() -> Iterator[None]:
    """Say of a network that torch's exporter fails on that torch runs it."""
    try:
        yield
    except OnnxExporterError as error:
        raise refuse("torch's exporter fails on it") from error


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
