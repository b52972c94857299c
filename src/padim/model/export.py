"""Export: the scoring graph as a file for a runtime without torch, kept only if it scores alike."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from padim.choices import require_path
from padim.errors import UnknownNameError, UsageError
from padim.features.onnx import write_onnx
from padim.files import lock_file, write_together
from padim.images.ahead import ImageInput, batched, load_ahead
from padim.method.gaussian import STORES
from padim.model.file import load_hashed
from padim.model.opening import load, verify_verdict
from padim.model.padim import network_of
from padim.model.scorer import CameraScorer, scorer_of
from padim.model.state import FORMAT_VERSION, ModelState
from padim.model.torch_score import TorchScore
from padim.model.triton import TRITON, place_in_repository, remove_empty, write_config
from padim.model.verdict import Judged, JudgingScorer
from padim.scoring.calibration import Calibration
from padim.scoring.description import GRAPH_VERSION
from padim.scoring.engines import (
    ENGINES,
    N_BATCH,
    RATES,
    engines_of,
    graph_formats,
    is_graph,
    require_engine,
)
from padim.scoring.parity import TOLERANCE, Parity, Samples, compare, resize
from padim.scoring.prediction import NOT_CALIBRATED
from padim.scoring.predictor import Camera, Outputs
from padim.temporary import TemporaryFolder


def export(
    model: str | Path,
    target: str | Path,
    images: Sequence[ImageInput] = (),
    *,
    to: str | None = None,
    camera_px: tuple[int, int] | None = None,
    n_batch: int | None = None,
    store: str = "float16",
    weights: str | Path | None = None,
    verdict: bool = False,
) -> Parity:
    """Write a model as a graph, and keep it only if its own engine agrees with torch.

    Args:
        model: A model file.
        target: The file to be: ``.onnx``, or ``.xml`` with a ``.bin`` beside it. For Triton, the
            folder of its models, where the graph gets a folder of the name of the model's file.
        images: Real images to compare on; the model's own samples when there are none.
        to: ``onnx``, ``openvino`` or ``triton``; what the target's suffix says when None.
        camera_px: (height, width) of the images that the graph takes and resizes itself; it takes
            images of network size when None.
        n_batch: Images that the graph takes at a time; any number when None.
        store: What the whitening rows are stored in, ``float16`` or ``float32``.
        weights: Local weights file of the backbone, when the model does not bring it.
        verdict: Whether the graph takes false-alarm rates as well, and gives ``p_value``, ``label``
            and ``predicted_mask`` by the scores of good images that the model keeps.

    Returns:
        How far the two are apart.

    Raises:
        UsageError: A name or a value is impossible, there is no image, or the model has no
            threshold for a verdict, or a stale one.
        ParityError: The graph scores or judges differently; nothing is left of it.
        ModelFileError: The model file is damaged.
        ImageReadError: An image cannot be read.
        ShapeError: An image is not of the camera's size.
        PadimError: Another process is changing the graph.

    Examples:
        >>> parity = padim.export("part.safetensors", "part.onnx")
        >>> parity.score_error < parity.tolerance
        True
        >>> padim.load("part.onnx").engine
        'onnxruntime'
    """
    model, target = require_path(model), require_path(target, "The graph")
    in_repository = to == TRITON
    if in_repository:
        target, to = place_in_repository(target, model), "onnx"
    _check_choices(target, to, camera_px, n_batch, store)
    try:
        with lock_file(target) if target.is_file() else nullcontext():
            parity = _export(model, target, images, camera_px, n_batch, store, weights, verdict)
            if in_repository:
                write_config(target)
            return parity
    finally:
        if in_repository:
            remove_empty(target)


def _export(
    model: Path,
    target: Path,
    images: Sequence[ImageInput],
    camera_px: tuple[int, int] | None,
    n_batch: int | None,
    store: str,
    weights: str | Path | None,
    verdict: bool,
) -> Parity:
    state, digest = _read_exportable(model, camera_px, has_images=bool(images))
    calibration = _read_calibration(model, state) if verdict else None
    features, samples = network_of(state, weights).features(), state.samples
    torch_score = TorchScore(scorer_of(state, features), torch.device("cpu"))
    if samples is not None:
        compare(torch_score, samples, TOLERANCE["float32"]).check(
            f"Here torch scores the samples of {model} otherwise than its fit did",
            "Fit it anew with what is installed now.",
        )
    reference = _Reference(torch_score, state, camera_px, images)
    expected, hashes = [], []
    for pixels in reference.batches():
        expected.append(replace(reference.score(pixels), image=pixels[:0]))
        hashes += [hashlib.sha256(image.data).hexdigest() for image in pixels]
    if samples is not None:
        scored = reference.score(resize(samples.image, reference.input_px))
        samples = replace(scored, image=samples.image)
    is_newer = verdict or state.format_version == FORMAT_VERSION
    description = {
        **state.metadata(),
        "graph_version": GRAPH_VERSION if is_newer else 2,
        "store": store,
        "camera_px": camera_px,
        "model_sha256": digest,
        "compared_sha256": hashes,
        "samples": samples.to_json() if samples is not None else [],
        "calibration": state.calibration and state.calibration.to_json(),
    }
    if verdict:
        description["verdict"] = True
    scorer = scorer_of(state, features, STORES[store], grouped=True)
    graph: nn.Module = scorer
    if camera_px is not None:
        graph = CameraScorer(scorer, state.preprocess, camera_px)
    if calibration is not None:
        graph = JudgingScorer(graph, calibration)
    with write_together(target) as written:
        _write(graph, written, reference.input_px, n_batch, json.dumps(description, sort_keys=True))
        score = load(written).score
        parities = (
            compare(score, replace(scored, image=pixels), TOLERANCE["float32"])
            for scored, pixels in zip(expected, reference.batches(), strict=True)
        )
        parity = reduce(Parity.merge, parities)
        parity.check(f"{target} would differ from torch", "Try --store float32.")
        if verdict:
            verify_verdict(written, next(reference.batches()))
        del score, parities  # OpenVINO maps its file, and Windows renames none that is mapped
    return parity


@dataclass(frozen=True)
class _Reference:
    """What a graph has to agree with, and on what: images, else the model's own samples."""

    torch_score: TorchScore
    state: ModelState
    camera_px: tuple[int, int] | None
    images: Sequence[ImageInput]

    @property
    def input_px(self) -> tuple[int, int]:
        """(height, width) of what the graph takes."""
        return self.camera_px or self.state.preprocess.size_px

    def batches(self) -> Iterator[NDArray[np.uint8]]:
        """What is compared on, few at a time; read again rather than kept."""
        if not self.images and self.state.samples is not None:
            yield resize(self.state.samples.image, self.input_px)
        bring = self.state.preprocess if self.camera_px is None else Camera(self.camera_px)
        reading = self.state.preprocess.reading
        for batch in batched(load_ahead(self.images, bring, reading=reading), N_BATCH):
            yield np.stack([image.pixels for image in batch])

    def score(self, images: NDArray[np.uint8]) -> Samples:
        """What torch says of images, which Pillow brings to network size where they differ."""
        preprocess = self.state.preprocess
        is_there = images.shape[1:3] == preprocess.size_px
        at_network = images if is_there else np.stack([preprocess(image) for image in images])
        return Samples.of(images, *self.torch_score(at_network))


