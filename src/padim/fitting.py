"""Fit: good images in, a model out, in one pass and one closed form."""

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from padim.backbones import DEFAULT_BACKBONE, BackboneSpec, backbone
from padim.calibration import LEAVE_ONE_OUT, Collector, check_rate
from padim.engines import N_BATCH
from padim.errors import (
    DatasetError,
    ImageReadError,
    PathMissingError,
    UnknownNameError,
    UsageError,
)
from padim.forecast import KEPT_FEATURE_BYTES, Forecast, forecast_fit
from padim.gaussian import BLOCK_BYTES, factor, relative_eps
from padim.graphs import GraphFeatures
from padim.leave_one_out import LeaveOneOut, chosen, grouped, moments_of
from padim.loading import (
    DECODE_BYTES_PER_PX,
    DECODE_THREADS,
    ImageInput,
    Loaded,
    batched,
    load_ahead,
)
from padim.moments import Accumulator, Moments
from padim.networks import Network, choose_device, choose_engine
from padim.postprocess import Postprocess
from padim.preprocess import Preprocess
from padim.pyramid import Pyramid, build_pyramid
from padim.recipes import DEFAULT_RECIPE, Recipe, recipe
from padim.review import OUTLIER_RATE, Look, Suspect, review
from padim.samples import N_SAMPLES, Samples
from padim.scorer import Head, Scorer
from padim.state import ModelState, installed_versions
from padim.trunk import with_taps
from padim.weights import fetch, read_weights, sha256

TRUNK_BATCH = {"cpu": N_BATCH, "cuda": 32}
INCLUDE_BACKBONE_BYTES = 50_000_000
_GRAPH_BYTES = 40_000_000  # the library of another engine than torch, loaded
_WRITER_BYTES = 120_000_000  # what writes a graph, loaded

