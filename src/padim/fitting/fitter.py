"""Fit: good images in, a model out, in one pass and one closed form."""

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from padim.backbones import BackboneSpec
from padim.errors import (
    DatasetError,
    ImageReadError,
    UsageError,
)
from padim.features.cached_trunk import open_graphs
from padim.fitting.forecast import KEPT_FEATURE_BYTES, Forecast, forecast_fit
from padim.fitting.looks import GROUP, KeptFeatures, chosen, grouped, moments_of
from padim.fitting.review import OUTLIER_RATE, Suspect, review
from padim.images.ahead import (
    DECODE_BYTES_PER_PX,
    DECODE_THREADS,
    ImageInput,
    Loaded,
    batched,
    load_ahead,
)
from padim.images.preprocess import Preprocess
from padim.images.thumbnails import Look
from padim.method.gaussian import BLOCK_BYTES, STORES, factor, relative_eps
from padim.method.leave_one_out import LeaveOneOut
from padim.method.moments import Accumulator, Moments
from padim.method.pyramid import Pyramid
from padim.method.tiles import Tiling
from padim.model.file_tensor import FileTensor, n_bytes
from padim.model.scorer import postprocess_of, scorer_of
from padim.model.state import ModelState
from padim.recipes import Recipe
from padim.scoring.calibration import LEAVE_ONE_OUT, Collector
from padim.scoring.parity import N_SAMPLES, Samples
from padim.versions import installed_versions

N_OUTLIER_MAPS = 100  # kept at most, whatever the number of images


@dataclass(frozen=True)
class Fitted:
    """What a fit gives.

    Attributes:
        state: The model.
        moments: What it was made from, when kept.
        suspects: Images that do not look as the rest does, by their places in ``paths``.
        dropped: Places of the outliers that it was not made from.
        outlier_maps: Anomaly maps of the outliers by their places, each under the model fitted
            without that image; those of the highest scores, when kept.
        paths: The images that could be read; None for one given as pixels.
    """

    state: ModelState
    moments: Moments | None
    suspects: tuple[Suspect, ...]
    dropped: tuple[int, ...]
    outlier_maps: Mapping[int, NDArray[np.float32]]
    paths: tuple[Path | None, ...]


