"""Export: the scoring graph as a file for a runtime without torch, kept only if it scores alike."""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from padim.errors import UnknownNameError, UsageError
from padim.features.onnx import write_onnx
from padim.features.weights import sha256
from padim.files import written_together
from padim.images.ahead import batched, load_ahead
from padim.images.preprocess import Preprocess
from padim.method.gaussian import STORES
from padim.model.file import load_state
from padim.model.opening import load
from padim.model.padim import network_of
from padim.model.scorer import CameraScorer, scorer_of
from padim.model.torch_score import TorchScore
from padim.scoring.description import GRAPH_VERSION
from padim.scoring.engines import BIN_SHA256, GRAPH_ENGINES, N_BATCH, require_engine
from padim.scoring.parity import TOLERANCE, Parity, Samples, compare, resized
from padim.scoring.predictor import Camera, Outputs

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}


def export(
    model: Path,
    target: Path,
    images: Sequence[Path] = (),
    *,
    to: str = "onnx",
    camera_px: tuple[int, int] | None = None,
    n_batch: int | None = None,
    store: str = "float16",
    weights: Path | None = None,
) -> Parity:
    """Write a model as a graph, and keep it only if its own runtime agrees with torch.

    Args:
        model: A model file.
        target: The file to be: ``.onnx``, or ``.xml`` with a ``.bin`` beside it.
        images: Real images to compare on; the model's own samples when there are none.
        to: ``onnx`` or ``openvino``.
        camera_px: (height, width) of the images that the graph takes and resizes itself; it takes
            images of network size when None.
        n_batch: Images that the graph takes at a time; any number when None.
        store: What the whitening rows are stored in, ``float16`` or ``float32``.
        weights: Local weights file of the backbone, when the model does not bring it.

    Raises:
        UsageError: A name or a value is impossible, or there is no image.
        ParityError: The graph scores differently; nothing is left of it.
        ModelFileError: The model file is damaged.
        ImageReadError: An image cannot be read.
        ShapeError: An image is not of the camera's size.
    """
    if model.suffix in GRAPH_ENGINES:
        raise UsageError(f"{model} is a graph already. Name the model file it was made of.")
    _check(target, to, camera_px, n_batch, store)
    state = load_state(model)
    if len(state.tiling.tiles) > 1:
        raise UsageError(
            f"{model} scores large images tile by tile, and its graph would hold all tiles at "
            "once. Score the model file itself."
        )
    if state.encoder.precision != "float32":
        raise UsageError(
            f"{model} was fitted in {state.encoder.precision}, but its graph would compute in "
            "float32. Fit it in float32; its graph can multiply in bfloat16 all the same."
        )
    if not images and state.samples is None:
        raise UsageError(f"{model} holds no samples to compare on. Name images with --verify.")
    preprocess = state.preprocess
    roi = preprocess.roi
    if camera_px is not None and roi is not None and camera_px != roi.source_px:
        raise UsageError(
            f"The camera is {camera_px[0]}x{camera_px[1]} px, but the region of interest is for "
            f"{roi.source_px[0]}x{roi.source_px[1]} px. Use --camera with that size."
        )
    input_px = camera_px or preprocess.size_px
    features = network_of(state, weights).in_torch()
    torch_score = TorchScore(scorer_of(state, features), torch.device("cpu"))
    kept: list[dict[str, Any]] = []
    own: list[NDArray[np.uint8]] = []
    if state.samples is not None:
        compare(torch_score, state.samples, TOLERANCE["float32"]).check(
            f"Here torch scores the samples of {model} otherwise than its fit did",
            "Fit it anew with what is installed now.",
        )
        own = [resized(state.samples.image, input_px)]
        scored = _scored(torch_score, preprocess, own[0])
        kept = replace(scored, image=state.samples.image).to_json()

    def compared() -> Iterator[NDArray[np.uint8]]:
        """What is compared on, few at a time; read again rather than kept."""
        if not images:
            yield from own
        bring = preprocess if camera_px is None else Camera(camera_px)
        for batch in batched(load_ahead(images, bring), N_BATCH):
            yield np.stack([image.pixels for image in batch])

    expected, hashes = [], []
    for pixels in compared():
        expected.append(replace(_scored(torch_score, preprocess, pixels), image=pixels[:0]))
        hashes += [hashlib.sha256(image.data).hexdigest() for image in pixels]
    description = {
        **state.metadata(),
        "graph_version": GRAPH_VERSION,
        "store": store,
        "camera_px": camera_px,
        "model_sha256": sha256(model),
        "compared_sha256": hashes,
        "samples": kept,
        "calibration": state.calibration and state.calibration.to_json(),
    }
    scorer = scorer_of(state, features, STORES[store], grouped=True)
    graph = scorer if camera_px is None else CameraScorer(scorer, preprocess, camera_px)
    with written_together(target) as written:
        _write(graph, written, input_px, n_batch, description)
        score = load(written).score
        parity = reduce(
            Parity.merge,
            (
                compare(score, replace(scored, image=pixels), TOLERANCE["float32"])
                for scored, pixels in zip(expected, compared(), strict=True)
            ),
        )
        parity.check(f"{target} would differ from torch", "Try --store float32.")
    return parity


def _check(
    target: Path, to: str, camera_px: tuple[int, int] | None, n_batch: int | None, store: str
) -> None:
    if to not in SUFFIXES:
        raise UnknownNameError("format", to, tuple(SUFFIXES))
    if store not in STORES:
        raise UnknownNameError("store", store, tuple(STORES))
    if target.suffix != SUFFIXES[to]:
        raise UsageError(
            f"{target} ends in {target.suffix!r}, but {to} needs {SUFFIXES[to]}. "
            f"Try {target.with_suffix(SUFFIXES[to])}."
        )
    if to == "openvino":
        require_engine(to)
    if n_batch is not None and n_batch < 1:
        raise UsageError(f"The batch is {n_batch}, but needs to be 1 or more, or dynamic.")
    if camera_px is not None and min(camera_px) < 1:
        raise UsageError(f"The camera is {camera_px[0]}x{camera_px[1]} px. Try 1024x1280 (HxW).")


def _scored(score: TorchScore, preprocess: Preprocess, images: NDArray[np.uint8]) -> Samples:
    """What torch says of images, which Pillow brings to network size where they are of another."""
    at_network = [
        image if image.shape[:2] == preprocess.size_px else preprocess(image) for image in images
    ]
    return Samples.of(images, *score(np.stack(at_network)))


def _write(
    graph: nn.Module,
    path: Path,
    input_px: tuple[int, int],
    n_batch: int | None,
    description: dict[str, Any],
) -> None:
    text = json.dumps(description, sort_keys=True)
    if path.suffix == ".onnx":
        write_onnx(graph, path, input_px, Outputs._fields, text, n_batch)
        return
    import openvino

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        onnx = Path(folder) / "graph.onnx"
        write_onnx(graph, onnx, input_px, Outputs._fields, text, n_batch)
        model = openvino.Core().read_model(onnx)
        model.set_rt_info(text, ["padim"])
        openvino.save_model(model, path, compress_to_fp16=False)
        model.set_rt_info(sha256(path.with_suffix(".bin")), [BIN_SHA256])
        openvino.save_model(model, path, compress_to_fp16=False)
