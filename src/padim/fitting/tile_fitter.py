"""Large images, tile by tile: fitted and scored with the whitening rows of one tile in memory."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from padim.errors import DatasetError, ImageReadError, UsageError
from padim.features.cached_trunk import open_graphs
from padim.features.features import TiledFeatures
from padim.files import TemporaryFolder
from padim.fitting.fitter import Fitted, Fitter, reviewed
from padim.fitting.forecast import Forecast
from padim.fitting.looks import KeptFeatures, grouped
from padim.fitting.review import OUTLIER_RATE, Suspect
from padim.images.ahead import (
    DECODE_AHEAD,
    DECODE_THREADS,
    Bring,
    ImageInput,
    batched,
    load_ahead,
    load_image,
    mapped_ahead,
)
from padim.images.thumbnails import Look
from padim.method.gaussian import STORES, factor, level_eps
from padim.method.leave_one_out import LeaveOneOut
from padim.method.moments import Accumulator
from padim.method.tiles import Tile
from padim.model.file_tensor import FileTensor, empty_file_tensor
from padim.model.scorer import postprocess_of
from padim.model.state import ModelState
from padim.scoring.calibration import LEAVE_ONE_OUT, Collector

N_PILOT = 16  # images whose variance scales a relative eps, before any tile is fitted
_N_FINISHED = 4  # leave-one-out maps of whole images at a time


@dataclass(frozen=True)
class TileFitter(Fitter):
    """A fit of images that the network sees in several parts, one part of all images at a time.

    Each image is decoded again for each part. Whitening rows and leave-one-out distances wait in
    temporary files.

    Attributes:
        scratch: Folder of the temporary files; the system's when None.
    """

    scratch: Path | None = None

    def forecast(
        self, largest_px: tuple[int, int] = (0, 0), n_images: int | None = None
    ) -> Forecast:
        """Memory and file size of a fit."""
        forecast = super().forecast(largest_px, n_images)
        height, width = self.settings.size_px
        # The pilot's features, their sums and what is in between; or images on their way; or a few
        # maps, and the patterns of their pixels.
        whole = max(20 * self.pyramid.n_features, 26 * _N_FINISHED * height * width)
        means = 4 * self.pyramid.n_features
        return replace(forecast, peak_bytes=forecast.peak_bytes + whole + means)

    def fit(
        self,
        images: Iterable[ImageInput],
        advance: Callable[[int], None] = lambda n_images: None,
        unreadable: Callable[[ImageReadError], None] | None = None,
    ) -> Fitted:
        """Fit on good images.

        Args:
            images: As for ``Fitter.fit``; never an iterator.
            advance: Told how many more images have been seen; each is, once for every tile.
            unreadable: As for ``Fitter.fit``.
        """
        if isinstance(images, Iterator):
            raise UsageError(
                "The images come from an iterator, but each tile takes a look of its own. Give a "
                "list of them."
            )
        open_graphs(self.features)
        readable, hashes, paths, looked = self._survey(images, unreadable)
        eps = self._eps(readable)
        folder = TemporaryFolder(self.scratch)
        pyramid, count = self.pyramid, len(hashes)
        whitening, mean = [], []
        for i, level in enumerate(pyramid.levels):
            shape = (pyramid.n_cells(i), level.n_dims, pyramid.context_dims(i) + level.n_dims)
            file = folder.path / f"whitening_{i}"
            whitening.append(empty_file_tensor(file, shape, STORES[self.store], folder))
            mean.append(torch.empty(shape[:2]))
        distances: FileTensor | None = None
        if self.calibrate and count > 1:
            file = folder.path / "distances"
            n_values = pyramid.n_cells(-1) * count
            distances = empty_file_tensor(file, (n_values,), torch.float32, folder)
        for tile, spans in self.tiling.spans():

            def looked_at(tile: Tile = tile) -> Iterator[list[Tensor]]:
                return self._of_tile(tile, readable, hashes)

            self._fit_tile(tile, spans, eps, looked_at, advance, whitening, mean, distances)
        state = self.made(eps, count, mean, whitening, hashes)
        suspects: list[Suspect] = []
        outlier_maps: dict[int, NDArray[np.float32]] = {}
        if distances is not None:
            collector = self._finished(state, distances)
            suspects, outlier_maps = reviewed(collector, looked, OUTLIER_RATE)
            state = replace(state, calibration=collector.calibration(LEAVE_ONE_OUT))
        return Fitted(state, None, tuple(suspects), (), outlier_maps, tuple(paths))

    def _fit_tile(
        self,
        tile: Tile,
        spans: list[slice],
        eps: list[float],
        look: Callable[[], Iterator[list[Tensor]]],
        advance: Callable[[int], None],
        whitening: list[FileTensor],
        mean: list[Tensor],
        distances: FileTensor | None,
    ) -> None:
        """Write the rows and means of one part, and the distances of its images."""
        kept = KeptFeatures(0 if distances is None else self.kept_feature_bytes)
        accumulator = Accumulator()
        for embeddings in look():
            accumulator.add(embeddings)
            kept.add(embeddings)
            advance(embeddings[0].shape[1])
        moments = accumulator.moments()
        del accumulator
        rows = factor(moments, eps, max(moments.count - 1, 1), STORES[self.store])
        for i, span in enumerate(spans):
            whitening[i].write(span.start, rows[i])
            mean[i][span] = moments.mean[i].float()
        del rows
        if distances is None:
            return
        leave_one_out = LeaveOneOut(moments, eps, tile.pyramid)
        del moments
        place = spans[-1].start
        for embeddings in grouped(kept.again() or look()):
            for image in leave_one_out.distances(embeddings).t():
                distances.write(place, image)
                place += self.pyramid.n_cells(-1)

    def _survey(
        self,
        images: Iterable[ImageInput],
        unreadable: Callable[[ImageReadError], None] | None,
    ) -> tuple[list[ImageInput], list[str], list[Path | None], list[Look]]:
        """What can be read, with hash, path and look."""

        def look(image: ImageInput) -> tuple[ImageInput, str, Path | None, Look] | ImageReadError:
            try:
                loaded = load_image(image, self.preprocess, hashed=True)
            except ImageReadError as error:
                return error
            return image, loaded.sha256, loaded.path, Look.of(loaded.pixels, loaded.source_px)

        found = []
        for seen in mapped_ahead(look, images, DECODE_THREADS, DECODE_AHEAD):
            if not isinstance(seen, ImageReadError):
                found.append(seen)
            elif unreadable is None:
                raise seen
            else:
                unreadable(seen)
        if not found:
            raise DatasetError("There is no image to fit on. Name a folder of good images.")
        readable, hashes, paths, looked = zip(*found, strict=True)
        return list(readable), list(hashes), list(paths), list(looked)

    def _eps(self, images: list[ImageInput]) -> list[float]:
        n_levels = len(self.pyramid.levels)
        if self.settings.eps_rule == "absolute":
            return [self.settings.eps] * n_levels
        n_images = 0
        pilot: list[Tensor] = []
        sums: list[Tensor] = []
        squares = [0.0] * n_levels
        for image in images[:N_PILOT]:
            loaded = load_image(image, self.preprocess)
            pixels = torch.from_numpy(loaded.pixels[None]).to(self.device)
            with torch.inference_mode():
                embeddings = self.features(pixels)
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
        return level_eps(variances, self.settings.eps)

    def _of_tile(
        self, tile: Tile, images: list[ImageInput], hashes: list[str]
    ) -> Iterator[list[Tensor]]:
        """Features of one part of all images."""
        assert isinstance(self.features, TiledFeatures)
        seen: list[str] = []
        for batch in batched(load_ahead(images, self._bring(tile), hashed=True), self.n_batch):
            pixels = torch.from_numpy(np.stack([image.pixels for image in batch]))
            with torch.inference_mode():
                embeddings = self.features.of_tile(pixels.to(self.device), tile)
            seen += [image.sha256 for image in batch]
            yield embeddings
        if seen != hashes:
            raise DatasetError(
                "The good images have changed while the fit looked at them. Fit again."
            )

    def _bring(self, tile: Tile) -> Bring:
        height, width = self.tiling.window_px
        rows, columns = slice(tile.top, tile.top + height), slice(tile.left, tile.left + width)

        def bring(image: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
            return self.preprocess(image)[rows, columns].copy()

        return bring

    def _finished(self, state: ModelState, distances: FileTensor) -> Collector:
        """Maps and scores of the images of the fit, each under the model without it."""
        postprocess = postprocess_of(state)
        n_fine = self.pyramid.n_cells(-1)
        collector = Collector(self._n_maps)
        for first in range(0, state.count, _N_FINISHED):
            some = distances[first * n_fine : (first + _N_FINISHED) * n_fine].view(-1, n_fine)
            anomaly_map, score = postprocess(self.pyramid.on_grid(some.t()))
            collector.add(self.preprocess.counted(anomaly_map.numpy()), score.numpy())
        return collector
