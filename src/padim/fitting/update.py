"""A model that keeps learning: images added, taken away and models joined, without a fit anew."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from padim.choices import require_model_place, require_path
from padim.datasets import expand, expand_good
from padim.errors import DatasetError, UsageError, format_count, join_names
from padim.features.encoder import Encoder
from padim.features.network import choose_batch, choose_device, choose_engine, open_graphs
from padim.features.trunk_cache import hash_trunk
from padim.files import hold, lock_file, remember, sha256
from padim.fitting import looks
from padim.fitting.fitter import sample, solve
from padim.fitting.looks import Begin, Embedder, FirstLook
from padim.fitting.seen import Seen
from padim.images.ahead import content_sha256, hash_all
from padim.images.facts import describe_differences
from padim.method.leave_one_out import LeaveOneOut
from padim.method.moments import Moments
from padim.model.padim import PaDiM, network_of
from padim.model.pair import load_pair, save_pair
from padim.model.state import ModelState
from padim.places import find_place
from padim.scoring.calibration import LEAVE_ONE_OUT
from padim.scoring.engines import is_graph

Paths = str | Path | Sequence[str | Path]


def update(
    path: str | Path,
    images: Paths,
    recalibrate: Paths = (),
    *,
    skip_known: bool = False,
    weights: str | Path | None = None,
    begin: Begin = looks.no_progress,
) -> PaDiM:
    """Add good images to a model: exactly what a fit on all of them would give.

    Args:
        path: A model file with its moments beside it; both change, or neither.
        images: Files that are not in it, or a folder of such.
        recalibrate: Images that are in it then, to set its threshold by, each left out in turn.
        skip_known: Whether to leave out images that are in it already, as of a folder that grows;
            where all are, the file stays as it is.
        weights: Local weights file of the backbone, when the model does not bring it.
        begin: Told of each phase and its number of steps; gives what is told of each step.

    Returns:
        The changed model.

    Raises:
        UsageError: The model was fitted without ``--keep-moments``, or with other releases.
        PadimError: Another process is changing the model.
        DatasetError: An image is in it already, or one to recalibrate by is not.
        ImageReadError: An image cannot be read.

    Examples:
        >>> padim.update("kept.safetensors", "part/test/good").state.count
        9
    """
    known = set[Path]().update if skip_known else None
    changed, _ = add_images(path, images, recalibrate, known, weights=weights, begin=begin)
    return changed


def add_images(
    path: str | Path,
    images: Paths,
    recalibrate: Paths,
    known: Callable[[Collection[Path]], None] | None,
    *,
    weights: str | Path | None,
    begin: Begin,
) -> tuple[PaDiM, str]:
    """Do what ``update`` does, and tell which images were ``known``; an error if None.

    Returns:
        The changed model, and how the images are not like those that it was made of, if so.
    """
    with _hold(path) as (path, state, moments, check):
        added, used = _hash(images, expand_good), _hash(recalibrate, expand_good)
        there = set(state.image_sha256)
        if known is not None:
            known([image for image, digest in added.items() if digest in there])
            added = {image: digest for image, digest in added.items() if digest not in there}
            if not added:
                return PaDiM(state, moments, weights=weights, path=path), ""
        if names := _list_named(added, there):
            raise DatasetError(
                f"{path} knows {names} already. Name images that it has not seen, or leave out "
                "those that it has with --skip-known."
            )
        embedder = build_embedder(state, weights)
        more = looks.look(embedder, added, begin("update", len(added)), start=state.count)
        facts = state.images
        unlike = describe_differences(map(facts.compare, more.seen.facts_of_each) if facts else ())
        before = FirstLook(Seen(0, state.image_sha256, facts=state.images), moments, ())
        whole = looks.merge_in_order((before, more))
        state = replace(state, images=whole.seen.facts)
        hashes = whole.seen.hashes
        changed = _change(path, embedder, state, whole.moments, hashes, used, begin, check)
        return changed, unlike


def forget(
    path: str | Path,
    images: Paths,
    recalibrate: Paths = (),
    *,
    weights: str | Path | None = None,
    begin: Begin = looks.no_progress,
) -> PaDiM:
    """Take images out of a model: exactly what a fit on the others would give.

    Args:
        path: A model file with its moments beside it; both change, or neither.
        images: Files that are in it, by their sha256, or a folder of such.
        recalibrate: Images that are left in it, to set its threshold by, each left out in turn.
        weights: Local weights file of the backbone, when the model does not bring it.
        begin: Told of each phase and its number of steps; gives what is told of each step.

    Returns:
        The changed model.

    Raises:
        UsageError: The model was fitted without ``--keep-moments``, or with other releases.
        PadimError: Another process is changing the model.
        DatasetError: An image is not in it, or nothing would be left.
        ImageReadError: An image cannot be read.

    Examples:
        >>> padim.forget("kept.safetensors", ["part/train/good/0.png"]).state.count
        5
    """
    with _hold(path) as (path, state, moments, check):
        gone, used = _hash(images, expand), _hash(recalibrate, expand_good)
        left = Counter(state.image_sha256)
        left.subtract(gone.values())
        if strange := _list_named(gone, {digest for digest, n in left.items() if n < 0}):
            raise DatasetError(f"{path} was not fitted on {strange}. Name images that it has seen.")
        if not left.total():
            raise DatasetError(f"{path} would have no image left. Delete it instead.")
        embedder = build_embedder(state, weights)
        kept = [] if state.samples is None else list(state.samples.image)

        def batches() -> Iterator[list[Tensor]]:
            for batch, embeddings in embedder.embed(gone):
                for image in batch:
                    mirrored = image.pixels[:, ::-1]
                    kept[:] = [sample for sample in kept if not np.array_equal(sample, mirrored)]
                yield embeddings

        told = looks.tell(batches(), begin("forget", len(gone)))
        fewer = moments.without(looks.add_up(told, state.pyramid))
        if state.samples is not None:
            samples = replace(state.samples, image=np.stack(kept)) if kept else None
            state = replace(state, samples=samples)
        hashes = tuple(left.elements())
        return _change(path, embedder, state, fewer, hashes, used, begin, check)


def merge(
    first: str | Path,
    second: str | Path,
    out: str | Path,
    *,
    weights: str | Path | None = None,
    begin: Begin = looks.no_progress,
) -> PaDiM:
    """Join two models: exactly what a fit on the images of both would give.

    Args:
        first: A model file with its moments beside it.
        second: Another.
        out: The model file to write, with its moments beside it.
        weights: Local weights file of the backbone, when the models do not bring it.
        begin: Told of each phase and its number of steps; gives what is told of each step.

    Returns:
        The model of both.

    Raises:
        UsageError: A model was fitted without ``--keep-moments``, or the two do not fit together.
        DatasetError: An image is in both.
        PadimError: Another process is changing the model to be.

    Examples:
        >>> model = padim.merge("kept.safetensors", "other.safetensors", "both.safetensors")
        >>> model.state.count
        9
    """
    first, second, out = require_path(first), require_path(second), require_model_place(out)
    _require_no_graph(first)
    _require_no_graph(second)
    with lock_file(out):  # also one that is not there yet, since two files are to be written
        return _merge(first, second, out, weights, begin, remember(out))


def _merge(
    first: Path,
    second: Path,
    out: Path,
    weights: str | Path | None,
    begin: Begin,
    check: Callable[[], None],
) -> PaDiM:
    (state, moments), (other, more) = load_pair(first), load_pair(second)
    if other.image_sha256 < state.image_sha256:  # the same bytes, whichever is named first
        first, state, moments, second, other, more = second, other, more, first, state, moments
    recipes = () if state.recipe == other.recipe else ("recipe",)
    require_alike(str(first), state.encoder, str(second), other.encoder, recipes)
    if state.trunk and other.trunk and hash_trunk(state.trunk) != hash_trunk(other.trunk):
        raise UsageError(
            f"{first} and {second} say that their weights are the same, but the networks inside "
            "differ, so their images cannot be joined. Fit both alike."
        )
    if both := set(state.image_sha256) & set(other.image_sha256):
        raise DatasetError(
            f"{first} and {second} have {format_count(len(both), 'image')} in common, which would "
            "count twice. Forget what is in common in one of them with padim forget."
        )
    embedder = build_embedder(state, weights)
    hashes = state.image_sha256 + other.image_sha256
    images = state.images.merge(other.images) if state.images and other.images else None
    state = replace(state, images=images)
    return _change(out, embedder, state, moments.merge(more), hashes, {}, begin, check)


def build_embedder(
    state: ModelState, weights: str | Path | None = None, n_threads: int | None = None
) -> Embedder:
    """What computes the features of more images as those of a model were computed.

    Raises:
        UsageError: It was fitted with other releases than are installed.
    """
    device, encoder = choose_device("cpu"), state.encoder
    engine = choose_engine(encoder.engine.name, device, encoder.precision)
    require_alike("The model", encoder, "this installation", encoder.here(engine))
    features = network_of(state, weights).features(engine, n_threads)
    open_graphs(features)
    n_batch = choose_batch(None, device, mirrored=encoder.mirrored)
    return Embedder(encoder, features, device, n_batch)


def _change(
    path: Path,
    embedder: Embedder,
    before: ModelState,
    moments: Moments,
    hashes: Sequence[str],
    recalibrate: Mapping[Path, str],
    begin: Begin,
    check: Callable[[], None],
) -> PaDiM:
    """Solve a model anew and write it, after a last ``check``."""
    advance = begin("solve", before.pyramid.n_steps * (2 if recalibrate else 1))
    store = before.whitening[0].dtype
    state = solve(before.encoder, before.recipe, store, before.trunk, moments, hashes, advance)
    state = replace(state, fusion=before.fusion)
    calibration = before.calibration and replace(before.calibration, stale=True)
    if recalibrate:
        if strange := _list_named(recalibrate, set(recalibrate.values()) - set(hashes)):
            raise DatasetError(
                f"The model was not fitted on {strange}. Use padim calibrate for other images."
            )
        if moments.count < 2:
            raise DatasetError(
                "The model has one image, but needs two or more for each to be left out in turn. "
                "Use padim calibrate with other images."
            )
        leave_one_out = LeaveOneOut(moments, state.eps, state.pyramid, advance)
        advance = begin("second look", len(recalibrate))
        seen, collector = looks.look_again(state, leave_one_out, embedder, recalibrate, advance)
        state, collector = looks.join_scores(state, collector)
        may_travel = before.samples is not None
        reference = collector.reference(*seen.compare_cameras(may_travel=may_travel))
        calibration = collector.calibration(LEAVE_ONE_OUT, reference)
    samples = before.samples
    if samples is not None:
        samples = sample(state, embedder, samples.image)
    state = replace(state, calibration=calibration, samples=samples, images=before.images)
    check()
    save_pair(state, moments, path)
    return PaDiM(
        state,
        moments,
        features=embedder.features,
        device=embedder.device.type,
        n_batch=embedder.n_batch,
        path=path,
        file_sha256=sha256(path),
    )


@contextmanager
def _hold(model: str | Path) -> Iterator[tuple[Path, ModelState, Moments, Callable[[], None]]]:
    """Read a model and its moments, which ``hold`` keeps as they are."""
    path = require_path(model)
    _require_no_graph(path)
    with hold(path) as check:
        yield path, *load_pair(path), check


def _require_no_graph(path: Path) -> None:
    if is_graph(path):
        raise UsageError(
            f"{path} is a graph, which learns nothing more. Change the model file that it was made "
            "of, and export that again."
        )


def _hash(images: Paths, choose: Callable[..., tuple[Path, ...]]) -> dict[Path, str]:
    """The sha256 of each image of a folder, or of those that are named."""
    given = [images] if isinstance(images, str | Path) else images
    chosen = choose([find_place(image) for image in given], recursive=False)
    return dict(zip(chosen, hash_all(chosen, content_sha256), strict=True))


def _list_named(images: Mapping[Path, str], wanted: set[str]) -> str:
    return join_names([path for path, digest in images.items() if digest in wanted])


def require_alike(
    one: str, ours: Encoder, other: str, theirs: Encoder, unlike: tuple[str, ...] = ()
) -> None:
    """Make sure that features are the same on both sides, and nothing else is ``unlike``."""
    differences = ours.differences(theirs)
    for name in (*unlike, *differences):
        if name not in {*ours.versions, *theirs.versions, "engine"}:
            raise UsageError(
                f"{one} and {other} differ in their {name}, so their images cannot be joined. Fit "
                "both alike."
            )
        mine, its = differences[name]
        raise UsageError(
            f"{one} was fitted with {name} {mine}, but {other} has {its}, and so other features. "
            "Use the same, or fit anew."
        )
