"""The two looks of a fit at its good images, and what they give: values that merge."""

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from padim.errors import DatasetError, ImageReadError
from padim.features.device import computing, send
from padim.features.encoder import Encoder
from padim.features.features import TiledFeatures
from padim.fitting.kept_features import Keeper, Kept
from padim.fitting.review import Suspect
from padim.images.ahead import (
    DECODE_AHEAD,
    DECODE_THREADS,
    ImageInput,
    Loaded,
    batched,
    load_ahead,
)
from padim.images.facts import ImageFacts
from padim.images.thumbnails import Look
from padim.method.fusion import Fusion
from padim.method.leave_one_out import LeaveOneOut
from padim.method.moments import Accumulator, Moments
from padim.method.pyramid import Pyramid
from padim.method.tiles import Tile
from padim.model.scorer import finish_of
from padim.model.state import ModelState
from padim.scoring.collector import Collector
from padim.scoring.engines import n_cores
from padim.scoring.parity import N_SAMPLES

GROUP = 32  # images in one product
N_FINISHED = 4  # images whose maps are made at a time
NO_IMAGE = "There is no image to fit on. Name a folder of good images."

Advance = Callable[[int], None]  # told how many more steps are done
Begin = Callable[[str, int], Advance]  # told that a phase of so many steps begins
Unreadable = Callable[[ImageReadError], None]  # told of an image that is left out


def no_progress(_phase: str, _n_steps: int) -> Advance:
    """Tell nobody how far a phase is."""
    return lambda n_done: None


