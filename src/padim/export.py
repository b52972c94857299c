"""Export: the scoring graph as a file for a runtime without torch, kept only if it scores alike."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from padim.engines import INPUT, OUTPUTS, Engine
from padim.errors import ParityError, UnknownNameError, UsageError
from padim.files import written_together
from padim.fitting import STORES
from padim.loading import load_ahead
from padim.model import PaDiM
from padim.scorer import Scorer
from padim.state import load_state
from padim.weights import sha256

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}
TOLERANCE = 1e-3  # relative, of float32 and float16 storage
_LARGEST_PROTOBUF = 2**31 - 2**27  # a single ONNX file stays below 2 GiB


@dataclass(frozen=True)
class Parity:
    """How far an exported graph is from torch in float32, on the same images.

    Attributes:
        n_images: Images compared.
        map_error: Largest relative difference of a pixel of the anomaly maps.
        score_error: Largest relative difference of an image score. Scores that are further apart
            than twice this keep their order.
    """

    n_images: int
    map_error: float
    score_error: float


def export(
    model: Path,
    target: Path,
    images: Sequence[Path],
    *,
    to: str = "onnx",
    store: str = "float16",
    n_batch: int | None = None,
    weights: Path | None = None,
) -> Parity:
    """Write a model as a graph, and keep it only if its own runtime agrees with torch.

    Args:
        model: A model file.
        target: The file to be: ``.onnx``, or ``.xml`` with a ``.bin`` beside it.
        images: Real images to compare on.
        to: ``onnx`` or ``openvino``.
        store: What the whitening rows are stored in, ``float16`` or ``float32``.
        n_batch: Images that the graph takes at a time; any number when None.
        weights: Local weights file of the backbone, when the model does not bring it.

    Raises:
        UsageError: A name or a value is impossible, or there is no image.
        ParityError: The graph scores differently; nothing is left of it.
        ModelFileError: The model file is damaged.
        ImageReadError: An image cannot be read.
    """
    if to not in SUFFIXES:
        raise UnknownNameError("format", to, tuple(SUFFIXES))
    if store not in STORES:
        raise UnknownNameError("store", store, tuple(STORES))
    if target.suffix != SUFFIXES[to]:
        raise UsageError(
            f"{target} ends in {target.suffix!r}, but {to} needs {SUFFIXES[to]}. "
            f"Try {target.with_suffix(SUFFIXES[to])}."
        )
    if n_batch is not None and n_batch < 1:
        raise UsageError(f"The batch is {n_batch}, but needs to be 1 or more, or dynamic.")
    if not images:
        raise UsageError("There is no image to compare on. Name some with --verify.")
    state = load_state(model)
    reference = PaDiM(state, weights=weights, device="cpu", precision="float32")
    loaded = list(load_ahead(images, state.preprocess))
    pixels = np.stack([image.pixels for image in loaded])
    description = {
        **state.metadata(),
        "store": store,
        "model_sha256": sha256(model),
        "compared_sha256": [image.sha256 for image in loaded],
    }
    text = json.dumps(description, sort_keys=True)
    with written_together(target) as written:
        onnx = written.with_suffix(".onnx")
        graph = reference.graph(STORES[store])
        _write_onnx(graph, onnx, state.preprocess.size_px, n_batch, text)
        if to == "openvino":
            _write_openvino(onnx, written, text)
        parity = _compare(reference.graph(torch.float32), Engine(written), pixels)
        if max(parity.map_error, parity.score_error) > TOLERANCE:
            raise ParityError(
                f"The exported graph differs from torch by {parity.map_error:.1e} in the map and "
                f"{parity.score_error:.1e} in the score, but may by {TOLERANCE:g} (relative). "
                "Try --store float32."
            )
    return parity


def _write_onnx(
    graph: Scorer, path: Path, size_px: tuple[int, int], n_batch: int | None, description: str
) -> None:
    import onnxscript  # noqa: F401  # torch's exporter needs it; say so as a missing extra

    example = torch.zeros(n_batch or 2, *size_px, 3, dtype=torch.uint8)
    batch = torch.export.Dim("batch") if n_batch is None else None
    program = torch.onnx.export(
        graph,
        (example,),
        dynamo=True,
        dynamic_shapes=({0: batch},) if batch is not None else None,
        input_names=[INPUT],
        output_names=OUTPUTS,
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props["padim"] = description
    n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in graph.state_dict().values())
    program.save(path, external_data=n_bytes > _LARGEST_PROTOBUF)


def _write_openvino(onnx: Path, path: Path, description: str) -> None:
    import openvino

    model = openvino.Core().read_model(onnx)
    model.set_rt_info(description, ["padim"])
    openvino.save_model(model, path, compress_to_fp16=False)
    for part in onnx.parent.glob(f"{onnx.name}*"):
        part.unlink()


def _compare(graph: Scorer, engine: Engine, pixels: NDArray[np.uint8]) -> Parity:
    map_error = score_error = 0.0
    for start in range(0, len(pixels), 4):
        part = pixels[start : start + 4]
        with torch.inference_mode():
            expected = graph(torch.from_numpy(part))
        anomaly_map, image_score, _ = engine(part)
        map_error = max(map_error, _error(anomaly_map, expected.anomaly_map.numpy()))
        score_error = max(score_error, _error(image_score, expected.image_score.numpy()))
    return Parity(len(pixels), map_error, score_error)


def _error(ours: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    difference = np.abs(ours.astype(np.float64) - expected) / np.maximum(expected, 1e-12)
    return float(np.nan_to_num(difference, nan=np.inf).max())
