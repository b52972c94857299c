"""A model that keeps learning: images added, taken away and models joined, without a fit anew."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from torch import Tensor

from padim.errors import DatasetError, UsageError, listed
from padim.features.cached_trunk import open_graphs
from padim.features.network import choose_batch, choose_device, choose_engine
from padim.files import sha256
from padim.fitting.fitter import Fitter
from padim.fitting.looks import moments_of
from padim.method.gaussian import STORES
from padim.method.leave_one_out import LeaveOneOut
from padim.method.moments import Moments
from padim.model.padim import network_of
from padim.model.pair import load_pair, save_pair
from padim.model.state import ModelState
from padim.scoring.calibration import LEAVE_ONE_OUT
from padim.scoring.engines import is_graph
from padim.versions import installed_versions


def update(
    path: Path,
    images: Sequence[Path],
    recalibrate: Sequence[Path] = (),
    *,
    weights: Path | None = None,
) -> ModelState:
    """Add good images to a model: exactly what a fit on all of them would give.

    Args:
        path: A model file with its moments beside it; both change, or neither.
        images: Images that are not in it.
        recalibrate: Images that are in it then, to set its threshold by, each left out in turn.
        weights: Local weights file of the backbone, when the model does not bring it.

    Raises:
        UsageError: The model was fitted without ``--keep-moments``, or with other releases.
        DatasetError: An image is in it already, or one to recalibrate by is not.
        ImageReadError: An image cannot be read.
    """
    state, moments = _loaded(path)
    hashes = [sha256(image) for image in images]
    if known := _named(images, hashes, set(state.image_sha256)):
        raise DatasetError(f"{path} knows {known} already. Name images that it has not seen.")
    fitter = fitter_of(state, weights)
    more = moments_of(embeddings for _, embeddings in fitter.embedded(images))
    return _changed(
        path, fitter, state, moments.merge(more), (*state.image_sha256, *hashes), recalibrate
    )


def forget(
    path: Path,
    images: Sequence[Path],
    recalibrate: Sequence[Path] = (),
    *,
    weights: Path | None = None,
) -> ModelState:
    """Take images out of a model: exactly what a fit on the others would give.

    Args:
        path: A model file with its moments beside it; both change, or neither.
        images: Images that are in it, by the sha256 of their files.
        recalibrate: As for ``update``.
        weights: As for ``update``.

    Raises:
        UsageError: The model was fitted without ``--keep-moments``, or with other releases.
        DatasetError: An image is not in it, or nothing would be left.
        ImageReadError: An image cannot be read.
    """
    state, moments = _loaded(path)
    hashes = [sha256(image) for image in images]
    left = Counter(state.image_sha256)
    left.subtract(hashes)
    if strange := _named(images, hashes, {digest for digest, n in left.items() if n < 0}):
        raise DatasetError(f"{path} was not fitted on {strange}. Name images that it has seen.")
    if not left.total():
        raise DatasetError(f"{path} would have no image left. Delete it instead.")
    fitter = fitter_of(state, weights)
    kept = [] if state.samples is None else list(state.samples.image)

    def looks() -> Iterator[list[Tensor]]:
        for batch, embeddings in fitter.embedded(images):
            for image in batch:
                mirrored = image.pixels[:, ::-1]
                kept[:] = [sample for sample in kept if not np.array_equal(sample, mirrored)]
            yield embeddings

    fewer = moments.without(moments_of(looks()))
    if state.samples is not None:
        samples = replace(state.samples, image=np.stack(kept)) if kept else None
        state = replace(state, samples=samples)
    return _changed(path, fitter, state, fewer, tuple(left.elements()), recalibrate)


def merge(first: Path, second: Path, out: Path, *, weights: Path | None = None) -> ModelState:
    """Join two models: exactly what a fit on the images of both would give.

    Args:
        first: A model file with its moments beside it.
        second: Another.
        out: The model file to write, with its moments beside it.
        weights: As for ``update``.

    Raises:
        UsageError: A model was fitted without ``--keep-moments``, or the two do not fit together.
        DatasetError: An image is in both.
    """
    (state, moments), (other, more) = _loaded(first), _loaded(second)
    for what in ("spec", "weights_sha256", "recipe", "preprocess", "pyramid", "precision"):
        if getattr(state, what) != getattr(other, what):
            name = {"spec": "backbone", "weights_sha256": "weights"}.get(what, what)
            raise UsageError(
                f"{first} and {second} differ in their {name}, so their images cannot be joined. "
                "Fit both alike."
            )
    _require_alike(str(first), state, str(second), other.versions, other.engine)
    if both := set(state.image_sha256) & set(other.image_sha256):
        raise DatasetError(
            f"{first} and {second} have {len(both)} images in common, which would count twice. "
            "Take them out of one with padim forget."
        )
    hashes = (*state.image_sha256, *other.image_sha256)
    fitter = fitter_of(state, weights)
    return _changed(out, fitter, state, moments.merge(more), hashes, ())


def fitter_of(state: ModelState, weights: Path | None = None) -> Fitter:
    """What fits on more images as a model was fitted.

    Args:
        state: The model.
        weights: Local weights file of the backbone, when the model does not bring it.

    Raises:
        UsageError: It was fitted with other releases than are installed.
    """
    device = choose_device("cpu")
    engine = choose_engine(state.engine.partition(" ")[0], device, state.precision)
    here = engine if engine == "torch" else f"{engine} {version(engine)}"
    _require_alike("The model", state, "this installation", installed_versions(), here)
    features = network_of(state, weights).features(engine, state.precision, None)
    open_graphs(features)
    stores = {dtype: name for name, dtype in STORES.items()}
    return Fitter(
        spec=state.spec,
        settings=state.recipe,
        preprocess=state.preprocess,
        tiling=state.tiling,
        features=features,
        image_bytes=0,
        engine_bytes=0,
        weights_sha256=state.weights_sha256,
        engine=state.engine,
        precision=state.precision,
        store=stores[state.whitening[0].dtype],
        trunk_tensors=state.trunk,
        device=device,
        keep_moments=True,
        keep_samples=state.samples is not None,
        calibrate=False,
        drop_outliers=0.0,
        keep_outlier_maps=False,
        n_batch=choose_batch(None, device),
    )


def _changed(
    path: Path,
    fitter: Fitter,
    before: ModelState,
    moments: Moments,
    hashes: Sequence[str],
    recalibrate: Sequence[Path],
) -> ModelState:
    state = fitter.solved(moments, list(hashes))
    calibration = before.calibration and replace(before.calibration, stale=True)
    if recalibrate:
        used = [sha256(image) for image in recalibrate]
        if strange := _named(recalibrate, used, set(used) - set(hashes)):
            raise DatasetError(
                f"The model was not fitted on {strange}. Use padim calibrate for other images."
            )
        leave_one_out = LeaveOneOut(moments, state.eps, state.pyramid)
        looks = (embeddings for _, embeddings in fitter.embedded(recalibrate))
        collector = fitter.scored_without_each(leave_one_out, state, looks)
        calibration = collector.calibration(LEAVE_ONE_OUT)
    samples = before.samples
    if samples is not None:
        samples = fitter.sampled(state, samples.image)
    state = replace(state, calibration=calibration, samples=samples)
    save_pair(state, moments, path)
    return state


def _loaded(path: Path) -> tuple[ModelState, Moments]:
    """Read a model and its moments.

    Raises:
        UsageError: It is a graph, or has no moments.
        ModelFileError: A file is damaged.
    """
    if is_graph(path):
        raise UsageError(
            f"{path} is a graph, which learns nothing more. Change the model file that it was made "
            "of, and export that again."
        )
    return load_pair(path)


def _named(images: Sequence[Path], hashes: Sequence[str], wanted: set[str]) -> str:
    return listed(
        [str(path) for path, digest in zip(images, hashes, strict=True) if digest in wanted]
    )


def _require_alike(
    one: str, state: ModelState, other: str, versions: Mapping[str, str], engine: str
) -> None:
    """Make sure that features are the same on both sides.

    Raises:
        UsageError: A release or the engine differs.
    """
    pairs = {name: (state.versions.get(name), release) for name, release in versions.items()}
    for name, (ours, theirs) in {**pairs, "engine": (state.engine, engine)}.items():
        if ours != theirs:
            raise UsageError(
                f"{one} was fitted with {name} {ours}, but {other} has {theirs}, and so other "
                "features. Use the same, or fit anew."
            )
