"""Who runs a graph: a table with one row for each engine, whose code is a file of its own."""

import importlib.util
import os
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from operator import index
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from padim.errors import MissingExtraError, ModelFileError, UnknownNameError, UsageError

_MOST_THREADS = 1024  # more of them are a slip of the hand, and end the process
PRECISIONS = ("float32", "bfloat16")
DEVICES = ("auto", "cpu", "cuda")
INPUT = "image"
N_BATCH = 4  # images in one call on a CPU: with more, feature maps no longer fit its cache

Arrays = tuple[NDArray[np.float32], ...]


class Runtime(Protocol):
    """A graph loaded by an engine; threads may share it.

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


class EngineModule(Protocol):
    """What the file of an engine defines; the last two only where it has a format of its own."""

    def open_graph(self, path: Path, n_threads: int, precision: str) -> Runtime:
        """Load a graph for so many threads of one call.

        Raises:
            ModelFileError: It cannot be read.
        """

    def convert(self, onnx: Path, target: Path, description: str) -> None:
        """Write an ONNX graph in the engine's format."""

    def with_description(self, path: Path, description: str) -> bytes | None:
        """What a graph's file holds with another description; None if it has none so far."""


@dataclass(frozen=True)
class EngineFacts:
    """An engine, as a row of `ENGINES`.

    Attributes:
        title: Its name in words.
        module: Its file here, an `EngineModule`; empty for torch, which runs no graph.
        package: What it needs installed.
        extra: What installs that.
        suffixes: How the graphs end that it runs.
        written: Which of them is its own format; empty when it has none.
        to: What ``padim export --to`` calls that.
        precisions: What it multiplies with whitening rows in.
    """

    title: str
    module: str
    package: str
    extra: str
    suffixes: tuple[str, ...] = ()
    written: str = ""
    to: str = ""
    precisions: tuple[str, ...] = ("float32",)

    def load(self) -> EngineModule:
        """Import its file."""
        return cast(EngineModule, import_module(self.module))

    def words(self) -> str:
        """Its package and which release of that is installed."""
        return f"{self.package} {version(self.package)}"


ENGINES = {
    "torch": EngineFacts("torch", module="", package="torch", extra="fit"),
    "onnxruntime": EngineFacts(
        "ONNX Runtime",
        module="padim.scoring.engine_onnxruntime",
        package="onnxruntime",
        extra="fit",
        suffixes=(".onnx",),
        written=".onnx",
        to="onnx",
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
    """Who runs a graph.

    Args:
        path: The file.
        engine: Name of an engine, or ``auto``: the one the file was written for and compared with.

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
    """Make sure that an engine computes a graph in a precision.

    Raises:
        UnknownNameError: There is no such precision.
        UsageError: It does not.
    """
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)
    if precision not in ENGINES[engine].precisions:
        able = [name for name, one in ENGINES.items() if precision in one.precisions]
        raise UsageError(
            f"The precision is {precision}, but {ENGINES[engine].title} computes in float32 on a "
            f"CPU. Use --engine {' or '.join(able)}."
        )


def graph_parts(path: Path) -> list[Path]:
    """The files of a graph that must travel together: itself, and its weights beside it."""
    beside = path.with_suffix(".bin") if path.suffix == ".xml" else Path(f"{path}.data")
    return [path, beside] if beside.is_file() else [path]


def require_engine(engine: str) -> None:
    """Make sure, before any work, that an engine is installed.

    Raises:
        MissingExtraError: It is not.
    """
    row = ENGINES[engine]
    if importlib.util.find_spec(row.package) is None:
        raise MissingExtraError(row.package, row.extra)


def choose_threads(n_threads: int | None) -> int:
    """Threads of one call; one for each core that this process may use when None.

    Raises:
        UsageError: Fewer than one, more than any machine has, or no whole number.
    """
    if n_threads is None:
        return n_cores()
    try:
        index(n_threads)
    except TypeError:
        raise UsageError(
            f"The number of threads is {n_threads!r}, but needs to be a whole number. Try 1."
        ) from None
    if n_threads > _MOST_THREADS:
        raise UsageError(
            f"The number of threads is {n_threads}, but needs to be {_MOST_THREADS} or less. "
            f"Try {n_cores()}."
        )
    if n_threads < 1:
        raise UsageError(f"The number of threads is {n_threads}, but needs to be 1 or more. Try 1.")
    return n_threads


def n_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def unreadable(path: Path, engine: str) -> ModelFileError:
    """What to say of a graph that an engine cannot read."""
    return ModelFileError(
        f"{path} is no graph that {engine} reads. Copy it again, or export it anew."
    )