def _check_choices(
    target: Path,
    to: str | None,
    camera_px: tuple[int, int] | None,
    n_batch: int | None,
    store: str,
) -> None:
    formats = graph_formats()
    if to is None:
        to = next((to for to, suffix in formats.items() if suffix == target.suffix), "onnx")
    if to not in formats:
        raise UnknownNameError("format", to, (*formats, TRITON))
    if store not in STORES:
        raise UnknownNameError("store", store, tuple(STORES))
    if target.suffix != formats[to]:
        raise UsageError(
            f"{target} ends in {target.suffix!r}, but {to} needs {formats[to]}. "
            f"Try {target.with_suffix(formats[to])}."
        )
    require_engine(engines_of(target)[0])
    if n_batch is not None and n_batch < 1:
        raise UsageError(f"The batch is {n_batch}, but needs to be 1 or more, or dynamic.")
    if camera_px is not None and min(camera_px) < 1:
        raise UsageError(f"The camera is {camera_px[0]}x{camera_px[1]} px. Try 1024x1280 (HxW).")


def _read_exportable(
    model: Path, camera_px: tuple[int, int] | None, *, has_images: bool
) -> tuple[ModelState, str]:
    """Read a model that can be a graph, and the sha256 of its file."""
    if is_graph(model):
        raise UsageError(f"{model} is a graph already. Name the model file it was made of.")
    state, digest = load_hashed(model)
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
    if not has_images and state.samples is None:
        raise UsageError(f"{model} holds no samples to compare on. Name images with --verify.")
    roi = state.preprocess.roi
    if camera_px is not None and roi is not None and camera_px != roi.source_px:
        raise UsageError(
            f"The camera is {camera_px[0]}x{camera_px[1]} px, but the region of interest is for "
            f"{roi.source_px[0]}x{roi.source_px[1]} px. Use --camera with that size."
        )
    return state, digest()


def _read_calibration(model: Path, state: ModelState) -> Calibration:
    """The scores that a verdict is by."""
    if state.calibration is None:
        raise UsageError(NOT_CALIBRATED)
    if state.calibration.stale:
        raise UsageError(
            f"The threshold of {model} is stale: the model has changed since it was set. Set it by "
            "good images that are not in the model, with padim calibrate, before --verdict."
        )
    return state.calibration


def _write(
    graph: nn.Module,
    path: Path,
    input_px: tuple[int, int],
    n_batch: int | None,
    description: str,
) -> None:
    judges = isinstance(graph, JudgingScorer)
    outputs, numbers = (Judged._fields, RATES) if judges else (Outputs._fields, ())
    if path.suffix == ".onnx":
        write_onnx(graph, path, input_px, outputs, description, n_batch, numbers)
        return
    with TemporaryFolder(path.parent) as folder:
        onnx = folder / "graph.onnx"
        write_onnx(graph, onnx, input_px, outputs, "", n_batch, numbers)
        ENGINES[engines_of(path)[0]].load().convert(onnx, path, description)
