"""Large images, fitted with the moments and the whitening rows of one tile in memory.

Each image is decoded again for each part. Whitening rows and leave-one-out distances wait in
temporary files.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from operator import length_hint
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from padim.errors import DatasetError, UsageError
from padim.features.device import computing
from padim.features.network import open_graphs
from padim.fitting import looks
from padim.fitting.kept_features import Keeper, read_kept
from padim.fitting.looks import Advance, Begin, Fitted, Unreadable
from padim.fitting.review import OUTLIER_RATE, review_look
from padim.fitting.seen import Seen
from padim.images.ahead import DECODE_THREADS, ImageInput, load_ahead, load_image
from padim.method.gaussian import STORES, factor, level_eps
from padim.method.leave_one_out import LeaveOneOut, LeftOut
from padim.method.pyramid import Pyramid
from padim.model.state import ModelState
from padim.scoring.calibration import LEAVE_ONE_OUT
from padim.temporary import TemporaryFolder
from padim.tensors.file_tensor import FileTensor

if TYPE_CHECKING:
    from padim.fitting.fitter import Fitter

N_PILOT = 16  # images whose variance scales a relative eps, before any tile is fitted


def fit_tiles(
    fitter: "Fitter",
    images: Iterable[ImageInput],
    begin: Begin,
    unreadable: Unreadable | None,
) -> Fitted:
    """Do what ``Fitter.fit`` does, one part of all images at a time, for each look anew.

    Raises:
        PadimError: As there; the images can be looked at once only, whether to calibrate or not.
    """
    if isinstance(images, Iterator):
        raise UsageError(
            "The images come from an iterator, but each tile takes a look of its own. Give a "
            "list of them."
        )
    embedder, encoder = fitter.embedder, fitter.encoder
    open_graphs(embedder.features)
    readable, seen = _survey(fitter, images, begin("read", length_hint(images)), unreadable)
    eps, count = _find_eps(fitter, readable), len(readable)
    is_judged = fitter.settings.calibrate and count > 1
    files = _open_files(fitter, count if is_judged else 0)
    advance = begin("tiles", count * len(encoder.tiling.tiles) * (1 + is_judged))
    for tile, spans in encoder.tiling.spans():
        batches = partial(replace(embedder, tile=tile).embed_again, readable, seen.hashes)
        folder = files.whitening[0].path.parent
        keeper = Keeper(fitter.kept_feature_bytes if is_judged else 0, folder)
        _fit_tile(tile.pyramid, spans, eps, batches, files, keeper, advance)
    state = ModelState(
        encoder=encoder,
        recipe=fitter.recipe,
        eps=tuple(eps),
        count=count,
        mean=files.mean,
        whitening=files.whitening,
        image_sha256=tuple(sorted(seen.hashes)),
        trunk=fitter.trunk,
        images=seen.facts,
    )
    if files.distances is None:
        return Fitted(state, seen.paths)
    distances, device = _read_maps(encoder.pyramid, files.distances), torch.device("cpu")
    advance = begin("maps", count)
    collector = looks.second_look(state, distances, device, advance, n_maps=fitter.n_maps)
    state, collector = looks.join_scores(state, collector)
    suspects, outlier_maps = review_look(collector, seen.thumbnails, OUTLIER_RATE)
    state = replace(state, calibration=collector.calibration(LEAVE_ONE_OUT))
    return Fitted(state, seen.paths, suspects=suspects, outlier_maps=outlier_maps)


def _fit_tile(
    pyramid: Pyramid,
    spans: list[slice],
    eps: list[float],
    batches: Callable[[], Iterable[list[Tensor]]],
    files: "_Files",
    keeper: Keeper,
    advance: Advance,
) -> None:
    """Write the rows and means of one part, and the distances of its images."""
    moments = looks.add_up(looks.tell(batches(), advance), pyramid, keeper)
    rows = factor(moments, eps, max(moments.count - 1, 1), files.whitening[0].dtype)
    for i, span in enumerate(spans):
        files.whitening[i].write(span.start, rows[i])
        files.mean[i][span] = moments.mean[i].float()
    del rows
    if files.distances is not None:
        leave_one_out = LeaveOneOut(moments, eps, pyramid, in_place=True)
        kept = keeper.kept()
        device = moments.mean[0].device
        again = read_kept(kept, pyramid, device, looks.GROUP) if kept else batches()
        starts = [own[-1].start for own in pyramid.by_head(spans)]
        strides = [len(own[-1]) for own in pyramid.by_head(files.mean)]  # from image to image
        n_seen = 0
        for embeddings in looks.group(looks.tell(again, advance)):
            found = leave_one_out.distances(embeddings)
            for file, start, stride, distances in zip(
                files.distances, starts, strides, found, strict=True
            ):
                for i, image in enumerate(distances.t(), n_seen):
                    file.write(start + i * stride, image)
            n_seen += embeddings[0].shape[1]


def _read_maps(pyramid: Pyramid, files: Sequence[FileTensor]) -> Iterator[LeftOut]:
    """The distances of all images in groups, as ``LeaveOneOut`` gives them, without levels."""
    n_cells = [head.n_cells(-1) for head in pyramid.heads]
    for start in range(0, len(files[0]) // n_cells[0], looks.N_FINISHED):
        first, *others = (
            file[start * n : (start + looks.N_FINISHED) * n].view(-1, n)
            for file, n in zip(files, n_cells, strict=True)
        )
        yield LeftOut([pyramid.on_grid(first.t()), *others], [])


def _survey(
    fitter: "Fitter",
    images: Iterable[ImageInput],
    advance: Advance,
    unreadable: Unreadable | None,
) -> tuple[list[ImageInput], Seen]:
    """What can be read, with hash, path and thumbnail."""
    readable: list[ImageInput] = []
    seen, bring, n_ahead = Seen(0), fitter.encoder.preprocess, 2 * DECODE_THREADS
    for loaded in load_ahead(
        images, bring, unreadable, reading=bring.reading, hashed=True, n_ahead=n_ahead
    ):
        advance(1)
        readable.append(loaded.image)
        seen = seen.add([loaded], with_thumbnails=True)
    if not readable:
        raise DatasetError(looks.NO_IMAGE)
    return readable, seen


def _find_eps(fitter: "Fitter", images: list[ImageInput]) -> list[float]:
    """What is added to the diagonal of each level: of the whole images' first few."""
    n_levels = len(fitter.encoder.pyramid.shapes)
    if fitter.recipe.eps_rule == "absolute":
        return [fitter.recipe.eps] * n_levels
    pilot: list[Tensor] = []
    sums: list[Tensor] = []
    squares = [0.0] * n_levels
    images, preprocess = images[:N_PILOT], fitter.encoder.preprocess
    for image in images:
        loaded = load_image(image, preprocess, preprocess.reading)
        pixels = torch.from_numpy(loaded.pixels[None]).to(fitter.embedder.device)
        with computing(fitter.embedder.device):
            embeddings = fitter.features(pixels)
        pilot = pilot or embeddings
        sums = sums or [torch.zeros_like(level) for level in embeddings]
        for i, level in enumerate(embeddings):
            level = level - pilot[i]
            sums[i] += level
            squares[i] += float(level.square().sum(dtype=torch.float64))
    variances = [
        (square - float(total.square().sum(dtype=torch.float64)) / len(images))
        / max(len(images) - 1, 1)
        / total.numel()
        for square, total in zip(squares, sums, strict=True)
    ]
    return level_eps(variances, fitter.recipe.eps)


class _Files(NamedTuple):
    """Temporary files, in which what was found of the tiles waits for the rest."""

    whitening: tuple[FileTensor, ...]  # (cells, d, D + d) of each level
    mean: tuple[Tensor, ...]  # (cells, d) of each level; in memory
    # Of each image at all cells of a head, one after the other, per head; when wanted
    distances: tuple[FileTensor, ...] | None


def _open_files(fitter: "Fitter", n_judged: int) -> _Files:
    """Make room for a model, and for the leave-one-out distances of some images."""
    folder, pyramid = TemporaryFolder(fitter.scratch), fitter.encoder.pyramid
    store = STORES[fitter.settings.store]
    whitening, mean = [], []
    for i, shape in enumerate(pyramid.shapes):
        whitening.append(FileTensor.make(folder, f"whitening_{i}", shape, store))
        mean.append(torch.empty(shape[:2], dtype=torch.float32))
    distances = tuple(
        FileTensor.make(folder, f"distances_{i}", (head.n_cells(-1) * n_judged,), torch.float32)
        for i, head in enumerate(pyramid.heads)
    )
    return _Files(tuple(whitening), tuple(mean), distances if n_judged else None)
