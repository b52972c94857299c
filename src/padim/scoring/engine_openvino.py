"""OpenVINO as an engine."""

import sys
import threading
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from padim.memory import format_bytes
from padim.scoring.engines import RATES, Arrays, Setup
from padim.scoring.graph_file import (
    DESCRIPTION,
    GraphFile,
    no_image_graph,
    unreadable,
    unrunnable,
    write_seal,
)
from padim.scoring.operators import BYTES_PER_PX, LEAST_BYTES, refuse

# Without this package, OpenVINO tells its makers nothing of each import, and writes no identity.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None is "no module"
import openvino  # noqa: E402  # only then


class OpenVino:
    """A graph in OpenVINO, on a CPU.

    It is compiled for each size of batch at first use: a batch of unknown size costs a third more.
    """

    any_batch = False

    def __init__(self, file: GraphFile, setup: Setup) -> None:
        self._core = openvino.Core()
        self._precision = setup.precision
        self._settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": setup.n_threads * setup.n_calls,
            "NUM_STREAMS": setup.n_calls,
            "ENABLE_CPU_PINNING": False,  # pinned, two processes would share one core
        }
        self._compiling = threading.Lock()
        self._compiled: dict[int, tuple[Any, list[Any]]] = {}
        self._path = file.path
        self._weights = file.beside  # the model refers to them
        try:
            self._model = self._read(file)
            self.names = tuple(min(output.names, default="") for output in self._model.outputs)
            key = ["framework", DESCRIPTION] if file.path.suffix == ".onnx" else [DESCRIPTION]
            described = self._model.has_rt_info(key)
            self.description = self._model.get_rt_info(key).value if described else None
        except (RuntimeError, UnicodeDecodeError) as error:
            raise unreadable(file.path, "openvino") from error
        inputs = self._model.inputs
        kinds = [one.element_type.get_type_name() for one in inputs]
        if kinds[:1] != ["u8"] or kinds[1:] not in ([], ["f32"] * len(RATES)):
            raise no_image_graph(file.path)
        self._n_rates = len(inputs) - 1
        axes = inputs[0].get_partial_shape()
        self.shape = (
            tuple(axis.get_length() if axis.is_static else None for axis in axes)
            if axes.rank.is_static
            else ()
        )

    def _read(self, file: GraphFile) -> Any:
        if file.path.suffix == ".onnx":
            self._core.set_property({"ENABLE_MMAP": False})  # of weights beside it
            return self._core.read_model(file.path)
        weights = openvino.Tensor(self._weights, shared_memory=True)
        return self._core.read_model(str(file.content, "utf-8"), weights)

    def run(self, images: NDArray[np.uint8], rates: Sequence[float]) -> Arrays:
        """Run the graph on a batch; one with a verdict, at these ``RATES``."""
        given = np.array(rates, np.float32)[: self._n_rates, None]
        try:
            compiled, idle = self._compiled_for(len(images))
            try:
                request = idle.pop()
            except IndexError:  # other threads have them all
                request = compiled.create_infer_request()
            outputs = request.infer([images, *given], share_inputs=True).to_tuple()
        except RuntimeError as error:
            raise unrunnable(self._path, error) from error
        idle.append(request)
        return outputs  # type: ignore[no-any-return]  # openvino is not typed

    def _compiled_for(self, n_images: int) -> tuple[Any, list[Any]]:
        with self._compiling:
            if n_images not in self._compiled:
                model = self._model.clone()
                if self._precision == "bfloat16":
                    _multiply_in_bfloat16(model)
                model.reshape({0: [n_images, *self.shape[1:]]})
                height, width = model.input(0).shape[1:3]
                _check_bytes(model, self._path, n_images * height * width)
                compiled = self._core.compile_model(model, "CPU", self._settings)
                self._compiled[n_images] = compiled, []
        return self._compiled[n_images]


def _check_bytes(model: Any, path: Path, n_pixels: int) -> None:
    """Refuse a graph in which one tensor is much larger than any that images so large need."""
    for node in model.get_ops():
        if node.get_type_name() == "Constant":
            continue
        for output in node.outputs():
            shape = output.get_partial_shape()
            if shape.is_dynamic:
                raise refuse(path, "how large a tensor of it is cannot be known")
            n_bytes = prod(shape.to_shape()) * output.element_type.size
            if n_bytes > max(LEAST_BYTES, BYTES_PER_PX * n_pixels):
                raise refuse(path, f"a tensor of it takes {format_bytes(n_bytes)}")


open_graph = OpenVino


def convert(onnx: Path, target: Path, description: str) -> None:
    """Write an ONNX graph as ``.xml`` and ``.bin``, sealed."""
    model = openvino.Core().read_model(onnx)
    model.set_rt_info(description, [DESCRIPTION])
    openvino.save_model(model, target, compress_to_fp16=False)
    write_seal(target)


def _multiply_in_bfloat16(model: Any) -> None:
    from openvino import opset15

    for node in model.get_ordered_ops():
        if node.get_type_name() != "GroupConvolution":
            continue
        line, kernels = node.input_values()
        # Kernels of one dimension, by group: no trunk has them, only products with whitening rows.
        if len(kernels.get_shape()) == 4:
            operands = (opset15.convert(operand, "bf16") for operand in (line, kernels))
            product = opset15.group_convolution(*operands, [1], [0], [0], [1])
            # Flat, since a conversion of an axis of one image is not vectorised.
            flat = opset15.convert(opset15.reshape(product, [-1], False), "f32")
            n_groups, n_rows, *_ = kernels.get_shape()
            whole = opset15.reshape(flat, [1, n_groups * n_rows, -1], False)
            node.output(0).replace(whole.output(0))