STORES = {"float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class Fitted:
    """What a fit gives.

    Attributes:
        state: The model.
        moments: What it was made from, when kept.
        suspects: Images that do not look as the rest does, by their places in ``paths``.
        dropped: Places of the outliers that it was not made from.
        paths: The images that could be read; None for one given as pixels.
    """

    state: ModelState
    moments: Moments | None
    suspects: tuple[Suspect, ...]
    dropped: tuple[int, ...]
    paths: tuple[Path | None, ...]


@dataclass(frozen=True)
class Seen:
    """What is remembered of an image of the fit.

    Attributes:
        path: Where it came from; None for one given as pixels.
        sha256: Of its content.
        look: To compare it with the others.
    """

    path: Path | None
    sha256: str
    look: Look

    @classmethod
    def of(cls, image: Loaded) -> "Seen":
        """Remember an image."""
        return cls(image.path, image.sha256, Look.of(image.pixels, image.source_px))


@dataclass(frozen=True)
class Fitter:
    """Everything a fit needs but the images: prepared once, used for any number of categories.

    Attributes:
        spec: Facts of the backbone.
        settings: The recipe with its changes.
        preprocess: The way from an image to the network.
        pyramid: The levels.
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
        n_batch: Images in one forward pass.
        kept_feature_bytes: Of features kept for the second look; with more they are recomputed.
    """

    spec: BackboneSpec
    settings: Recipe
    preprocess: Preprocess
    pyramid: Pyramid
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
    n_batch: int
    kept_feature_bytes: int = KEPT_FEATURE_BYTES

    @property
    def _feature_bytes(self) -> int:
        """Of one image."""
        return 4 * self.pyramid.n_features

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
        return forecast_fit(
            self.image_bytes,
            self.pyramid,
            self.preprocess.size_px,
            n_batch=self.n_batch,
            engine_bytes=self.engine_bytes,
            store_bytes=STORES[self.store].itemsize,
            trunk_bytes=_n_bytes(self.trunk_tensors),
            block_bytes=BLOCK_BYTES,
            keep_moments=self.keep_moments,
            n_samples=N_SAMPLES if self.keep_samples else 0,
            kept_bytes=kept_bytes if self.calibrate else None,
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
        if isinstance(self.features, GraphFeatures):
            self.features.open()  # before threads decode, whose warning filters its writer touches
        accumulator = Accumulator()
        seen: list[Seen] = []
        samples: list[Loaded] = []
        kept: list[list[Tensor]] = []  # features, while they are few
        for batch, embeddings in self.embedded(images, unreadable):
            accumulator.add(embeddings)
            if self.calibrate and len(seen) * self._feature_bytes <= self.kept_feature_bytes:
                kept.append(embeddings)
            seen += [Seen.of(image) for image in batch]
            if self.keep_samples:
                # Any choice would do that depends on nothing but the images.
                samples = heapq.nsmallest(N_SAMPLES, samples + batch, key=lambda i: i.sha256)
            advance(len(batch))
        if not seen:
            raise DatasetError("There is no image to fit on. Name a folder of good images.")
        if len(seen) * self._feature_bytes > self.kept_feature_bytes:
            kept.clear()

        def looks() -> Iterator[list[Tensor]]:
            return iter(kept) if kept else self._again(images, unreadable is not None, seen)

        moments: Moments | None = accumulator.moments()
        assert moments is not None
        state = self.solved(moments, [one.sha256 for one in seen])
        suspects: list[Suspect] = []
        dropped: set[int] = set()
        if self.calibrate and moments.count > 1:
            leave_one_out = LeaveOneOut(moments, state.eps, self.pyramid)
            spared = moments if self.keep_moments or self.drop_outliers else None
            del moments
            collector = self.scored_without_each(leave_one_out, state, looks())
            rate = self.drop_outliers or OUTLIER_RATE
            suspects = review(collector.image_scores(), [one.look for one in seen], rate)
            if self.drop_outliers:
                dropped = {suspect.index for suspect in suspects if suspect.reason == "outlier"}
            if dropped:
                assert spared is not None
                left = set(range(len(seen))) - dropped
                spared = spared.without(moments_of(chosen(looks(), dropped)))
                state = self.solved(spared, [seen[i].sha256 for i in sorted(left)])
                leave_one_out = LeaveOneOut(spared, state.eps, self.pyramid)
                collector = self.scored_without_each(leave_one_out, state, chosen(looks(), left))
                unwanted = {seen[i].sha256 for i in dropped}
                samples = [image for image in samples if image.sha256 not in unwanted]
            state = replace(state, calibration=collector.calibration(LEAVE_ONE_OUT))
            del leave_one_out
            moments = spared if self.keep_moments else None
        elif not self.keep_moments:
            moments = None
        kept.clear()
        if samples:
            state = replace(state, samples=self._scored(state, samples))
        return Fitted(
            state, moments, tuple(suspects), tuple(sorted(dropped)), tuple(o.path for o in seen)
        )

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
        self, images: Iterable[ImageInput], skip: bool, seen: list[Seen]
    ) -> Iterator[list[Tensor]]:
        hashes: list[str] = []
        for batch, embeddings in self.embedded(images, (lambda error: None) if skip else None):
            hashes += [image.sha256 for image in batch]
            yield embeddings
        if hashes != [one.sha256 for one in seen]:
            raise DatasetError(
                "The good images have changed while the fit looked at them. Fit again."
            )

    def scored_without_each(
        self, leave_one_out: LeaveOneOut, state: ModelState, looks: Iterable[list[Tensor]]
    ) -> Collector:
        """Score images of a model under the model without each.

        Args:
            leave_one_out: Of that model.
            state: The model.
            looks: The images' features, in batches.
        """
        postprocess = postprocess_of(state).to(self.device)
        collector = Collector()
        for embeddings in grouped(looks):
            anomaly_map, image_score = postprocess(leave_one_out(embeddings).float())
            collector.add(anomaly_map.cpu().numpy(), image_score.cpu().numpy())
        return collector

    def would_give(self, state: ModelState) -> bool:
        """Whether a fit on the same images would give this model."""
        return (
            state.spec == self.spec
            and state.recipe == self.settings
            and state.preprocess == self.preprocess
            and state.pyramid == self.pyramid
            and state.engine == self.engine
            and state.precision == self.precision
            and (state.samples is not None) == self.keep_samples
            and (state.calibration is not None) == (self.calibrate and state.count > 1)
            and state.whitening[0].dtype == STORES[self.store]
            and state.weights_sha256 == self.weights_sha256
            and bool(state.trunk) == bool(self.trunk_tensors)
            and state.versions == installed_versions()
        )

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
        return ModelState(
            spec=self.spec,
            recipe=self.settings,
            preprocess=self.preprocess,
            pyramid=self.pyramid,
            eps=tuple(eps),
            count=moments.count,
            mean=tuple(mean.float().cpu() for mean in moments.mean),
            whitening=tuple(rows.cpu() for rows in whitening),
            engine=self.engine,
            precision=self.precision,
            weights_sha256=self.weights_sha256,
            image_sha256=tuple(sorted(hashes)),
            trunk=self.trunk_tensors,
            versions=installed_versions(),
        )

    def _scored(self, state: ModelState, images: list[Loaded]) -> Samples:
        # Mirrored, they are new to the model: the distances of images that it knows are small
        # differences, in which the last digits of an engine weigh more than they will on the line.
        pixels = np.stack([image.pixels[:, ::-1] for image in images])
        scorer = scorer_of(state, self.features).to(self.device).eval()
        with torch.inference_mode():
            scores = scorer(torch.from_numpy(pixels).to(self.device))
        return Samples.of(pixels, *(output.cpu().numpy() for output in scores))


def scorer_of(
    state: ModelState, features: nn.Module, store: torch.dtype | None = None, grouped: bool = False
) -> Scorer:
    """The graph of a model.

    Args:
        state: The model.
        features: From uint8 images to its features.
        store: Type the whitening rows are kept in; float32 when None.
        grouped: As for ``Head``.
    """
    return Scorer(
        features,
        Head(state.pyramid, state.mean, state.whitening, store=store, grouped=grouped),
        postprocess_of(state),
    )


def postprocess_of(state: ModelState) -> Postprocess:
    """The way from a model's distances to its maps and scores."""
    return Postprocess(
        state.pyramid.levels[-1].grid,
        state.preprocess.size_px,
        state.recipe.sigma_px,
        state.recipe.score_fraction,
    )


def prepare(
    backbone_name: str = DEFAULT_BACKBONE,
    recipe_name: str = DEFAULT_RECIPE,
    *,
    size_px: tuple[int, int] | None = None,
    taps: tuple[int, ...] | None = None,
    dims: int | str | None = None,
    eps: float | None = None,
    eps_rule: str | None = None,
    sigma_px: float | None = None,
    score_fraction: float | None = None,
    weights: str | Path | None = None,
    device: str = "auto",
    precision: str = "float32",
    store: str = "float16",
    include_backbone: bool | None = None,
    keep_moments: bool = False,
    keep_samples: bool = True,
    calibrate: bool = True,
    drop_outliers: float = 0.0,
    n_batch: int | None = None,
    engine: str = "auto",
    n_threads: int | None = None,
) -> Fitter:
    """Find and load everything a fit needs, and refuse what cannot be, before any work.

    Args:
        backbone_name: Short name of the backbone.
        recipe_name: Name of the recipe.
        size_px: (height, width) of what the network sees.
        taps: Numbers of the tapped blocks, instead of the backbone's own.
        dims: ``all``, or how many dimensions to draw at random.
        eps: Added to the diagonal of the covariances.
        eps_rule: ``absolute`` or ``relative``.
        sigma_px: Blur of the map.
        score_fraction: Fraction of the hottest pixels that the image score averages.
        weights: Local weights file instead of the published one.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: What the trunk computes in, ``float32`` or ``bfloat16``.
        store: What the whitening rows are stored in, ``float16`` or ``float32``.
        include_backbone: Whether the trunk travels with the model; under 50 MB when None.
        keep_moments: Whether the moments are to be written as well.
        keep_samples: Whether a few images travel with the model, to compare engines on.
        calibrate: Whether the images are looked at again, for the leave-one-out calibration.
        drop_outliers: Largest p-value, by the bulk of the scores, of an image that is left out;
            0 to leave none out.
        n_batch: Images in one forward pass; what suits the device when None.
        engine: Who runs the trunk, as for ``choose_engine``.
        n_threads: Threads of the whole process; one for each core when None.

    Raises:
        UsageError: A name or a value is impossible.
        PathMissingError: There is no such weights file.
        WeightsError: The weights are absent and cannot be fetched, or are the wrong ones.
        MissingExtraError: The engine is not installed.
    """
    settings = recipe(
        recipe_name,
        size_px=size_px,
        eps=eps,
        eps_rule=eps_rule,
        sigma_px=sigma_px,
        score_fraction=score_fraction,
    )
    spec = backbone(backbone_name)
    if taps is not None:
        spec = with_taps(spec, taps)
    if dims is None:
        n_random_dims = spec.n_random_dims and min(spec.n_random_dims, spec.n_dims)
    elif dims == "all":
        n_random_dims = None
    else:
        n_random_dims = _whole_number(dims)
    pyramid = build_pyramid(spec, settings.size_px, n_random_dims)
    chosen_device = choose_device(device)
    if store not in STORES:
        raise UnknownNameError("store", store, tuple(STORES))
    if drop_outliers:
        check_rate(drop_outliers, "rate of outliers")
        if not calibrate:
            raise UsageError("Outliers are known by calibrating only. Leave --no-calibrate out.")
    engine = choose_engine(engine, chosen_device, precision)
    preprocess = Preprocess(
        settings.size_px, settings.crop_fraction, settings.resample, spec.mean, spec.std
    )
    path = fetch(spec) if weights is None else Path(weights)
    if not path.is_file():
        raise PathMissingError(path)
    network = Network(
        spec, pyramid, preprocess, lambda: read_weights(path), path, weights_sha256=sha256(path)
    )
    known = network.cached.tensors() if engine != "torch" else None
    tensors, image_bytes = known or network.trunk()
    n_batch = choose_batch(n_batch, chosen_device)
    engine_bytes = 0
    if engine != "torch":
        # Its memory grows by doubling, so it may hold the feature maps twice.
        engine_bytes = _GRAPH_BYTES + n_batch * image_bytes
    if engine != "torch" and known is None:
        engine_bytes += _WRITER_BYTES + 4 * _n_bytes(tensors)
    if include_backbone is None:
        include_backbone = _n_bytes(tensors) < INCLUDE_BACKBONE_BYTES
    return Fitter(
        spec=spec,
        settings=settings,
        preprocess=preprocess,
        pyramid=pyramid,
        features=network.features(engine, precision, n_threads).to(chosen_device),
        image_bytes=image_bytes,
        engine_bytes=engine_bytes,
        weights_sha256=network.weights_sha256,
        engine=engine if engine == "torch" else f"{engine} {version(engine)}",
        precision=precision,
        store=store,
        trunk_tensors=tensors if include_backbone else {},
        device=chosen_device,
        keep_moments=keep_moments,
        keep_samples=keep_samples,
        calibrate=calibrate,
        drop_outliers=drop_outliers,
        n_batch=n_batch,
    )


def _n_bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def choose_batch(n_batch: int | None, device: torch.device) -> int:
    """Images in one forward pass; what suits the device when None.

    Raises:
        UsageError: Fewer than one.
    """
    if n_batch is None:
        return TRUNK_BATCH[device.type]
    if n_batch < 1:
        raise UsageError(f"The batch size is {n_batch}, but needs to be 1 or more. Try 1.")
    return n_batch


def _whole_number(text: int | str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"dims is {text!r}, but needs to be all or a whole number.") from None
