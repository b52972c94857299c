"""Who runs a graph: a table with one row for each engine, whose code is a file of its own."""

import importlib.util
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, SupportsIndex, cast

import numpy as np
from numpy.typing import NDArray

from padim.errors import MissingExtraError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from padim.scoring.graph_file import GraphFile

MOST_THREADS = 1024  # more of them are a slip of the hand, and end the process
PRECISIONS = ("float32", "bfloat16")
DEVICES = ("auto", "cpu", "cuda")
INPUT = "image"
RATES = ("false_alarm_rate", "pixel_false_alarm_rate")  # more inputs, of a graph with a verdict
OWN_RATE = -1.0  # stands for no rate: the model's own choice, as `Predictor.at` of None
OWN_RATES = (OWN_RATE, OWN_RATE)
WHOLE = ("label", "predicted_mask")  # outputs that are uint8
N_BATCH = 4  # images in one call on a CPU: with more, feature maps no longer fit its cache
BATCHES = {"cpu": N_BATCH, "cuda": 32}  # images in one call on a device

Arrays = tuple[NDArray[Any], ...]  # float32, but ``WHOLE``


class Runtime(Protocol):
    """A graph loaded by an engine; threads may share it."""

    names: tuple[str, ...]  # of the outputs, in order
    shape: tuple[int | None, ...]  # of the input; None where any number goes
    description: str | None  # what the graph says of itself under the key ``padim``
    any_batch: bool  # whether a batch of any size runs at full speed

    def run(self, images: NDArray[np.uint8], rates: Sequence[float]) -> Arrays:
        """Run the graph on a batch; one with a verdict, at these ``RATES``."""


@dataclass(frozen=True)
class Setup:
    """How an engine runs a graph."""

    n_threads: int  # of one call
    precision: str
    device: str
    n_calls: int  # that run at a time


class EngineModule(Protocol):
    """What the file of an engine defines; the last only where it has a format of its own."""

    def open_graph(self, file: "GraphFile", setup: Setup) -> Runtime:
        """Load a graph, or raise a `ModelFileError`."""

    def convert(self, onnx: Path, target: Path, description: str) -> None:
        """Write an ONNX graph in the engine's format, sealed."""


@dataclass(frozen=True)
class EngineFacts:
    """An engine, as a row of `ENGINES`."""

    title: str  # its name in words
    module: str  # its file here, an EngineModule; empty for torch, which runs no graph
    package: str  # what it needs installed
    extra: str  # what installs that
    suffixes: tuple[str, ...] = ()  # how the graphs end that it runs
    written: str = ""  # which of them is its own format, if it has one
    to: str = ""  # what ``padim export --to`` calls that
    precisions: tuple[str, ...] = ("float32",)  # of the products with whitening rows
    devices: tuple[str, ...] = ("cpu",)  # where it computes, first by default
    builds: tuple[str, ...] = ()  # other names that its package is installed under

    def load(self) -> EngineModule:
        """Import its file."""
        return cast(EngineModule, import_module(self.module))

    def version(self) -> str:
        """Which release of its package is installed, whatever the build."""
        for name in self.builds:
            with suppress(PackageNotFoundError):
                return version(name)
        return version(self.package)


ENGINES = {
    "torch": EngineFacts("torch", module="", package="torch", extra="fit", devices=("cpu", "cuda")),
    "onnxruntime": EngineFacts(
        "ONNX Runtime",
        module="padim.scoring.engine_onnxruntime",
        package="onnxruntime",
        extra="fit",
        suffixes=(".onnx",),
        written=".onnx",
        to="onnx",
        devices=("cpu", "cuda"),
        builds=("onnxruntime-gpu",),
    ),
    "openvino": EngineFacts(
        "OpenVINO",
        module="padim.scoring.engine_openvino",
        package="openvino",
        extra="openvino",
        suffixes=(".onnx", ".xml"),
        written=".xml",
        to="openvino",
        precisions=PRECISIONS,
    ),
    "tensorrt": EngineFacts(
        "TensorRT",
        module="padim.scoring.engine_tensorrt",
        package="onnxruntime",
        extra="fit",
        suffixes=(".onnx",),
        devices=("cuda",),
        builds=("onnxruntime-gpu",),
    ),
}


def graph_formats() -> dict[str, str]:
    """How a graph ends that is written in a format, by what ``padim export --to`` calls that."""
    return {engine.to: engine.written for engine in ENGINES.values() if engine.to}


def engines_of(path: Path) -> list[str]:
    """Who runs a file, first the one whose format it is; nobody when it is no graph."""
    able = [name for name, engine in ENGINES.items() if path.suffix in engine.suffixes]
    return sorted(able, key=lambda name: ENGINES[name].written != path.suffix)


def is_graph(path: Path) -> bool:
    """Whether a file is an exported graph, by its name."""
    return bool(engines_of(path))


def graph_engine(path: Path, engine: str) -> str:
    """Who runs a graph: an engine by its name, or by ``auto`` the one it was written for.

    Raises:
        UnknownNameError: There is no such engine.
        UsageError: The file is no graph, or the engine does not run such a file.
    """
    able = engines_of(path)
    if not able:
        raise UsageError(
            f"{path} is no graph, whose name ends in {' or '.join(graph_formats().values())}. "
            "Make one of a model file with padim export."
        )
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


def check_precision(engine: str, precision: str) -> None:
    """Raise a `UsageError` if an engine does not compute a graph in a precision."""
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)
    if precision not in ENGINES[engine].precisions:
        able = [name for name, one in ENGINES.items() if precision in one.precisions]
        raise UsageError(
            f"The precision is {precision}, but {ENGINES[engine].title} runs a graph in float32. "
            f"Use --engine {' or '.join(able)}."
        )


def choose_graph_device(engine: str, device: str) -> str:
    """Where an engine runs a graph: ``auto`` is a CPU, unless it is for GPUs alone.

    Raises:
        UnknownNameError: There is no such device name.
        UsageError: It does not compute there.
    """
    if device not in DEVICES:
        raise UnknownNameError("device", device, DEVICES)
    if device == "auto":
        return ENGINES[engine].devices[0]
    check_device(engine, device)
    return device


def check_device(engine: str, device: str) -> None:
    """Raise a `UsageError` if an engine does not compute on a device."""
    row = ENGINES[engine]
    if device not in row.devices:
        raise UsageError(
            f"The device is {device}, but {row.title} computes on {row.devices[0]} alone. "
            f"Use --device {row.devices[0]}."
        )


def require_engine(engine: str) -> None:
    """Raise, before any work, a `MissingExtraError` if an engine is not installed."""
    row = ENGINES[engine]
    if importlib.util.find_spec(row.package) is None:
        raise MissingExtraError(row.package, row.extra)


def choose_threads(n_threads: int | None) -> int:
    """Threads of one call; one for each core that this process may use when None."""
    if n_threads is None:
        return n_cores()
    _check_number("threads", n_threads)
    return n_threads


def check_calls(n_calls: int) -> None:
    """Raise a `UsageError` if so many calls cannot run at a time, each from its own thread."""
    _check_number("calls at a time", n_calls)


def _check_number(what: str, number: int) -> None:
    if isinstance(number, bool) or not isinstance(number, SupportsIndex):
        raise UsageError(
            f"The number of {what} is {number!r}, but needs to be a whole number. Try 1."
        )
    if not 1 <= number <= MOST_THREADS:
        raise UsageError(
            f"The number of {what} is {number}, but needs to be between 1 and {MOST_THREADS}. "
            f"Try {n_cores()}."
        )


def n_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
