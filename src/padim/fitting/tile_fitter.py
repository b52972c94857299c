"""Large images, fitted with the moments and the whitening rows of one tile in memory."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from operator import length_hint
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from padim.errors import DatasetError, ImageReadError, UsageError
from padim.features.cached_trunk import open_graphs
from padim.files import TemporaryFolder
from padim.fitting import looks
from padim.fitting.forecast import N_FINISHED
from padim.fitting.looks import Advance, Begin, Embedder, Fitted, Seen, Unreadable
from padim.fitting.review import OUTLIER_RATE, review_look
from padim.fitting.settings import FitSettings
from padim.images.ahead import DECODE_AHEAD, DECODE_THREADS, ImageInput, load_image, map_ahead
from padim.images.thumbnails import Look
from padim.method.gaussian import STORES, factor, level_eps
from padim.method.leave_one_out import LeaveOneOut
from padim.method.pyramid import Pyramid
from padim.model.file_tensor import FileTensor, empty_file_tensor
from padim.model.state import ModelState
from padim.recipes import Recipe
from padim.scoring.calibration import LEAVE_ONE_OUT

N_PILOT = 16  # images whose variance scales a relative eps, before any tile is fitted


@dataclass(frozen=True)
class TileFitter:
    """A fit of images that the network sees in several parts, one part of all images at a time.

    Each image is decoded again for each part. Whitening rows and leave-one-out distances wait in
    temporary files.

    Attributes:
        trunk: The trunk's tensors, when they travel with the model.
        n_maps: Maps of outliers that are kept.
        kept_feature_bytes: Of features kept for the second look; with more they are recomputed.
        scratch: Folder of the temporary files; the system's when None.
    """

    settings: FitSettings
    recipe: Recipe
    embedder: Embedder
    trunk: Mapping[str, Tensor]
    n_maps: int
    kept_feature_bytes: int
    scratch: Path | None

    def fit(
        self,
        images: Iterable[ImageInput],
        begin: Begin = looks.no_progress,
        unreadable: Unreadable | None = None,
    ) -> Fitted:
        """Fit on good images; each is a step of a phase, for every tile once for each look.

        Raises:
            DatasetError: There is no image, or one has changed between two looks at it.
            ImageReadError: An image cannot be read and nobody is told.
            UsageError: The images can be looked at once only.
        """
        if isinstance(images, Iterator):
            raise UsageError(
                "The images come from an iterator, but each tile takes a look of its own. Give a "
                "list of them."
            )
        open_graphs(self.embedder.features)
        readable, seen = self._survey(images, begin("read", length_hint(images)), unreadable)
        eps = self._find_eps(readable)
        encoder, count = self.embedder.encoder, len(seen.hashes)
        is_judged = self.settings.calibrate and count > 1
        store, n_judged = STORES[self.settings.store], count if is_judged else 0
        files = _open_files(encoder.pyramid, n_judged, store, self.scratch)
        advance = begin("tiles", count * len(encoder.tiling.tiles) * (1 + is_judged))
        for tile, spans in encoder.tiling.spans():
            batches = partial(replace(self.embedder, tile=tile).embed_again, readable, seen.hashes)
            self._fit_tile(tile.pyramid, spans, eps, batches, files, advance)
        state = ModelState(
            encoder=encoder,
            recipe=self.recipe,
            eps=tuple(eps),
            count=count,
            mean=files.mean,
            whitening=files.whitening,
            image_sha256=tuple(sorted(seen.hashes)),
            trunk=self.trunk,
        )
        if files.distances is None:
            return Fitted(state, None, (), (), {}, seen.paths)
        distances, device = self._read_maps(files.distances, count), torch.device("cpu")
        advance = begin("maps", count)
        collector = looks.second_look(state, distances, device, advance, n_maps=self.n_maps)
        suspects, outlier_maps = review_look(collector, seen.thumbnails, OUTLIER_RATE)
        state = replace(state, calibration=collector.calibration(LEAVE_ONE_OUT))
        return Fitted(state, None, suspects, (), outlier_maps, seen.paths)

    def _fit_tile(
        self,
        pyramid: Pyramid,
        spans: list[slice],
        eps: list[float],
        batches: Callable[[], Iterable[list[Tensor]]],
        files: "_Files",
        advance: Advance,
    ) -> None:
        """Write the rows and means of one part, and the distances of its images."""
        kept_bytes = 0 if files.distances is None else self.kept_feature_bytes
        moments, kept = looks.add_up(looks.tell(batches(), advance), kept_bytes)
        rows = factor(moments, eps, max(moments.count - 1, 1), files.whitening[0].dtype)
        for i, span in enumerate(spans):
            files.whitening[i].write(span.start, rows[i])
            files.mean[i][span] = moments.mean[i].float()
        del rows
        if files.distances is not None:
            leave_one_out = LeaveOneOut(moments, eps, pyramid)
            del moments
            place = spans[-1].start
            for embeddings in looks.group(looks.tell(kept or batches(), advance)):
                for image in leave_one_out.distances(embeddings).t():
                    files.distances.write(place, image)
                    place += self.embedder.encoder.pyramid.n_cells(-1)

    def _read_maps(self, distances: FileTensor, count: int) -> Iterator[Tensor]:
        """The distances of all images in groups, shape ``(N, h, w)``."""
        pyramid = self.embedder.encoder.pyramid
        n_fine = pyramid.n_cells(-1)
        for first in range(0, count, N_FINISHED):
            some = distances[first * n_fine : (first + N_FINISHED) * n_fine].view(-1, n_fine)
            yield pyramid.on_grid(some.t())

    def _survey(
        self, images: Iterable[ImageInput], advance: Advance, unreadable: Unreadable | None
    ) -> tuple[list[ImageInput], Seen]:
        """What can be read, with hash, path and thumbnail."""

        def look(image: ImageInput) -> tuple[ImageInput, str, Path | None, Look] | ImageReadError:
            try:
                loaded = load_image(image, self.embedder.encoder.preprocess, hashed=True)
            except ImageReadError as error:
                return error
            return image, loaded.sha256, loaded.path, Look.of(loaded.pixels, loaded.source_px)

        found = []
        for seen in map_ahead(look, images, DECODE_THREADS, DECODE_AHEAD):
            advance(1)
            if not isinstance(seen, ImageReadError):
                found.append(seen)
            elif unreadable is None:
                raise seen
            else:
                unreadable(seen)
        if not found:
            raise DatasetError(looks.NO_IMAGE)
        readable, hashes, paths, thumbnails = zip(*found, strict=True)
        return list(readable), Seen(0, hashes, paths, thumbnails)

    def _find_eps(self, images: list[ImageInput]) -> list[float]:
        """What is added to the diagonal of each level: of the whole images' first few."""
        encoder = self.embedder.encoder
        n_levels = len(encoder.pyramid.levels)
        if self.recipe.eps_rule == "absolute":
            return [self.recipe.eps] * n_levels
        pilot: list[Tensor] = []
        sums: list[Tensor] = []
        squares = [0.0] * n_levels
        images = images[:N_PILOT]
        for image in images:
            loaded = load_image(image, encoder.preprocess)
            pixels = torch.from_numpy(loaded.pixels[None]).to(self.embedder.device)
            with torch.inference_mode():
                embeddings = self.embedder.features(pixels)
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
        return level_eps(variances, self.recipe.eps)


class _Files(NamedTuple):
    """Temporary files, in which what was found of the tiles waits for the rest."""

    whitening: tuple[FileTensor, ...]  # (cells, d, D + d) of each level
    mean: tuple[Tensor, ...]  # (cells, d) of each level; in memory
    distances: FileTensor | None  # of each image at all cells, one after the other, when wanted


def _open_files(
    pyramid: Pyramid, n_judged: int, store: torch.dtype, scratch: Path | None
) -> _Files:
    """Make room for a model, and for the leave-one-out distances of some images."""
    folder = TemporaryFolder(scratch)
    whitening, mean = [], []
    for i, level in enumerate(pyramid.levels):
        shape = (pyramid.n_cells(i), level.n_dims, pyramid.context_dims(i) + level.n_dims)
        whitening.append(empty_file_tensor(folder.path / f"whitening_{i}", shape, store, folder))
        mean.append(torch.empty(shape[:2]))
    distances: FileTensor | None = None
    if n_judged:
        n_values = pyramid.n_cells(-1) * n_judged
        file = folder.path / "distances"
        distances = empty_file_tensor(file, (n_values,), torch.float32, folder)
    return _Files(tuple(whitening), tuple(mean), distances)
