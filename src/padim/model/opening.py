"""Open a model of any kind for scoring: a model file, or a graph that was exported from one."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from padim.choices import require_path
from padim.errors import (
    ModelFileError,
    ModelFileHashError,
    ModelFileVersionError,
    UsageError,
    naming_extras,
)
from padim.images.decode import IMAGE_SUFFIXES
from padim.memory import without_collecting
from padim.scoring.description import Description
from padim.scoring.engines import graph_engine, is_graph
from padim.scoring.graph import Graph
from padim.scoring.graph_file import bringing_here, no_model, read_description
from padim.scoring.parity import TOLERANCE, Parity, compare, resize
from padim.scoring.predictor import Outputs, Predictor, choose_decoders
from padim.scoring.verdict import Verdict, check_verdict

_UNSEALED_VERSION = 1  # of graphs from before there were seals


def load(
    path: str | Path,
    *,
    engine: str = "auto",
    n_threads: int | None = None,
    precision: str | None = None,
    weights: str | Path | None = None,
    device: str = "auto",
    n_calls: int = 1,
) -> Predictor:
    """Open a model for scoring.

    Args:
        path: A ``.safetensors`` that ``save`` or ``padim fit`` wrote, or an ``.onnx`` or an
            OpenVINO ``.xml`` that ``padim export`` wrote; those need no torch. It may be a URL,
            and is then fetched.
        engine: ``torch``, ``onnxruntime``, ``openvino`` or ``tensorrt``. ``auto`` is, for a graph,
            the one that it was written for; for a model file, who runs its trunk, as ``padim.fit``
            chooses.
        n_threads: Threads of one call; one for each core when None. For a model file torch's
            threads too, in the whole process, which stay as they are when None.
        precision: What it computes in, ``float32`` or ``bfloat16``; when None, what a model file
            was fitted with, and float32 for a graph.
        weights: Local weights file of the backbone, when a model file does not bring it.
        device: ``auto``, ``cpu`` or ``cuda``. ``auto`` is, for a graph, the CPU. On a GPU, a graph
            has to say of its samples what it said where it was written.
        n_calls: Batches that ``Predictor.stream`` has scored at a time. Two with one thread each
            do more images a second than one with two threads, and take longer for each. A graph on
            a GPU, and a model of tiles, has one at a time; a model file on a GPU two.

    Returns:
        A ``PaDiM``, which can be saved; of a graph a ``Predictor``.

    Raises:
        PathMissingError: There is no such file.
        UnreachableError: It is behind a network that cannot be reached, or that refuses it.
        ModelFileError: The file is damaged, or of a newer release.
        UsageError: It is no path, or that of an image; or the engine, precision or device cannot be
            had for such a file.
        WeightsError: The model does not bring its backbone, and it is not here.
        MissingExtraError: The engine is not installed, or torch, which a model file needs.
        DeviceError: The engine cannot compute on the GPU.
        ParityError: On the GPU, a graph differs from its samples.

    Examples:
        >>> model = padim.load("part.safetensors")
        >>> model.predict("spot.png").label
        'anomalous'
    """
    path = require_path(path)
    if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
        raise UsageError(f"{path} is an image, not a model. Load a model, and let it predict this.")
    if not is_graph(path):
        with naming_extras(), without_collecting():
            from padim.model.file import load_hashed
            from padim.model.padim import PaDiM

        state, digest = load_hashed(path)
        return PaDiM(
            state,
            weights=weights,
            device=device,
            precision=precision,
            engine=engine,
            n_threads=n_threads,
            n_calls=n_calls,
            path=path,
            file_sha256=digest,
        )
    if weights is not None:
        raise UsageError(f"{path} brings its weights. Leave --weights out.")
    with bringing_here(path) as path:
        graph, description = _open_graph(
            path, engine, n_threads, precision or "float32", device, n_calls
        )
    predictor = Predictor(
        partial(_score, graph, description.preprocess.size_px),
        description,
        graph.n_step,
        graph.engine,
        path,
        graph.file_sha256,
        n_calls if graph.setup.device == "cpu" else 1,
        choose_decoders(graph.setup.device),
    )
    if graph.setup.device != "cpu":
        _require_parity(predictor, path, graph.setup.precision)
    return predictor


def _open_graph(
    path: Path,
    engine: str,
    n_threads: int | None,
    precision: str,
    device: str,
    n_calls: int = 1,
) -> tuple[Graph, Description]:
    """Open a graph that is a model, and read what it says of itself."""
    try:
        graph = Graph(path, engine, n_threads, precision, device, n_calls)
    except ModelFileHashError:
        raise
    except ModelFileError as error:  # of a newer release, it may compute what ours do not
        try:
            Description.read(read_description(path) or "", path)
        except ModelFileVersionError:
            raise
        except ModelFileError:
            raise error from None
        raise
    if not graph.runtime.description:
        raise no_model(path)
    description = Description.read(graph.runtime.description, path)
    if graph.runtime.names != Outputs._fields + Verdict._fields * description.has_verdict:
        raise no_model(path)
    if not graph.is_sealed and description.facts["graph_version"] != _UNSEALED_VERSION:
        raise ModelFileHashError(
            f"{path} lacks the seal that it was written with. Copy it again, or export it anew."
        )
    if graph.size_px != (description.camera_px or description.preprocess.size_px):
        raise ModelFileError(f"{path} takes images of another size than it says. Export it anew.")
    if description.is_mirrored:
        graph.show_twice()
    return graph, description


def _score(graph: Graph, size_px: tuple[int, int], images: NDArray[np.uint8]) -> Outputs:
    outputs = Outputs(*graph(images)[: len(Outputs._fields)])
    n = len(images)
    shapes = [outputs.anomaly_map.shape, outputs.image_score.shape, outputs.level_scores.shape[:1]]
    if shapes != [(n, *size_px), (n,), (n,)] or outputs.level_scores.ndim != 2:
        raise ModelFileError(
            f"{graph.path} gives maps or scores of another shape than it says. Export it anew."
        )
    return outputs


def verify_verdict(
    path: Path, images: NDArray[np.uint8], engine: str = "auto", device: str = "auto"
) -> None:
    """Let a graph that judges do so, and compare with what padim decides by the same scores.

    Raises:
        ParityError: The two differ.
    """
    graph, description = _open_graph(path, engine, None, "float32", device)
    assert description.calibration is not None
    check_verdict(graph, description.calibration, images)


def verify(
    path: Path,
    *,
    engine: str = "auto",
    n_threads: int | None = None,
    precision: str = "float32",
    device: str = "auto",
) -> Parity:
    """Score the samples that an exported graph brings, and compare with what torch said of them.

    The graph is opened as ``load`` does.

    Raises:
        UsageError: It is no graph, or brings no samples.
        ModelFileError: Its samples cannot be read.
        ParityError: The two differ by more than ``parity.TOLERANCE``.
    """
    if path.is_file():
        graph_engine(path, engine)
    predictor = load(path, engine=engine, n_threads=n_threads, precision=precision, device=device)
    parity = _require_parity(predictor, path, precision)
    if predictor.description.has_verdict:
        samples = predictor.read_samples()
        assert samples is not None
        camera_px = predictor.camera_px or predictor.preprocess.size_px
        verify_verdict(path, resize(samples.image, camera_px), engine, device)
    return parity


def reproduce(predictor: Predictor, precision: str = "float32") -> Parity | None:
    """Score the samples that a model brings, and compare with what was said where it was written.

    Returns:
        How far the two are apart; None when it brings no samples.

    Raises:
        ModelFileError: Its samples cannot be read.
        ParityError: The two differ by more than ``parity.TOLERANCE``.
    """
    samples = predictor.read_samples()
    if samples is None:
        return None
    camera_px = predictor.camera_px or predictor.preprocess.size_px
    expected = replace(samples, image=resize(samples.image, camera_px))
    parity = compare(predictor.score, expected, TOLERANCE[precision])
    parity.check(
        f"{predictor.path or 'The model'} differs from torch",
        "If by much, its files are damaged or not of one export: copy or export it again. If by "
        "little, export it with --store float32, or run it with another --engine or --precision.",
    )
    return parity


def _require_parity(predictor: Predictor, path: Path, precision: str) -> Parity:
    parity = reproduce(predictor, precision)
    if parity is None:
        raise UsageError(
            f"{path} brings no samples, since its model was fitted with --no-keep-samples. Compare "
            "it with padim export --verify where the model is, and use it on a CPU."
        )
    return parity
