"""Graphs in files and the runtimes that run them, without torch."""

import hashlib
import importlib.util
import os
import threading
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from padim.errors import (
    MissingExtraError,
    ModelFileError,
    ModelFileHashError,
    PathMissingError,
    UnknownNameError,
    UsageError,
)

ENGINES = ("torch", "onnxruntime", "openvino")
GRAPH_ENGINES = {".onnx": ("onnxruntime", "openvino"), ".xml": ("openvino",)}
PRECISIONS = ("float32", "bfloat16")
INPUT = "image"
BIN_SHA256 = "padim_bin_sha256"  # under which an .xml says what its .bin is
N_BATCH = 4  # images in one call on a CPU: with more, feature maps no longer fit its cache

Arrays = tuple[NDArray[np.float32], ...]


class Runtime(Protocol):
    """A graph loaded by a runtime; threads may share it.

    Attributes:
        names: Of the outputs, in order.
        shape: Of the input; None where any number goes.
        description: What the graph says of itself under the key ``padim``, or None.
        any_batch: Whether a batch of any size runs at full speed.
    """

    names: tuple[str, ...]
    shape: tuple[int | None, ...]
    description: str | None
    any_batch: bool

    def run(self, images: NDArray[np.uint8]) -> Arrays:
        """Run the graph on a batch."""


class Graph:
    """A graph loaded once; running it changes nothing, so threads may share it.

    Args:
        path: An ``.onnx`` file, or an OpenVINO ``.xml`` with its ``.bin`` beside it.
        engine: Who runs it; when ``auto``, the one it was written for.
        n_threads: Threads of one call; one for each core when None.
        precision: ``float32``, or ``bfloat16`` for the products with the whitening rows: half the
            bytes to read. The trunk stays in float32: what it loses, whitening would magnify.

    Raises:
        PathMissingError: There is no such file.
        UnknownNameError: There is no such engine or precision.
        UsageError: The engine does not run such a file, or not in this precision.
        ModelFileError: The engine cannot read it.
        MissingExtraError: The engine is not installed.
    """

    def __init__(
        self,
        path: Path,
        engine: str = "auto",
        n_threads: int | None = None,
        precision: str = "float32",
    ) -> None:
        if not path.is_file():
            raise PathMissingError(path)
        self.engine = graph_engine(path, engine)
        self.n_threads = choose_threads(n_threads)
        if precision not in PRECISIONS:
            raise UnknownNameError("precision", precision, PRECISIONS)
        if self.engine == "onnxruntime" and precision != "float32":
            raise UsageError(
                f"The precision is {precision}, but ONNX Runtime computes in float32 on a CPU. "
                "Use --engine openvino."
            )
        self.runtime: Runtime
        if self.engine == "onnxruntime":
            self.runtime = OnnxRuntime(path, self.n_threads)
        else:
            self.runtime = OpenVino(path, self.n_threads, precision)
        if len(self.runtime.shape) != 4:
            raise ModelFileError(
                f"{path} is a graph, but none that takes images. Name one that padim export wrote."
            )
        n_batch, height, width, _ = self.runtime.shape
        self.n_batch = n_batch
        self.size_px = height, width

    def __call__(self, images: NDArray[np.uint8]) -> Arrays:
        """Run a batch of one image or more.

        Args:
            images: RGB, shape ``(N, H, W, 3)``.

        Returns:
            The graph's outputs, the first axis N long.
        """
        step = self.n_batch or N_BATCH
        parts = [self._run(images[i : i + step]) for i in range(0, len(images), step)]
        if len(parts) == 1:
            return parts[0]
        return tuple(np.concatenate(outputs) for outputs in zip(*parts, strict=True))

    def _run(self, images: NDArray[np.uint8]) -> Arrays:
        n_images = len(images)
        if self.n_batch is not None:
            n_run = self.n_batch
        elif self.runtime.any_batch or n_images == 1:
            n_run = n_images
        else:
            n_run = N_BATCH
        if n_run == n_images:
            return self.runtime.run(np.ascontiguousarray(images))
        rest = np.repeat(images[-1:], n_run - n_images, axis=0)
        outputs = self.runtime.run(np.concatenate((images, rest)))
        return tuple(output[:n_images] for output in outputs)


def graph_engine(path: Path, engine: str) -> str:
    """Who runs a graph.

    Args:
        path: The file.
        engine: Name of an engine, or ``auto``: the one the file was written for and compared with.

    Raises:
        UnknownNameError: There is no such engine.
        UsageError: The file is no graph, or the engine does not run such a file.
    """
    if path.suffix not in GRAPH_ENGINES:
        raise UsageError(
            f"{path} is no graph, whose name ends in {' or '.join(GRAPH_ENGINES)}. "
            "Make one of a model file with padim export."
        )
    able = GRAPH_ENGINES[path.suffix]
    if engine == "auto":
        return able[0]
    if engine not in ENGINES:
        raise UnknownNameError("engine", engine, ("auto", *ENGINES))
    if engine not in able:
        raise UsageError(
            f"{path} is a {path.suffix} file, which {engine} does not run. "
            f"Use --engine {' or '.join(able)}."
        )
    return engine


