"""A fit that is spread over machines: each looks at a shard of the images, and the looks merge.

Which shard an image is in depends on its bytes alone, the images of a shard come in the order of
their sha256, and shards are added up in the order of their numbers. So the model has the same bytes
however many machines have worked on it, and in whatever order they finished.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from padim.choices import require_model_place, require_path
from padim.errors import DatasetError, UsageError
from padim.features.network import open_graphs
from padim.files import lock_file, sha256
from padim.fitting import looks, update
from padim.fitting.fitter import Fitter
from padim.fitting.look_sum import LookSum
from padim.fitting.looks import Begin, Embedder, Fitted, Unreadable
from padim.fitting.review import OUTLIER_RATE, review_look
from padim.fitting.seen import Seen
from padim.images.ahead import content_sha256
from padim.method.gaussian import STORES
from padim.method.leave_one_out import LeaveOneOut
from padim.method.moments import Moments
from padim.model.pair import load_pair, save_pair
from padim.model.shard_file import (
    Shard,
    ShardChoices,
    ShardLook,
    ShardScores,
    find_shard,
    load_look,
    load_scores,
)
from padim.model.state import ModelState
from padim.places import find_place
from padim.scoring.calibration import LEAVE_ONE_OUT
from padim.scoring.collector import Collector


def look_at_shard(
    fitter: Fitter,
    images: Mapping[Path, str],
    shard: Shard,
    begin: Begin = looks.no_progress,
    unreadable: Unreadable | None = None,
) -> ShardLook:
    """Take the first look at a shard, whose images ``choose_images`` gave.

    Raises:
        UsageError: Images are looked at tile by tile.
        ImageReadError: An image cannot be read and nobody is told.
    """
    settings, embedder, recipe = fitter.settings, fitter.embedder, fitter.recipe
    if len(fitter.encoder.tiling.tiles) > 1:
        raise UsageError(
            "A model that looks at images tile by tile keeps no moments, so its fit cannot be "
            "spread. Leave --shard or --tile-px out."
        )
    open_graphs(embedder.features)
    advance = begin("fit", len(images))
    seen, moments, _ = looks.look(
        embedder, images, advance, unreadable, with_samples=settings.keep_samples
    )
    _require_same(seen, images.values())
    state = ModelState(
        encoder=embedder.encoder,
        recipe=recipe,
        eps=(recipe.eps,) * len(moments.mean),
        count=moments.count,
        mean=(),
        whitening=(),
        image_sha256=seen.hashes,
        trunk={},
        images=seen.facts,
    )
    names = {store: name for name, store in STORES.items()}
    store: Any = names[STORES[settings.store]]
    choices = ShardChoices(store, bool(fitter.trunk), settings.keep_samples)
    pixels = [one.pixels for one in seen.samples]
    shape = (0, *embedder.encoder.preprocess.size_px, 3)
    return ShardLook(
        shard,
        state,
        choices,
        moments,
        np.stack(pixels) if pixels else np.empty(shape, np.uint8),
        tuple(one.sha256 for one in seen.samples),
    )


def merge_looks(
    paths: Sequence[Path],
    out: Path,
    *,
    weights: str | Path | None = None,
    begin: Begin = looks.no_progress,
) -> ModelState:
    """Make a model of the first looks at all shards, without a threshold; its moments stay beside.

    Args:
        paths: Files of ``look_at_shard``, in any order.
        out: The model file to write.
        weights: Local weights file of the backbone.
        begin: Told of each phase and its number of steps; gives what is told of each step.

    Raises:
        DatasetError: A shard is missing, or is there twice, or two have an image in common.
        UsageError: Two do not fit together.
        ModelFileError: A file is damaged.
    """
    ordered = _order(paths)
    total, advance = LookSum(), begin("merge", len(ordered))
    for number, path in enumerate(ordered, 1):
        total.add(load_look(path), number, path)
        advance(1)
    return total.solve(out, weights=weights, begin=begin)


@dataclass(frozen=True)
class SecondLook:
    """A model whose images can be scored under it without each, shard by shard.

    Attributes:
        path: The model file, which ``merge_looks`` wrote.
        sha256: Of that file.
        state: The model.
        embedder: What computes features as its were.
        leave_one_out: What scores them.
    """

    path: Path
    sha256: str
    state: ModelState
    embedder: Embedder
    leave_one_out: LeaveOneOut

    @classmethod
    def open(
        cls,
        model: Path,
        weights: str | Path | None = None,
        n_threads: int | None = None,
        begin: Begin = looks.no_progress,
    ) -> "SecondLook":
        """Read a model with its moments beside it, and solve for it without each image.

        Raises:
            DatasetError: It was made of one image alone.
            UsageError: There are no moments of it, or other releases are installed.
        """
        digest, state, moments = _load(model)
        if state.count < 2:
            raise DatasetError(f"{model} has one image, but needs two for each to be left out.")
        embedder = update.build_embedder(state, weights, n_threads)
        advance = begin("solve", state.pyramid.n_steps)
        leave_one_out = LeaveOneOut(moments, state.eps, state.pyramid, advance, in_place=True)
        return cls(model, digest, state, embedder, leave_one_out)

    def look(
        self,
        images: Mapping[Path, str],
        shard: Shard,
        drop_outliers: float = 0.0,
        begin: Begin = looks.no_progress,
    ) -> ShardScores:
        """Take the second look at a shard.

        Images that the model was not made of are left out, such as outliers that were dropped.

        Args:
            images: What ``choose_images`` gave.
            shard: Which.
            drop_outliers: Rate of outliers that are to be left out of the model; 0 for none.
            begin: Told of the phase and its number of steps; gives what is told of each step.

        Raises:
            DatasetError: An image that the model was made of is missing, or it was made of none of
                this shard.
        """
        left = Counter(digest for digest in self.state.image_sha256 if shard.has(digest))
        known: list[Path] = []
        for path, digest in images.items():
            if left[digest]:
                left[digest] -= 1
                known.append(path)
        if gone := sorted(left.elements()):
            raise DatasetError(
                f"{self.path} was made of an image with the sha256 {gone[0]}, which is not there "
                "any more. Look at the same images again."
            )
        if not known:
            raise DatasetError(
                f"{self.path} has no image of shard {shard}. Merge the others without it."
            )
        advance = begin("second look", len(known))
        seen, collector = looks.look_again(
            self.state, self.leave_one_out, self.embedder, known, advance
        )
        _require_same(seen, (images[path] for path in known))
        paths, found = tuple(map(str, known)), (collector, seen.thumbnails, seen.snapshots)
        return ShardScores(shard, self.sha256, seen.hashes, paths, *found, drop_outliers)


def merge_scores(
    model: Path,
    paths: Sequence[Path],
    out: Path,
    *,
    weights: str | Path | None = None,
    begin: Begin = looks.no_progress,
) -> Fitted:
    """Set the threshold of a model by the second looks at all shards.

    Outliers that are to be dropped are taken out of the model, which then has no threshold: take
    the second look again. For that they are read once more, under the names that they had there.

    Args:
        model: Whose images they are, with its moments beside it.
        paths: Files of second looks, in any order; of all shards that the model has images of.
        out: The model file to write.
        weights: Local weights file of the backbone, when the model does not bring it.
        begin: Told of each phase and its number of steps; gives what is told of each step.

    Raises:
        DatasetError: A shard is missing, or is there twice, or is of another model.
        ImageReadError: An outlier that is to be dropped cannot be read.
        ModelFileError: A file is damaged.
    """
    out = require_model_place(out)
    digest, state, moments = _load(model)
    ordered = _order(paths, state.image_sha256)
    parts = [load_scores(path) for path in ordered]
    for path, part in zip(ordered, parts, strict=True):
        if part.model_sha256 != digest:
            raise DatasetError(
                f"{path} is of another model than {model}. Take the second look under that one."
            )
        if part.drop_outliers != parts[0].drop_outliers:
            raise UsageError(
                f"{ordered[0]} would drop outliers at {parts[0].drop_outliers:g}, but {path} at "
                f"{part.drop_outliers:g}. Look at all shards alike."
            )
    hashes = tuple(one for part in parts for one in part.image_sha256)
    if Counter(hashes) != Counter(state.image_sha256):
        raise DatasetError(f"The shards have not all images of {model}. Take the looks anew.")
    collector = reduce(Collector.merge, (part.scores for part in parts))
    state, collector = looks.join_scores(state, collector)
    looked = [look for part in parts for look in part.looks]
    images = tuple(find_place(path) for part in parts for path in part.paths)
    rate = parts[0].drop_outliers
    suspects, _ = review_look(collector, looked, rate or OUTLIER_RATE)
    dropped = tuple(sorted({one.index for one in suspects if one.reason == "outlier"}))
    fitted = Fitted(state, images, suspects=suspects, dropped=dropped if rate else ())
    if fitted.dropped:
        if len(dropped) > state.count - 2:
            raise DatasetError(
                f"{len(dropped)} of {state.count} images would be dropped as outliers. Take a "
                "smaller --drop-outliers."
            )
        gone = [images[i] for i in dropped]
        for i in dropped:  # before anything is written
            if content_sha256(images[i]) != hashes[i]:
                raise DatasetError(f"{images[i]} is another image than was looked at.")
        with lock_file(out):
            save_pair(replace(state, fusion=None), moments, out)
        return replace(fitted, state=update.forget(out, gone, weights=weights, begin=begin).state)
    seen = Seen(0, hashes, snapshots=tuple(one for part in parts for one in part.snapshots))
    camera, mean_image = seen.compare_cameras(may_travel=state.samples is not None)
    calibration = collector.calibration(LEAVE_ONE_OUT, collector.reference(camera, mean_image))
    state = replace(state, calibration=calibration)
    with lock_file(out):
        save_pair(state, moments, out)
    return replace(fitted, state=state)


def _load(model: Path) -> tuple[str, ModelState, Moments]:
    """A model and its moments, and the sha256 of its file."""
    model = require_path(model)
    digest = sha256(model)
    state, moments = load_pair(model)
    if sha256(model) != digest:
        raise DatasetError(f"{model} has changed while it was read. Do it again.")
    return digest, state, moments


def _order(paths: Sequence[Path], hashes: Sequence[str] | None = None) -> list[Path]:
    """Files of shards by their numbers, each once: of all, or of those that have some images."""
    found: dict[int, Path] = {}
    shards = {path: find_shard(require_path(path)) for path in paths}
    n_shards = next(iter(shards.values())).n_shards
    for path, shard in shards.items():
        if shard.n_shards != n_shards:
            raise DatasetError(
                f"{path} is shard {shard}, but {paths[0]} is one of {n_shards}. Split all alike."
            )
        if shard.number in found:
            raise DatasetError(f"{found[shard.number]} and {path} are both shard {shard}.")
        found[shard.number] = path
    missing = [
        n
        for n in range(1, n_shards + 1)
        if n not in found and (hashes is None or any(map(Shard(n, n_shards).has, hashes)))
    ]
    if missing:
        names = ", ".join(f"{n}/{n_shards}" for n in missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise DatasetError(f"The shards {names}{more} are missing. Name all {n_shards}.")
    return [found[number] for number in sorted(found)]


def _require_same(seen: Seen, expected: Iterable[str]) -> None:
    """Refuse images whose bytes are others than they were chosen by."""
    if strange := Counter(seen.hashes) - Counter(expected):
        path = seen.paths[seen.hashes.index(next(iter(strange)))]
        raise DatasetError(
            f"{path} has another sha256 than before or in the list. Look at the shard again."
        )
