"""The whole way from uint8 images to map and score, as one module."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from padim.images.preprocess import Preprocess
from padim.method.head import Head
from padim.method.postprocess import Postprocess, image_score
from padim.model.state import ModelState


class Scores(NamedTuple):
    """What the graph says of a batch, as ``predictor.Outputs`` of tensors."""

    anomaly_map: Tensor
    image_score: Tensor
    level_scores: Tensor


class Scorer(nn.Module):
    """From uint8 images to map and scores, as one graph: what torch runs and what is exported."""

    def __init__(self, features: nn.Module, head: Head, postprocess: Postprocess) -> None:
        super().__init__()
        self.features = features
        self.head = head
        self.postprocess = postprocess

    def forward(self, images: Tensor) -> Scores:
        """Score a batch: RGB, shape ``(N, H, W, 3)``, 0 to 255."""
        levels = self.head.levels(self.features(images))
        return score_levels(self.postprocess, self.head.join(levels), levels)


class CameraScorer(nn.Module):
    """A scorer that resizes the images of a camera itself, as ``preprocess`` does."""

    def __init__(self, scorer: Scorer, preprocess: Preprocess, camera_px: tuple[int, int]) -> None:
        super().__init__()
        self.scorer = scorer
        rows, columns, self.rows_first = preprocess.matrices(camera_px)
        for axis, matrix in (("rows", rows), ("columns", columns.T)):
            # In two parts, whose products with pixels of 8 bits are exact in float32.
            high = np.round(matrix * 2**14) / 2**14
            for part, values in (("high", high), ("low", matrix - high)):
                self.register_buffer(f"{axis}_{part}", torch.from_numpy(values.copy()).float())

    def forward(self, images: Tensor) -> Scores:
        """Score a batch: RGB, shape ``(N, camera height, camera width, 3)``, uint8."""
        channels = images.permute(0, 3, 1, 2).float()
        for axis in ("rows", "columns") if self.rows_first else ("columns", "rows"):
            parts = [self.get_buffer(f"{axis}_{part}") for part in ("high", "low")]
            high, low = (part @ channels if axis == "rows" else channels @ part for part in parts)
            # Halves up, without losing the digits of the lower part.
            whole = (high + 0.5).floor()
            channels = (whole + (high + 0.5 - whole + low).floor()).clamp(0, 255)
        scores: Scores = self.scorer(channels.permute(0, 2, 3, 1))
        return scores


def score_levels(postprocess: Postprocess, distance: Tensor, levels: Sequence[Tensor]) -> Scores:
    """Score a batch of distances ``(N, h, w)``; ``levels`` add ``(cells, N)`` to their squares."""
    anomaly_map, score = postprocess(distance)
    own = [image_score(level.t().sqrt(), postprocess.score_fraction) for level in levels]
    return Scores(anomaly_map, score, torch.stack(own, dim=1))


def scorer_of(
    state: ModelState, features: nn.Module, store: torch.dtype | None = None, grouped: bool = False
) -> Scorer:
    """The graph of a model; ``store`` and ``grouped`` are those of ``Head``."""
    return Scorer(
        features,
        Head(state.pyramid, state.mean, state.in_memory(), store=store, grouped=grouped),
        postprocess_of(state),
    )


def postprocess_of(state: ModelState) -> Postprocess:
    """The way from a model's distances to its maps and scores."""
    pyramid, roi = state.pyramid, state.preprocess.roi
    grid = pyramid.levels[-1].grid
    modelled = counted = None
    if roi is not None:
        modelled = (pyramid.place < pyramid.n_cells(-1)).reshape(grid)
        counted = roi.mask
    size_px, fraction = state.preprocess.size_px, state.recipe.score_fraction
    if state.recipe.tile_px is not None:
        # A defect is as large as it is, however much else the picture shows.
        n_counted = size_px[0] * size_px[1] if counted is None else counted.sum()
        fraction *= min(1.0, state.tiling.window_px[0] * state.tiling.window_px[1] / n_counted)
    return Postprocess(grid, size_px, state.recipe.sigma_px, fraction, modelled, counted)