def graph_parts(path: Path) -> list[Path]:
    """The files of a graph that must travel together: itself, and its weights beside it."""
    beside = path.with_suffix(".bin") if path.suffix == ".xml" else Path(f"{path}.data")
    return [path, beside] if beside.is_file() else [path]


def require_engine(engine: str) -> None:
    """Make sure, before any work, that an engine is installed.

    Raises:
        MissingExtraError: It is not.
    """
    if importlib.util.find_spec(engine) is None:
        raise MissingExtraError(engine, {"openvino": "openvino"}.get(engine, "fit"))


def choose_threads(n_threads: int | None) -> int:
    """Threads of one call; one for each core that this process may use when None.

    Raises:
        UsageError: Fewer than one.
    """
    if n_threads is None:
        return n_cores()
    if n_threads < 1:
        raise UsageError(f"The number of threads is {n_threads}, but needs to be 1 or more. Try 1.")
    return n_threads


def n_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class OnnxRuntime:
    """A graph in ONNX Runtime, on a CPU.

    Args:
        path: An ``.onnx`` file.
        n_threads: Threads of one call.
    """

    any_batch = True

    def __init__(self, path: Path, n_threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        options.log_severity_level = 3
        # Threads that wait for long keep the core from other processes; those that do not wait at
        # all lose a tenth of the speed.
        options.add_session_config_entry("session.intra_op.spin_duration_us", "50")
        try:
            self._session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the classes of its errors are not public
            raise _unreadable(path, "ONNX Runtime") from error
        self.names = tuple(output.name for output in self._session.get_outputs())
        shape = self._session.get_inputs()[0].shape
        self.shape = tuple(axis if isinstance(axis, int) else None for axis in shape)
        self.description = self._session.get_modelmeta().custom_metadata_map.get("padim")

    def run(self, images: NDArray[np.uint8]) -> Arrays:
        """Run the graph on a batch."""
        return tuple(self._session.run(None, {INPUT: images}))


class OpenVino:
    """A graph in OpenVINO, on a CPU.

    It is compiled for each size of batch at first use: a batch of unknown size costs a third more.

    Args:
        path: An ``.onnx`` or ``.xml`` file.
        n_threads: Threads of one call.
        precision: As for ``Graph``.
    """

    any_batch = False

    def __init__(self, path: Path, n_threads: int, precision: str) -> None:
        require_engine("openvino")
        import openvino

        self._core = openvino.Core()
        self._precision = precision
        self._settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": n_threads,
            "ENABLE_CPU_PINNING": False,  # pinned, two processes would share one core
        }
        self._compiling = threading.Lock()
        self._compiled: dict[int, tuple[Any, list[Any]]] = {}
        try:
            self._model = self._core.read_model(path)
        except RuntimeError as error:
            raise _unreadable(path, "OpenVINO") from error
        if self._model.has_rt_info([BIN_SHA256]):
            beside = path.with_suffix(".bin")
            with beside.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != self._model.get_rt_info([BIN_SHA256]).value:
                raise ModelFileHashError(
                    f"{beside} is not the one that {path.name} was written with. Copy both again."
                )
        self.names = tuple(min(output.names, default="") for output in self._model.outputs)
        axes = self._model.input(0).get_partial_shape()
        self.shape = (
            tuple(axis.get_length() if axis.is_static else None for axis in axes)
            if axes.rank.is_static
            else ()
        )
        key = ["framework", "padim"] if path.suffix == ".onnx" else ["padim"]
        described = self._model.has_rt_info(key)
        self.description = self._model.get_rt_info(key).value if described else None

    def run(self, images: NDArray[np.uint8]) -> Arrays:
        """Run the graph on a batch."""
        compiled, idle = self._compiled_for(len(images))
        try:
            request = idle.pop()
        except IndexError:  # other threads have them all
            request = compiled.create_infer_request()
        outputs = request.infer([images], share_inputs=True).to_tuple()
        idle.append(request)
        return outputs  # type: ignore[no-any-return]  # openvino is not typed

    def _compiled_for(self, n_images: int) -> tuple[Any, list[Any]]:
        with self._compiling:
            if n_images not in self._compiled:
                model = self._model.clone()
                if self._precision == "bfloat16":
                    _multiply_in_bfloat16(model)
                model.reshape([n_images, *self.shape[1:]])
                compiled = self._core.compile_model(model, "CPU", self._settings)
                self._compiled[n_images] = compiled, []
        return self._compiled[n_images]


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


def _unreadable(path: Path, runtime: str) -> ModelFileError:
    beside = path.with_suffix(".bin")
    if path.suffix == ".xml" and not beside.is_file():
        return ModelFileError(f"{path} lacks its weights {beside.name}. Copy them beside it.")
    return ModelFileError(
        f"{path} is no graph that {runtime} reads. Copy it again, or export it anew."
    )
