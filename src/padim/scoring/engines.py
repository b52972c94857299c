"""Graphs in files and the runtimes that run them, without torch."""

import importlib.util
import os
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from padim.errors import (
    MissingExtraError,
    ModelFileError,
    UnknownNameError,
    UsageError,
)

ENGINES = ("torch", "onnxruntime", "openvino")
GRAPH_ENGINES = {".onnx": ("onnxruntime", "openvino"), ".xml": ("openvino",)}
PRECISIONS = ("float32", "bfloat16")
DEVICES = ("auto", "cpu", "cuda")
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


def _unreadable(path: Path, runtime: str) -> ModelFileError:
    beside = path.with_suffix(".bin")
    if path.suffix == ".xml" and not beside.is_file():
        return ModelFileError(f"{path} lacks its weights {beside.name}. Copy them beside it.")
    return ModelFileError(
        f"{path} is no graph that {runtime} reads. Copy it again, or export it anew."
    )