@dataclass(frozen=True)
class Fitter:
    """Everything a fit needs but the images: prepared once, used for any number of categories.

    Attributes:
        spec: Facts of the backbone.
        settings: The recipe with its changes.
        preprocess: The way from an image to the network.
        tiling: What the network sees of an image at a time, and which cells are modelled.
        features: From uint8 images to the features of each level.
        image_bytes: What ``forecast.activation_bytes`` says of one image.
        engine_bytes: What the engine takes beside the feature maps.
        weights_sha256: Of the file the weights came from.
        engine: Who runs the trunk, with its version where it is not torch.
        precision: What the trunk computes in.
        store: What the whitening rows are stored in.
        trunk_tensors: The trunk's tensors, when they travel with the model.
        device: Where it computes.
        keep_moments: Whether the moments are to be written as well.
        keep_samples: Whether a few images travel with the model, to compare engines on.
        calibrate: Whether the images are looked at again, for the leave-one-out calibration.
        drop_outliers: Largest p-value, by the bulk of the scores, of an image that is left out;
            0 to leave none out.
        keep_outlier_maps: Whether the maps of outliers are kept, to be drawn.
        n_batch: Images in one forward pass.
        kept_feature_bytes: Of features kept for the second look; with more they are recomputed.
    """

    spec: BackboneSpec
    settings: Recipe
    preprocess: Preprocess
    tiling: Tiling
    features: nn.Module
    image_bytes: int
    engine_bytes: int
    weights_sha256: str
    engine: str
    precision: str
    store: str
    trunk_tensors: Mapping[str, Tensor]
    device: torch.device
    keep_moments: bool
    keep_samples: bool
    calibrate: bool
    drop_outliers: float
    keep_outlier_maps: bool
    n_batch: int
    kept_feature_bytes: int = KEPT_FEATURE_BYTES

    @property
    def pyramid(self) -> Pyramid:
        """The modelled cells."""
        return self.tiling.pyramid

    @property
    def _feature_bytes(self) -> int:
        """Of one image, or of the part of it that is seen at a time."""
        return 4 * self.tiling.largest.n_features

    @property
    def _n_maps(self) -> int:
        return N_OUTLIER_MAPS if self.keep_outlier_maps else 0

    def within(self, max_bytes: int, n_images: int, largest_px: tuple[int, int]) -> "Fitter":
        """The same fit, keeping no more features for the second look than memory allows.

        Args:
            max_bytes: Peak memory that the process may have.
            n_images: How many there are.
            largest_px: (height, width) of the largest image.
        """
        excess = self.forecast(largest_px, n_images).peak_bytes - max_bytes
        if not self.calibrate or excess <= 0:
            return self
        kept = min(self.kept_feature_bytes, n_images * self._feature_bytes)
        return replace(self, kept_feature_bytes=max(0, kept - excess))

    def forecast(
        self, largest_px: tuple[int, int] = (0, 0), n_images: int | None = None
    ) -> Forecast:
        """Memory and file size of a fit.

        Args:
            largest_px: (height, width) of the largest image.
            n_images: How many there are; any number when None.
        """
        kept_bytes = self.kept_feature_bytes
        if n_images is not None:
            kept_bytes = min(kept_bytes, n_images * self._feature_bytes)
        height, width = self.preprocess.size_px
        return forecast_fit(
            self.image_bytes,
            self.tiling.largest,
            self.preprocess.size_px,
            n_batch=self.n_batch,
            engine_bytes=self.engine_bytes,
            store_bytes=STORES[self.store].itemsize,
            trunk_bytes=n_bytes(self.trunk_tensors),
            block_bytes=BLOCK_BYTES,
            whole=self.pyramid,
            keep_moments=self.keep_moments,
            n_samples=N_SAMPLES if self.keep_samples else 0,
            kept_bytes=kept_bytes + self._n_maps * 4 * height * width if self.calibrate else None,
            n_looked=GROUP if n_images is None else min(GROUP, n_images),
            decode_bytes=DECODE_THREADS * DECODE_BYTES_PER_PX * largest_px[0] * largest_px[1],
        )

    def fit(
        self,
        images: Iterable[ImageInput],
        advance: Callable[[int], None] = lambda n_images: None,
        unreadable: Callable[[ImageReadError], None] | None = None,
    ) -> Fitted:
        """Fit on good images.

        Args:
            images: Paths, Pillow images or uint8 arrays ``(H0, W0, 3)``.
            advance: Told how many more images have been seen.
            unreadable: Told of an image that cannot be read, which is then left out; raised when
                None.

        Raises:
            DatasetError: There is no image, or one has changed between two looks at it.
            ImageReadError: An image cannot be read and nobody is told.
            UsageError: The images can be looked at once only, but are to calibrate.
        """
        if self.calibrate and isinstance(images, Iterator):
            raise UsageError(
                "The images come from an iterator, but calibrating takes a second look. Give a "
                "list of them, or set calibrate to False."
            )
        open_graphs(self.features)  # before threads decode: its writer touches warning filters
        accumulator = Accumulator()
        paths: list[Path | None] = []
        hashes: list[str] = []
        looked: list[Look] = []
        samples: list[Loaded] = []
        kept = KeptFeatures(self.kept_feature_bytes if self.calibrate else 0)
        for batch, embeddings in self.embedded(images, unreadable):
            accumulator.add(embeddings)
            kept.add(embeddings)
            if self.calibrate:
                looked += [Look.of(image.pixels, image.source_px) for image in batch]
            paths += [image.path for image in batch]
            hashes += [image.sha256 for image in batch]
            if self.keep_samples:
                # Any choice would do that depends on nothing but the images.
                samples = heapq.nsmallest(N_SAMPLES, samples + batch, key=lambda i: i.sha256)
            advance(len(batch))
        if not hashes:
            raise DatasetError("There is no image to fit on. Name a folder of good images.")

        def looks() -> Iterable[list[Tensor]]:
            return kept.again() or self._again(images, unreadable is not None, hashes)

        moments: Moments | None = accumulator.moments()
        assert moments is not None
        state = self.solved(moments, hashes)
        suspects: list[Suspect] = []
        dropped: set[int] = set()
        outlier_maps: dict[int, NDArray[np.float32]] = {}
        if self.calibrate and moments.count > 1:
            leave_one_out = LeaveOneOut(moments, state.eps, self.pyramid)
            if not (self.keep_moments or self.drop_outliers):
                moments = None  # as large as what is worked with now
            collector = self.scored_without_each(leave_one_out, state, looks(), self._n_maps)
            del leave_one_out
            suspects, outlier_maps = reviewed(collector, looked, self.drop_outliers or OUTLIER_RATE)
            if self.drop_outliers:
                dropped = {suspect.index for suspect in suspects if suspect.reason == "outlier"}
            if len(dropped) > len(hashes) - 2:
                raise DatasetError(
                    f"{len(dropped)} of {len(hashes)} images would be dropped as outliers. Take a "
                    "smaller --drop-outliers."
                )
            if dropped:
                assert moments is not None
                left = set(range(len(hashes))) - dropped
                moments = moments.without(moments_of(chosen(looks(), dropped)))
                state = self.solved(moments, [hashes[i] for i in left])
                leave_one_out = LeaveOneOut(moments, state.eps, self.pyramid)
                collector = self.scored_without_each(leave_one_out, state, chosen(looks(), left))
                unwanted = {hashes[i] for i in dropped}
                samples = [image for image in samples if image.sha256 not in unwanted]
            state = replace(state, calibration=collector.calibration(LEAVE_ONE_OUT))
        kept.clear()
        if samples:
            # Mirrored, they are new to the model: the distances of images that it knows are small
            # differences, in which the last digits of an engine weigh more than on the line.
            mirrored = np.stack([image.pixels[:, ::-1] for image in samples])
            state = replace(state, samples=self.sampled(state, mirrored))
        left_moments = moments if self.keep_moments else None
        places = tuple(sorted(dropped))
        return Fitted(state, left_moments, tuple(suspects), places, outlier_maps, tuple(paths))

    def embedded(
        self,
        images: Iterable[ImageInput],
        unreadable: Callable[[ImageReadError], None] | None = None,
    ) -> Iterator[tuple[list[Loaded], list[Tensor]]]:
        """Compute the features of images.

        Args:
            images: As for ``fit``.
            unreadable: As for ``fit``.

        Yields:
            Batches of images, and their features: one per level, shape ``(cells, N, d)``.
        """
        loaded = load_ahead(images, self.preprocess, unreadable, hashed=True)
        for batch in batched(loaded, self.n_batch):
            pixels = torch.from_numpy(np.stack([image.pixels for image in batch]))
            with torch.inference_mode():
                embeddings: list[Tensor] = self.features(pixels.to(self.device))
            yield batch, embeddings

    def _again(
        self, images: Iterable[ImageInput], skip: bool, hashes: list[str]
    ) -> Iterator[list[Tensor]]:
        seen: list[str] = []
        for batch, embeddings in self.embedded(images, (lambda error: None) if skip else None):
            seen += [image.sha256 for image in batch]
            yield embeddings
        if seen != hashes:
            raise DatasetError(
                "The good images have changed while the fit looked at them. Fit again."
            )

    def scored_without_each(
        self,
        leave_one_out: LeaveOneOut,
        state: ModelState,
        looks: Iterable[list[Tensor]],
        n_maps: int = 0,
    ) -> Collector:
        """Score images of a model under the model without each.

        Args:
            leave_one_out: Of that model.
            state: The model.
            looks: The images' features, in batches.
            n_maps: As for ``Collector``.
        """
        postprocess = postprocess_of(state).to(self.device)
        collector = Collector(n_maps)
        for embeddings in grouped(looks):
            anomaly_map, image_score = postprocess(leave_one_out(embeddings).float())
            counted = self.preprocess.counted(anomaly_map.cpu().numpy())
            collector.add(counted, image_score.cpu().numpy())
        return collector

    def solved(self, moments: Moments, hashes: Sequence[str]) -> ModelState:
        """Make a model of moments, without calibration or samples.

        Args:
            moments: Of the good images.
            hashes: The sha256 of each of them.
        """
        if self.settings.eps_rule == "relative":
            eps = relative_eps(moments, self.settings.eps)
        else:
            eps = [self.settings.eps] * len(self.pyramid.levels)
        whitening = factor(moments, eps, max(moments.count - 1, 1), STORES[self.store])
        mean = [mean.float().cpu() for mean in moments.mean]
        return self.made(eps, moments.count, mean, [rows.cpu() for rows in whitening], hashes)

    def made(
        self,
        eps: Sequence[float],
        count: int,
        mean: Sequence[Tensor],
        whitening: Sequence[Tensor | FileTensor],
        hashes: Sequence[str],
    ) -> ModelState:
        """Put a model together, without calibration or samples.

        Args:
            eps: What was added to the diagonal, one per level.
            count: Images n.
            mean: Per level, shape ``(cells, d)``, float32.
            whitening: Per level, shape ``(cells, d, D + d)``.
            hashes: The sha256 of each image.
        """
        return ModelState(
            spec=self.spec,
            recipe=self.settings,
            preprocess=self.preprocess,
            pyramid=self.pyramid,
            eps=tuple(eps),
            count=count,
            mean=tuple(mean),
            whitening=tuple(whitening),
            engine=self.engine,
            precision=self.precision,
            weights_sha256=self.weights_sha256,
            image_sha256=tuple(sorted(hashes)),
            trunk=self.trunk_tensors,
            versions=installed_versions(),
        )

    def sampled(self, state: ModelState, pixels: NDArray[np.uint8]) -> Samples:
        """What a model says of images that travel with it.

        Args:
            state: The model.
            pixels: RGB at network size, shape ``(n, H, W, 3)``.
        """
        scorer = scorer_of(state, self.features).to(self.device).eval()
        with torch.inference_mode():
            scores = scorer(torch.from_numpy(pixels).to(self.device))
        return Samples.of(pixels, *(output.cpu().numpy() for output in scores))


def reviewed(
    collector: Collector, looked: Sequence[Look], rate: float
) -> tuple[list[Suspect], dict[int, NDArray[np.float32]]]:
    """The images that do not look as the rest does, and the maps of outliers that were kept."""
    suspects = review(collector.image_scores(), looked, rate)
    outliers = {suspect.index for suspect in suspects if suspect.reason == "outlier"}
    return suspects, {i: found for i, found in collector.maps().items() if i in outliers}