@dataclass(frozen=True)
class Embedder:
    """An encoder at work."""

    encoder: Encoder
    features: nn.Module  # from uint8 images to the features of each level
    device: torch.device  # where it computes
    n_batch: int  # images in one forward pass
    tile: Tile | None = None  # the part of each image that it looks at; all when None

    @property
    def n_decoders(self) -> int:
        """Threads that decode: all cores, where they do not compute as well."""
        return DECODE_THREADS if self.device.type == "cpu" else max(DECODE_THREADS, n_cores())

    def embed(
        self, images: Iterable[ImageInput], unreadable: Unreadable | None = None
    ) -> Iterator[tuple[list[Loaded], list[Tensor]]]:
        """Give batches of images and their features: one per level, shape ``(cells, N, d)``.

        An image that cannot be read is told to ``unreadable``; raised when None.
        """
        compute: Callable[[Tensor], list[Tensor]] = self.features
        if self.tile is not None:
            assert isinstance(self.features, TiledFeatures)
            compute = partial(self.features.of_tile, tile=self.tile)
        loaded = load_ahead(
            images,
            self._bring,
            unreadable,
            reading=self.encoder.preprocess.reading,
            hashed=True,
            n_ahead=max(DECODE_AHEAD, 2 * self.n_decoders),
            n_threads=self.n_decoders,
        )
        for batch in batched(loaded, self.n_batch):
            stacked = torch.from_numpy(np.stack([image.pixels for image in batch]))
            with computing(self.device):
                embeddings = compute(send(stacked, self.device))
            yield batch, embeddings

    def embed_again(
        self, images: Iterable[ImageInput], hashes: Sequence[str], *, skip: bool = False
    ) -> Iterator[list[Tensor]]:
        """Compute the features of images that were looked at before.

        Raises:
            DatasetError: Those that can be read have other sha256 than ``hashes`` now.
        """
        seen: list[str] = []
        for batch, embeddings in self.embed(images, (lambda error: None) if skip else None):
            seen += [image.sha256 for image in batch]
            yield embeddings
        if seen != list(hashes):
            raise DatasetError(
                "The good images have changed while the fit looked at them. Fit again."
            )

    def _bring(self, image: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
        pixels = self.encoder.preprocess(image)
        if self.tile is None:
            return pixels
        (height, width), top, left = self.encoder.tiling.window_px, self.tile.top, self.tile.left
        return pixels[top : top + height, left : left + width].copy()


@dataclass(frozen=True)
class Seen:
    """Images that a first look saw."""

    start: int  # place of the first among all images
    hashes: tuple[str, ...] = ()  # the sha256 of each
    paths: tuple[Path | None, ...] = ()  # of each; None for one given as pixels
    thumbnails: tuple[Look, ...] = ()  # of each, when they are to be reviewed
    samples: tuple[Loaded, ...] = ()  # a few that may travel with the model, when wanted
    facts: ImageFacts | None = None  # what they were like; unknown of older models
    facts_of_each: tuple[ImageFacts, ...] = ()  # what each was like

    def add(
        self, batch: list[Loaded], *, with_thumbnails: bool, with_samples: bool = False
    ) -> "Seen":
        """These and images that were looked at after them."""
        looked = batch if with_thumbnails else []
        facts = tuple(map(ImageFacts.of, batch))
        new = Seen(
            self.start + len(self.hashes),
            tuple(image.sha256 for image in batch),
            tuple(image.path for image in batch),
            tuple(Look.of(image.pixels, image.source_px) for image in looked),
            tuple(batch if with_samples else ()),
            reduce(ImageFacts.merge, facts),
            facts,
        )
        return self.merge(new)

    def merge(self, other: "Seen") -> "Seen":
        """These and those that come after them.

        Raises:
            DatasetError: The others do not begin where these end.
        """
        if other.start != self.start + len(self.hashes):
            raise DatasetError(
                f"One part of the images ends before number {self.start + len(self.hashes)}, but "
                f"the next begins with {other.start}. Merge the looks at all parts, each once."
            )
        # Any choice of samples would do that depends on nothing but the images.
        samples = heapq.nsmallest(N_SAMPLES, self.samples + other.samples, attrgetter("sha256"))
        return Seen(
            self.start,
            self.hashes + other.hashes,
            self.paths + other.paths,
            self.thumbnails + other.thumbnails,
            tuple(samples),
            self._merge_facts(other),
            self.facts_of_each + other.facts_of_each,
        )

    def without(self, places: Set[int]) -> "Seen":
        """Those that are left without the images of these places, the first of all being 0."""
        left = [i for i in range(len(self.hashes)) if i not in places]
        gone = {self.hashes[i] for i in places}
        thumbnails = self.thumbnails and tuple(self.thumbnails[i] for i in left)
        return Seen(
            self.start,
            tuple(self.hashes[i] for i in left),
            tuple(self.paths[i] for i in left),
            thumbnails,
            tuple(image for image in self.samples if image.sha256 not in gone),
            reduce(ImageFacts.merge, (self.facts_of_each[i] for i in left)),
            tuple(self.facts_of_each[i] for i in left),
        )

    def _merge_facts(self, other: "Seen") -> ImageFacts | None:
        if not self.hashes or not other.hashes:
            return self.facts or other.facts
        return self.facts.merge(other.facts) if self.facts and other.facts else None


class FirstLook(NamedTuple):
    """The images of a first look, and the moments of their features."""

    seen: Seen
    moments: Moments
    kept: Kept  # the features, for the second look; none when too many

    @property
    def start(self) -> int:
        """Place of the first image among all."""
        return self.seen.start

    def merge(self, other: "FirstLook") -> "FirstLook":
        """This look and one at the images that come after."""
        kept = self.kept + other.kept if self.kept and other.kept else ()
        return FirstLook(self.seen.merge(other.seen), self.moments.merge(other.moments), kept)


@dataclass(frozen=True)
class Fitted:
    """What a fit gives."""

    state: ModelState
    paths: tuple[Path | None, ...]  # the images that could be read; None for one given as pixels
    moments: Moments | None = None  # what it was made from, when kept
    suspects: tuple[Suspect, ...] = ()  # images that do not look as the rest does, by place
    dropped: tuple[int, ...] = ()  # places of the outliers that it was not made from
    # Of outliers by their places, each under the model without it; of the highest scores
    outlier_maps: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)


Part = TypeVar("Part", Seen, FirstLook, Collector)


def merge_in_order(parts: Iterable[Part]) -> Part:
    """Join what looks at parts of the images gave, in the order of the images.

    Sums of floating-point numbers depend on their order, so whoever finishes first must not decide
    it. Together the parts saw each image once.
    """
    return reduce(lambda one, other: one.merge(other), sorted(parts, key=attrgetter("start")))


def look(
    embedder: Embedder,
    images: Iterable[ImageInput],
    advance: Advance,
    unreadable: Unreadable | None = None,
    *,
    start: int = 0,
    keeper: Keeper | None = None,
    with_samples: bool = False,
    with_thumbnails: bool = False,
) -> FirstLook:
    """Look at good images for the first time: all, or a part that begins at the place ``start``.

    ``advance`` is told how many more have been seen, and ``unreadable`` of one that cannot be read,
    which is then left out. ``keeper`` is given the features, all or none of which are then kept.
    Samples may travel with the model, and thumbnails serve to review the images.

    Raises:
        DatasetError: There is no image.
        ImageReadError: An image cannot be read and nobody is told.
    """
    seen = Seen(start)

    def batches() -> Iterator[list[Tensor]]:
        nonlocal seen
        for batch, embeddings in embedder.embed(images, unreadable):
            yield embeddings
            seen = seen.add(batch, with_thumbnails=with_thumbnails, with_samples=with_samples)
            advance(len(batch))

    moments = add_up(batches(), embedder.encoder.pyramid, keeper)
    if not seen.hashes:
        raise DatasetError(NO_IMAGE)
    return FirstLook(seen, moments, () if keeper is None else keeper.kept())


