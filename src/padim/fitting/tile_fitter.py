"""Large images, fitted with the moments and the whitening rows of one tile in memory."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import length_hint
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from padim.errors import DatasetError, ImageReadError, UsageError
from padim.features.cached_trunk import open_graphs
from padim.files import TemporaryFolder
from padim.fitting.forecast import N_FINISHED
from padim.fitting.looks import (
    NO_IMAGE,
    Advance,
    Begin,
    Embedder,
    Fitted,
    Seen,
    Unreadable,
    add_up,
    grouped,
    no_progress,
    second_look,
    told,
)
from padim.fitting.review import OUTLIER_RATE, Suspect, review_look
from padim.fitting.settings import FitSettings
from padim.images.ahead import DECODE_AHEAD, DECODE_THREADS, ImageInput, load_image, mapped_ahead
from padim.images.thumbnails import Look
from padim.method.gaussian import STORES, factor, level_eps
from padim.method.leave_one_out import LeaveOneOut
from padim.method.moments import Moments
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
        settings: Every choice.
        recipe: The recipe with the changes that were chosen.
        embedder: Computes features.
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
        begin: Begin = no_progress,
        unreadable: Unreadable | None = None,
    ) -> Fitted:
        """Fit on good images.

        Args:
            images: Paths, Pillow images or uint8 arrays ``(H0, W0, 3)``; never an iterator.
            begin: Told of each phase; an image is a step of it, once for every tile.
            unreadable: Told of an image that cannot be read; raised when None.

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
        eps = self._eps(readable)
        encoder, count = self.embedder.encoder, len(seen.hashes)
        is_judged = self.settings.calibrate and count > 1
        files = _Files(
            encoder.pyramid,
            count,
            STORES[self.settings.store],
            self.scratch,
            with_distances=is_judged,
        )
        n_steps = count * len(encoder.tiling.tiles)
        advance = begin("fit", n_steps)
        again = begin("second look", n_steps) if is_judged else advance
        for tile, spans in encoder.tiling.spans():
            batches = partial(replace(self.embedder, tile=tile).embed_again, readable, seen.hashes)
            self._fit_tile(tile.pyramid, spans, eps, batches, files, (advance, again))
        state = ModelState(
            encoder=encoder,
            recipe=self.recipe,
            eps=tuple(eps),
            count=count,
            mean=tuple(files.mean),
            whitening=tuple(files.whitening),
            image_sha256=tuple(sorted(seen.hashes)),
            trunk=self.trunk,
        )
        suspects: tuple[Suspect, ...] = ()
        outlier_maps: dict[int, NDArray[np.float32]] = {}
        if is_judged:
            collector = second_look(
                state,
                files.read_distances(),
                torch.device("cpu"),
                begin("maps", count),
                n_maps=self.n_maps,
            )
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
        advance: tuple[Advance, Advance],
    ) -> None:
        """Write the rows and means of one part, and the distances of its images."""
        kept_bytes = 0 if files.distances is None else self.kept_feature_bytes
        moments, kept = add_up(told(batches(), advance[0]), kept_bytes)
        rows = factor(moments, eps, max(moments.count - 1, 1), files.whitening[0].dtype)
        files.write_model(spans, rows, moments)
        del rows
        if files.distances is not None:
            leave_one_out = LeaveOneOut(moments, eps, pyramid)
            del moments
            groups = grouped(told(kept or batches(), advance[1]))
            files.write_distances(spans[-1].start, map(leave_one_out.distances, groups))

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
        for seen in mapped_ahead(look, images, DECODE_THREADS, DECODE_AHEAD):
            advance(1)
            if not isinstance(seen, ImageReadError):
                found.append(seen)
            elif unreadable is None:
                raise seen
            else:
                unreadable(seen)
        if not found:
            raise DatasetError(NO_IMAGE)
        readable, hashes, paths, thumbnails = zip(*found, strict=True)
        return list(readable), Seen(0, hashes, paths, thumbnails)

    def _eps(self, images: list[ImageInput]) -> list[float]:
        """What is added to the diagonal of each level: of the whole images' first few."""
        encoder = self.embedder.encoder
        n_levels = len(encoder.pyramid.levels)
        if self.recipe.eps_rule == "absolute":
            return [self.recipe.eps] * n_levels
        n_images = 0
        pilot: list[Tensor] = []
        sums: list[Tensor] = []
        squares = [0.0] * n_levels
        for image in images[:N_PILOT]:
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
            n_images += 1
        variances = [
            (square - float(total.square().sum(dtype=torch.float64)) / n_images)
            / max(n_images - 1, 1)
            / total.numel()
            for square, total in zip(squares, sums, strict=True)
        ]
        return level_eps(variances, self.recipe.eps)


class _Files:
    """Temporary files, in which what was found of the tiles waits for the rest.

    Args:
        pyramid: All modelled cells.
        count: Images.
        store: What the whitening rows are stored in.
        scratch: Folder of the files; the system's when None.
        with_distances: Whether leave-one-out distances wait as well.

    Attributes:
        whitening: Rows of each level, shape ``(cells, d, D + d)``.
        mean: Of each level, shape ``(cells, d)``.
        distances: Of each image, one after the other; None when there are none.
    """

    def __init__(
        self,
        pyramid: Pyramid,
        count: int,
        store: torch.dtype,
        scratch: Path | None,
        *,
        with_distances: bool,
    ) -> None:
        folder = TemporaryFolder(scratch)
        self.pyramid = pyramid
        self.count = count
        self.whitening: list[FileTensor] = []
        self.mean: list[Tensor] = []
        for i, level in enumerate(pyramid.levels):
            shape = (pyramid.n_cells(i), level.n_dims, pyramid.context_dims(i) + level.n_dims)
            file = folder.path / f"whitening_{i}"
            self.whitening.append(empty_file_tensor(file, shape, store, folder))
            self.mean.append(torch.empty(shape[:2]))
        self.distances: FileTensor | None = None
        if with_distances:
            file, n_values = folder.path / "distances", pyramid.n_cells(-1) * count
            self.distances = empty_file_tensor(file, (n_values,), torch.float32, folder)

    def write_model(self, spans: Sequence[slice], rows: list[Tensor], moments: Moments) -> None:
        """Write the whitening rows and means of a tile, whose cells of each level are named."""
        for i, span in enumerate(spans):
            self.whitening[i].write(span.start, rows[i])
            self.mean[i][span] = moments.mean[i].float()

    def write_distances(self, start: int, distances: Iterable[Tensor]) -> None:
        """Write the distances of all images at the cells of a tile.

        Args:
            start: Its first cell.
            distances: In groups of images, shape ``(cells, N)``.
        """
        assert self.distances is not None
        for group in distances:
            for image in group.t():
                self.distances.write(start, image)
                start += self.pyramid.n_cells(-1)

    def read_distances(self) -> Iterator[Tensor]:
        """The distances of all images in groups, shape ``(N, h, w)``."""
        assert self.distances is not None
        n_fine = self.pyramid.n_cells(-1)
        for first in range(0, self.count, N_FINISHED):
            some = self.distances[first * n_fine : (first + N_FINISHED) * n_fine].view(-1, n_fine)
            yield self.pyramid.on_grid(some.t())
