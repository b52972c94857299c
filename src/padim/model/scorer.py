"""The whole way from uint8 images to map and score, as one module."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from padim.images.preprocess import Preprocess
from padim.method.fusion import Fusion
from padim.method.head import Head
from padim.method.postprocess import Postprocess, image_score, mean_of_hottest
from padim.method.pyramid import Pyramid
from padim.model.state import ModelState


class Scores(NamedTuple):
    """What the graph says of a batch, as ``predictor.Outputs`` of tensors."""

    anomaly_map: Tensor
    image_score: Tensor
    level_scores: Tensor


class Scorer(nn.Module):
    """From uint8 images to the map and scores, as one graph: what torch runs and what is exported.

    ``heads`` are those of the pyramid.
    """

    def __init__(
        self, features: nn.Module, pyramid: Pyramid, heads: Sequence[Head], finish: "Finish"
    ) -> None:
        super().__init__()
        self.features = features
        self.pyramid = pyramid
        self.heads = nn.ModuleList(heads)
        self.finish = finish

    def forward(self, images: Tensor) -> Scores:
        """Score a batch: RGB, shape ``(N, H, W, 3)``, 0 to 255."""
        embeddings = self.pyramid.by_head(self.features(images))
        heads = cast(Sequence[Head], self.heads)
        levels = [head.levels(own) for head, own in zip(heads, embeddings, strict=True)]
        distances = [heads[0].join(levels[0]), *(level.t().sqrt() for (level,) in levels[1:])]
        scores: Scores = self.finish(distances, levels[0])
        return scores


class Finish(nn.Module):
    """From distances to the map and scores.

    Args:
        postprocess: From the distances of the levels to the map and its score.
        n_hottest: Of how many cells of the coarse head its score is the mean.
        fusion: What joins the scores; that of the map is the image's when None.
    """

    def __init__(self, postprocess: Postprocess, n_hottest: int, fusion: Fusion | None) -> None:
        super().__init__()
        self.postprocess = postprocess
        self.n_hottest = n_hottest
        self.fusion = fusion

    def forward(self, distances: Sequence[Tensor], levels: Sequence[Tensor]) -> Scores:
        """Score a batch.

        Args:
            distances: As ``LeaveOneOut`` gives them.
            levels: What each level adds to the squares of the first, shape ``(cells, N)``.
        """
        anomaly_map, scores = self.score(distances)
        return Scores(anomaly_map, self.join(scores), self.score_levels(levels, scores))

    def score(self, distances: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The map, and the image scores by each head."""
        first, *others = distances
        anomaly_map, score = self.postprocess(first)
        return anomaly_map, [score, *(mean_of_hottest(cells, self.n_hottest) for cells in others)]

    def score_levels(self, levels: Sequence[Tensor], scores: Sequence[Tensor]) -> Tensor:
        """The scores of the levels, and those by other heads, shape ``(N, levels)``."""
        fraction = self.postprocess.score_fraction
        own = [image_score(level.t().sqrt(), fraction) for level in levels]
        return torch.stack((*own, *scores[1:]), dim=1)

    def join(self, scores: Sequence[Tensor]) -> Tensor:
        """The image score of those by each head."""
        return scores[0] if self.fusion is None else self.fusion.join(scores)


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


def scorer_of(
    state: ModelState, features: nn.Module, store: torch.dtype | None = None, grouped: bool = False
) -> Scorer:
    """The graph of a model; ``store`` and ``grouped`` are those of ``Head``."""
    pyramid = state.pyramid
    parts = zip(
        pyramid.heads, pyramid.by_head(state.mean), pyramid.by_head(state.in_memory()), strict=True
    )
    heads = [Head(head, mean, rows, store=store, grouped=grouped) for head, mean, rows in parts]
    return Scorer(features, pyramid, heads, finish_of(state))


def finish_of(state: ModelState) -> Finish:
    """The way from the distances of a model to its maps and scores."""
    pyramid, recipe, roi = state.pyramid, state.recipe, state.preprocess.roi
    grid, size_px = pyramid.levels[-1].grid, state.preprocess.size_px
    modelled = counted = None
    if roi is not None:
        modelled = (pyramid.place < pyramid.n_cells(-1)).reshape(grid)
        counted = roi.mask
    fraction, n_hottest = recipe.score_fraction, 0
    if recipe.tile_px is not None:
        # A defect is as large as it is, however much else the picture shows.
        n_counted = size_px[0] * size_px[1] if counted is None else counted.sum()
        fraction *= min(1.0, state.tiling.window_px[0] * state.tiling.window_px[1] / n_counted)
    if pyramid.coarse is not None:
        window = state.tiling.tiles[0].pyramid.heads[1].levels[0]
        n_cells = min(window.n_cells, pyramid.coarse.n_coarse_cells)
        n_hottest = max(1, round(recipe.coarse_fraction * n_cells))
    postprocess = Postprocess(grid, size_px, recipe.sigma_px, fraction, modelled, counted)
    return Finish(postprocess, n_hottest, state.fusion)