def add_up(
    batches: Iterable[list[Tensor]], pyramid: Pyramid, keeper: Keeper | None = None
) -> Moments:
    """Sum batches of embeddings, ``(cells, N, d)`` per level of a pyramid's heads, to moments.

    The batches are given to ``keeper`` as well.
    """
    accumulator = Accumulator(len(pyramid.levels))
    for batch in batches:
        accumulator.add(batch)
        if keeper is not None:
            keeper.add(batch)
    return accumulator.moments()


def second_look(
    state: ModelState,
    distances: Iterable[Sequence[Tensor]],
    device: torch.device,
    advance: Advance,
    *,
    start: int = 0,
    n_maps: int = 0,
) -> Collector:
    """Score images of a model under the model without each: all, or a part from ``start`` on.

    ``distances`` are those of ``LeaveOneOut`` in groups, float32.
    ``advance`` is told how many more have been scored, and ``n_maps`` of the highest scores are
    kept.
    """
    finish = finish_of(state).to(device)
    collector = Collector(n_maps, start)
    for group in distances:
        with computing(device):
            anomaly_map, scores = finish.score(group)
        counted = state.preprocess.blank_outside(anomaly_map.cpu().numpy())
        collector.add(counted, torch.stack(scores, dim=1).cpu().numpy())
        advance(len(anomaly_map))
    return collector


def judge(
    state: ModelState,
    leave_one_out: LeaveOneOut,
    batches: Iterable[Sequence[Tensor]],
    device: torch.device,
    advance: Advance,
    *,
    n_maps: int = 0,
) -> tuple[ModelState, Collector]:
    """Take a second look at images of a model, by their embeddings ``(cells, N, d)`` per level.

    Gives what ``join_scores`` gives.
    """
    distances = leave_out(leave_one_out, batches)
    return join_scores(state, second_look(state, distances, device, advance, n_maps=n_maps))


def join_scores(state: ModelState, collector: Collector) -> tuple[ModelState, Collector]:
    """Let a model weigh the scores of its heads by those of a second look, one image at least.

    Returns:
        The model, and what was collected with one score for each image.
    """
    scores = collector.scores()
    if scores.shape[1] == 1:
        return state, collector
    fusion = Fusion.of(scores)
    joined = fusion.join(torch.from_numpy(scores).unbind(dim=1))
    return replace(state, fusion=fusion), collector.joined(joined.numpy())


def leave_out(
    leave_one_out: LeaveOneOut, batches: Iterable[Sequence[Tensor]]
) -> Iterator[list[Tensor]]:
    """The distances of images under the model without each, as ``second_look`` takes them."""
    for embeddings in group(batches):
        parts = [torch.split(found.float(), N_FINISHED) for found in leave_one_out(embeddings)]
        yield from map(list, zip(*parts, strict=True))


def group(batches: Iterable[Sequence[Tensor]]) -> Iterator[list[Tensor]]:
    """Join small batches of embeddings, ``(cells, N, d)`` per level, to larger ones."""
    waiting: list[Sequence[Tensor]] = []
    for batch in batches:
        waiting.append(batch)
        if sum(found[0].shape[1] for found in waiting) >= GROUP:
            yield _join(waiting)
            waiting = []
    if waiting:
        yield _join(waiting)


def _join(batches: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    if len(batches) == 1:
        return list(batches[0])
    return [torch.cat(level, dim=1) for level in zip(*batches, strict=True)]


def pick(batches: Iterable[Sequence[Tensor]], places: Set[int]) -> Iterator[list[Tensor]]:
    """Keep the images of these places of batches of embeddings, ``(cells, N, d)`` per level."""
    start = 0
    for batch in batches:
        n_images = batch[0].shape[1]
        inside = [i for i in range(n_images) if start + i in places]
        start += n_images
        if inside:
            yield [level[:, inside] for level in batch]


def tell(batches: Iterable[list[Tensor]], advance: Advance) -> Iterator[list[Tensor]]:
    """Pass batches of embeddings on, and tell how many more images have been worked on."""
    for batch in batches:
        yield batch
        advance(batch[0].shape[1])
