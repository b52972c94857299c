"""The two looks of a fit at its good images, and what they give: values that merge."""

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
from padim.features.recording import Recorded
from padim.fitting.kept_features import Keeper, Kept
from padim.fitting.review import Suspect
from padim.fitting.seen import Seen
from padim.images.ahead import (
    DECODE_AHEAD,
    ImageInput,
    Loaded,
    batched,
    load_ahead,
)
from padim.method.fusion import Fusion
from padim.method.leave_one_out import LeaveOneOut, LeftOut
from padim.method.moments import Accumulator, Moments
from padim.method.pyramid import Pyramid
from padim.method.tiles import Tile
from padim.model.scorer import finish_of
from padim.model.state import ModelState
from padim.monitor.order import Order
from padim.scoring.collector import Collector
from padim.scoring.predictor import choose_decoders

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
        """Threads that decode."""
        return choose_decoders(self.device.type)

    def embed(
        self, images: Iterable[ImageInput], unreadable: Unreadable | None = None
    ) -> Iterator[tuple[list[Loaded], list[Tensor]]]:
        """Give batches of images and their features: one per level, shape ``(cells, N, d)``.

        An image that cannot be read is told to ``unreadable``; raised when None.
        """
        compute: Callable[[Tensor], Sequence[Tensor]] = Recorded(self.features, self.features)
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
                levels = compute(send(stacked, self.device))
                # A GPU writes the next batch where these are.
                embeddings = [level.clone() if level.is_cuda else level for level in levels]
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
    order: Order | None = None  # whether they may have come in any order; None when not calibrated


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
    left_out: Iterable[LeftOut],
    device: torch.device,
    advance: Advance,
    *,
    start: int = 0,
    n_maps: int = 0,
) -> Collector:
    """Score images of a model under the model without each: all, or a part from ``start`` on.

    ``left_out`` is what ``LeaveOneOut`` gives, in groups, float32; without levels their scores are
    not gathered. ``advance`` is told how many more have been scored, and ``n_maps`` of the highest
    scores are kept.
    """
    finish = finish_of(state).to(device)
    collector = Collector(n_maps, start)
    for group in left_out:
        with computing(device):
            anomaly_map, scores = finish.score(group.distances)
            levels = finish.score_levels(group.levels, scores) if group.levels else None
        counted = state.preprocess.blank_outside(anomaly_map.cpu().numpy())
        collector.add(
            counted,
            torch.stack(scores, dim=1).cpu().numpy(),
            None if levels is None else levels.cpu().numpy(),
        )
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
    left_out = leave_out(leave_one_out, batches)
    return join_scores(state, second_look(state, left_out, device, advance, n_maps=n_maps))


def look_again(
    state: ModelState,
    leave_one_out: LeaveOneOut,
    embedder: Embedder,
    images: Iterable[ImageInput],
    advance: Advance,
) -> tuple[Seen, Collector]:
    """Take a second look at images of a model whose features have to be computed again.

    Gives what they look like, thumbnails as well, and what ``second_look`` gives.
    """
    seen = Seen(0)

    def batches() -> Iterator[list[Tensor]]:
        nonlocal seen
        for batch, embeddings in embedder.embed(images):
            yield embeddings
            seen = seen.add(batch, with_thumbnails=True)

    left_out = leave_out(leave_one_out, batches())
    collector = second_look(state, left_out, embedder.device, advance)
    return seen, collector


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


def leave_out(leave_one_out: LeaveOneOut, batches: Iterable[Sequence[Tensor]]) -> Iterator[LeftOut]:
    """What images are under the model without each, as ``second_look`` takes it."""
    for embeddings in group(batches):
        found = leave_one_out.look(embeddings)
        distances = [torch.split(one.float(), N_FINISHED) for one in found.distances]
        levels = [torch.split(one.float(), N_FINISHED, dim=1) for one in found.levels]
        for of_heads, of_levels in zip(
            zip(*distances, strict=True), zip(*levels, strict=True), strict=True
        ):
            yield LeftOut(list(of_heads), list(of_levels))


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
