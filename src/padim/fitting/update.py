"""A model that keeps learning: images added, taken away and models joined, without a fit anew."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
from torch import Tensor

from padim.datasets import expand
from padim.errors import DatasetError, UsageError, format_count, listed
from padim.features.cached_trunk import open_graphs
from padim.features.encoder import Encoder
from padim.features.network import choose_batch, choose_device, choose_engine
from padim.files import sha256
from padim.fitting import looks
from padim.fitting.fitter import sample, solve
from padim.fitting.looks import Begin, Embedder, FirstLook, Seen
from padim.method.leave_one_out import LeaveOneOut
from padim.method.moments import Moments
from padim.model.padim import network_of
from padim.model.pair import load_pair, save_pair
from padim.model.state import ModelState
from padim.scoring.calibration import LEAVE_ONE_OUT
from padim.scoring.engines import is_graph

Paths = str | Path | Sequence[str | Path]


def update(
    path: str | Path,
    images: Paths,
    recalibrate: Paths = (),
    *,
    weights: str | Path | None = None,
    begin: Begin = looks.no_progress,
) -> ModelState:
    """Add good images to a model: exactly what a fit on all of them would give.

    Args:
        path: A model file with its moments beside it; both change, or neither.
        images: Files that are not in it, or a folder of such.
        recalibrate: Images that are in it then, to set its threshold by, each left out in turn.
        weights: Local weights file of the backbone, when the model does not bring it.
        begin: Told of each phase and its number of steps; gives what is told of each step.

    Raises:
        UsageError: The model was fitted without ``--keep-moments``, or with other releases.
        DatasetError: An image is in it already, or one to recalibrate by is not.
        ImageReadError: An image cannot be read.

    Examples:
        >>> padim.update("kept.safetensors", "part/test/good").count
        9
    """
    path, images, recalibrate = Path(path), _expand(images), _expand(recalibrate)
    state, moments = _load(path)
    hashes = [sha256(image) for image in images]
    if known := _list_named(images, hashes, set(state.image_sha256)):
        raise DatasetError(f"{path} knows {known} already. Name images that it has not seen.")
    embedder = embedder_of(state, weights)
    more = looks.look(embedder, images, begin("update", len(images)), start=state.count)
    before = FirstLook(Seen(0, state.image_sha256), moments, [])
    whole = looks.merge_in_order((before, more))
    return _change(path, embedder, state, whole.moments, whole.seen.hashes, recalibrate, begin)


def forget(
    path: str | Path,
    images: Paths,
    recalibrate: Paths = (),
    *,
    weights: str | Path | None = None,
    begin: Begin = looks.no_progress,
) -> ModelState:
    """Take images out of a model: exactly what a fit on the others would give.

    Args:
        path: A model file with its moments beside it; both change, or neither.
        images: Files that are in it, by their sha256, or a folder of such.
        recalibrate: Images that are left in it, to set its threshold by, each left out in turn.
        weights: Local weights file of the backbone, when the model does not bring it.
        begin: Told of each phase and its number of steps; gives what is told of each step.

    Raises:
        UsageError: The model was fitted without ``--keep-moments``, or with other releases.
        DatasetError: An image is not in it, or nothing would be left.
        ImageReadError: An image cannot be read.

    Examples:
        >>> padim.forget("kept.safetensors", ["part/train/good/0.png"]).count
        5
    """
    path, images, recalibrate = Path(path), _expand(images), _expand(recalibrate)
    state, moments = _load(path)
    hashes = [sha256(image) for image in images]
    left = Counter(state.image_sha256)
    left.subtract(hashes)
    if strange := _list_named(images, hashes, {digest for digest, n in left.items() if n < 0}):
        raise DatasetError(f"{path} was not fitted on {strange}. Name images that it has seen.")
    if not left.total():
        raise DatasetError(f"{path} would have no image left. Delete it instead.")
    embedder = embedder_of(state, weights)
    kept = [] if state.samples is None else list(state.samples.image)

    def batches() -> Iterator[list[Tensor]]:
        for batch, embeddings in embedder.embed(images):
            for image in batch:
                mirrored = image.pixels[:, ::-1]
                kept[:] = [sample for sample in kept if not np.array_equal(sample, mirrored)]
            yield embeddings

    fewer = moments.without(looks.add_up(looks.tell(batches(), begin("forget", len(images))))[0])
    if state.samples is not None:
        samples = replace(state.samples, image=np.stack(kept)) if kept else None
        state = replace(state, samples=samples)
    return _change(path, embedder, state, fewer, tuple(left.elements()), recalibrate, begin)


def merge(
    first: str | Path,
    second: str | Path,
    out: str | Path,
    *,
    weights: str | Path | None = None,
    begin: Begin = looks.no_progress,
) -> ModelState:
    """Join two models: exactly what a fit on the images of both would give.

    Args:
        first: A model file with its moments beside it.
        second: Another.
        out: The model file to write, with its moments beside it.
        weights: Local weights file of the backbone, when the models do not bring it.
        begin: Told of each phase and its number of steps; gives what is told of each step.

    Raises:
        UsageError: A model was fitted without ``--keep-moments``, or the two do not fit together.
        DatasetError: An image is in both.

    Examples:
        >>> padim.merge("kept.safetensors", "other.safetensors", "both.safetensors").count
        9
    """
    first, second, out = Path(first), Path(second), Path(out)
    (state, moments), (other, more) = _load(first), _load(second)
    if state.recipe != other.recipe:
        _refuse_unlike(str(first), str(second), "recipe")
    _require_alike(str(first), state.encoder, str(second), other.encoder)
    if both := set(state.image_sha256) & set(other.image_sha256):
        raise DatasetError(
            f"{first} and {second} have {format_count(len(both), 'image')} in common, which would "
            "count twice. Forget what is in common in one of them with padim forget."
        )
    embedder = embedder_of(state, weights)
    before = FirstLook(Seen(0, state.image_sha256), moments, [])
    after = FirstLook(Seen(state.count, other.image_sha256), more, [])
    whole = looks.merge_in_order((before, after))
    return _change(out, embedder, state, whole.moments, whole.seen.hashes, (), begin)


def embedder_of(state: ModelState, weights: str | Path | None = None) -> Embedder:
    """What computes the features of more images as those of a model were computed.

    Args:
        state: The model.
        weights: Local weights file of the backbone, when the model does not bring it.

    Raises:
        UsageError: It was fitted with other releases than are installed.
    """
    device, encoder = choose_device("cpu"), state.encoder
    engine = choose_engine(encoder.engine.name, device, encoder.precision)
    _require_alike("The model", encoder, "this installation", encoder.here(engine))
    features = network_of(state, weights).features(engine, None)
    open_graphs(features)
    return Embedder(encoder, features, device, choose_batch(None, device))


def _change(
    path: Path,
    embedder: Embedder,
    before: ModelState,
    moments: Moments,
    hashes: Sequence[str],
    recalibrate: Sequence[Path],
    begin: Begin,
) -> ModelState:
    """Solve a model anew and write it."""
    advance = begin("solve", before.pyramid.n_coarse_cells * (2 if recalibrate else 1))
    store = before.whitening[0].dtype
    state = solve(before.encoder, before.recipe, store, before.trunk, moments, hashes, advance)
    calibration = before.calibration and replace(before.calibration, stale=True)
    if recalibrate:
        used = [sha256(image) for image in recalibrate]
        if strange := _list_named(recalibrate, used, set(used) - set(hashes)):
            raise DatasetError(
                f"The model was not fitted on {strange}. Use padim calibrate for other images."
            )
        leave_one_out = LeaveOneOut(moments, state.eps, state.pyramid, advance)
        batches = (embeddings for _, embeddings in embedder.embed(recalibrate))
        distances = looks.leave_out(leave_one_out, batches)
        advance = begin("second look", len(recalibrate))
        collector = looks.second_look(state, distances, embedder.device, advance)
        calibration = collector.calibration(LEAVE_ONE_OUT)
    samples = before.samples
    if samples is not None:
        samples = sample(state, embedder, samples.image)
    state = replace(state, calibration=calibration, samples=samples)
    save_pair(state, moments, path)
    return state


def _load(path: Path) -> tuple[ModelState, Moments]:
    """Read a model and its moments."""
    if is_graph(path):
        raise UsageError(
            f"{path} is a graph, which learns nothing more. Change the model file that it was made "
            "of, and export that again."
        )
    return load_pair(path)


def _expand(images: Paths) -> tuple[Path, ...]:
    given = [images] if isinstance(images, str | Path) else images
    return expand([Path(image) for image in given], recursive=False)


def _list_named(images: Sequence[Path], hashes: Sequence[str], wanted: set[str]) -> str:
    return listed(
        [str(path) for path, digest in zip(images, hashes, strict=True) if digest in wanted]
    )


def _require_alike(one: str, ours: Encoder, other: str, theirs: Encoder) -> None:
    """Make sure that features are the same on both sides."""
    for name, (mine, its) in ours.differences(theirs).items():
        if name not in {*ours.versions, *theirs.versions, "engine"}:
            _refuse_unlike(one, other, name)
        raise UsageError(
            f"{one} was fitted with {name} {mine}, but {other} has {its}, and so other features. "
            "Use the same, or fit anew."
        )


def _refuse_unlike(first: str, second: str, what: str) -> NoReturn:
    raise UsageError(
        f"{first} and {second} differ in their {what}, so their images cannot be joined. Fit both "
        "alike."
    )
