"""Fit: good images in, a model out: a first look, a closed form, a second look."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from operator import length_hint
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from padim.errors import DatasetError, UsageError
from padim.features.device import computing
from padim.features.encoder import Encoder
from padim.features.network import open_graphs
from padim.fitting import looks
from padim.fitting.forecast import Forecast, NetworkBytes, forecast_fit
from padim.fitting.kept_features import KEPT_FEATURE_BYTES, Keeper, read_kept
from padim.fitting.looks import Advance, Begin, Embedder, Fitted, Unreadable
from padim.fitting.review import OUTLIER_RATE, Suspect, review_look
from padim.fitting.seen import Seen
from padim.fitting.settings import FitSettings
from padim.fitting.tile_fitter import fit_tiles
from padim.images.ahead import ImageInput
from padim.method.gaussian import STORES, factor, relative_eps
from padim.method.leave_one_out import LeaveOneOut
from padim.method.moments import Moments
from padim.model.scorer import scorer_of
from padim.model.state import ModelState
from padim.monitor.order import look_at_order
from padim.recipes import Recipe
from padim.scoring.calibration import LEAVE_ONE_OUT
from padim.scoring.collector import Collector
from padim.scoring.parity import Samples


@dataclass(frozen=True)
class Fitter:
    """Everything a fit needs but the images: prepared once, used for any number of categories."""

    settings: FitSettings
    recipe: Recipe  # with the changes that were chosen
    embedder: Embedder
    trunk: Mapping[str, Tensor]  # its tensors, when they travel with the model
    network_bytes: NetworkBytes  # what the network takes while it runs
    n_maps: int = 0  # of outliers, kept to be drawn
    kept_feature_bytes: int = KEPT_FEATURE_BYTES  # for the second look; more are recomputed
    scratch: Path | None = None  # folder of temporary files; the system's when None

    @property
    def encoder(self) -> Encoder:
        """What decides the features."""
        return self.embedder.encoder

    @property
    def features(self) -> nn.Module:
        """From uint8 images to the features of each level."""
        return self.embedder.features

    def forecast(
        self, largest_px: tuple[int, int] = (0, 0), n_images: int | None = None
    ) -> Forecast:
        """Memory and file size of a fit; of any number of images when None."""
        return forecast_fit(self, largest_px, n_images)

    def fit(
        self,
        images: Iterable[ImageInput],
        begin: Begin = looks.no_progress,
        unreadable: Unreadable | None = None,
    ) -> Fitted:
        """Fit on good images.

        Args:
            images: Paths, Pillow images or uint8 arrays ``(H0, W0, 3)``.
            begin: Told of each phase and its number of steps: images, their tiles, or cells of the
                coarsest grid; gives what is told of each step.
            unreadable: Told of an image that cannot be read; raised when None.

        Raises:
            DatasetError: There is no image, or one has changed between two looks at it.
            ImageReadError: An image cannot be read and nobody is told.
            UsageError: The images can be looked at once only, but are to calibrate.
        """
        settings, device = self.settings, self.embedder.device
        if len(self.encoder.tiling.tiles) > 1:
            return fit_tiles(self, images, begin, unreadable)
        if settings.calibrate and isinstance(images, Iterator):
            raise UsageError(
                "The images come from an iterator, but calibrating takes a second look. Give a "
                "list of them, or set calibrate to False."
            )
        open_graphs(self.features)  # before threads decode: its writer touches warning filters
        seen, moments, kept = looks.look(
            self.embedder,
            images,
            begin("fit", length_hint(images)),
            unreadable,
            keeper=Keeper(self.kept_feature_bytes, self.scratch) if settings.calibrate else None,
            with_samples=settings.keep_samples,
            with_thumbnails=settings.calibrate,
        )

        def batches() -> Iterable[list[Tensor]]:
            if kept:
                return read_kept(kept, self.encoder.pyramid, device, self.embedder.n_batch)
            skip = unreadable is not None
            return self.embedder.embed_again(images, seen.hashes, skip=skip)

        is_judged = settings.calibrate and moments.count > 1
        advance = begin("solve", self.encoder.pyramid.n_steps * (1 + is_judged))
        state = self._solve(moments, seen, advance)
        held = moments if settings.keep_moments or settings.drop_outliers else None
        fitted, left = Fitted(state, seen.paths), seen
        if is_judged:
            leave_one_out = LeaveOneOut(
                moments, state.eps, state.pyramid, advance, in_place=held is None
            )
            del moments  # worth nothing, or held
            advance = begin("second look", state.count)
            state, scores = looks.judge(
                state, leave_one_out, batches(), device, advance, n_maps=self.n_maps
            )
            del leave_one_out
            rate = settings.drop_outliers or OUTLIER_RATE
            suspects, outlier_maps = review_look(scores, seen.thumbnails, rate)
            dropped = self._find_dropped(suspects, state.count)
            fitted = replace(fitted, suspects=suspects, dropped=dropped, outlier_maps=outlier_maps)
            if dropped:
                assert held is not None
                held, left, state, scores = self._drop(set(dropped), held, seen, batches, begin)
            camera, mean_image = left.compare_cameras(may_travel=settings.keep_samples)
            reference = scores.reference(camera, mean_image)
            calibration = scores.calibration(LEAVE_ONE_OUT, reference)
            state = replace(state, calibration=calibration)
            fitted = replace(fitted, order=look_at_order(scores.image_scores(), reference))
        kept = ()  # its file goes
        if left.samples:
            # Mirrored, they are new to the model: the distances of images that it knows are small
            # differences, in which the last digits of an engine weigh more than on the line.
            mirrored = np.stack([image.pixels[:, ::-1] for image in left.samples])
            state = replace(state, samples=sample(state, self.embedder, mirrored))
        state = replace(state, images=left.facts)
        return replace(fitted, state=state, moments=held if settings.keep_moments else None)

    def _solve(self, moments: Moments, seen: Seen, advance: Advance) -> ModelState:
        store = STORES[self.settings.store]
        return solve(self.encoder, self.recipe, store, self.trunk, moments, seen.hashes, advance)

    def _find_dropped(self, suspects: Sequence[Suspect], n_images: int) -> tuple[int, ...]:
        """The places of the outliers that the model is not to be made from."""
        if not self.settings.drop_outliers:
            return ()
        dropped = {suspect.index for suspect in suspects if suspect.reason == "outlier"}
        if len(dropped) > n_images - 2:
            raise DatasetError(
                f"{len(dropped)} of {n_images} images would be dropped as outliers. Take a "
                "smaller --drop-outliers."
            )
        return tuple(sorted(dropped))

    def _drop(
        self,
        dropped: Set[int],
        moments: Moments,
        seen: Seen,
        batches: Callable[[], Iterable[list[Tensor]]],
        begin: Begin,
    ) -> tuple[Moments, Seen, ModelState, Collector]:
        """Make the model anew without the images of these places, and judge the others by it."""
        n_images = len(seen.hashes)
        advance = begin("drop outliers", n_images)
        unwanted = looks.pick(looks.tell(batches(), advance), dropped)
        gone = looks.add_up(unwanted, self.encoder.pyramid)
        moments, left = moments.without(gone), seen.without(dropped)
        del gone  # as large
        advance = begin("solve", self.encoder.pyramid.n_steps * 2)
        state = self._solve(moments, left, advance)
        leave_one_out = LeaveOneOut(
            moments, state.eps, state.pyramid, advance, in_place=not self.settings.keep_moments
        )
        staying = looks.pick(batches(), set(range(n_images)) - dropped)
        device, advance = self.embedder.device, begin("second look", state.count)
        return moments, left, *looks.judge(state, leave_one_out, staying, device, advance)


def solve(
    encoder: Encoder,
    recipe: Recipe,
    store: torch.dtype,
    trunk: Mapping[str, Tensor],
    moments: Moments,
    hashes: Sequence[str],
    advance: Advance,
) -> ModelState:
    """Make a model of the moments of images of these sha256, without calibration or samples."""
    if recipe.eps_rule == "relative":
        eps = relative_eps(moments, recipe.eps)
    else:
        eps = [recipe.eps] * len(moments.mean)
    whitening = factor(moments, eps, max(moments.count - 1, 1), store, advance)
    return ModelState(
        encoder=encoder,
        recipe=recipe,
        eps=tuple(eps),
        count=moments.count,
        mean=tuple(mean.float().cpu() for mean in moments.mean),
        whitening=tuple(rows.cpu() for rows in whitening),
        image_sha256=tuple(sorted(hashes)),
        trunk=trunk,
    )


def sample(state: ModelState, embedder: Embedder, pixels: NDArray[np.uint8]) -> Samples:
    """Score images that travel with a model: RGB at network size, shape ``(n, H, W, 3)``."""
    scorer = scorer_of(state, embedder.features).to(embedder.device).eval()
    with computing(embedder.device):
        scores = scorer(torch.from_numpy(pixels).to(embedder.device))
    return Samples.of(pixels, *(output.cpu().numpy() for output in scores))
