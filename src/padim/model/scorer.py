"""The whole way from uint8 images to map and score, as one module."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from padim.images.preprocess import Preprocess
from padim.method.fusion import Fusion
from padim.method.head import Head
from padim.method.postprocess import Postprocess, image_score
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
        distances = [head.join(own) for head, own in zip(heads, levels, strict=True)]
        scores: Scores = self.finish(distances, levels[0])
        return scores


class Finish(nn.Module):
    """From the distances of each head to the map and scores."""

    def __init__(self, postprocess: Sequence[Postprocess], fusion: Fusion | None) -> None:
        super().__init__()
        self.postprocess = nn.ModuleList(postprocess)
        self.fusion = fusion

    def forward(self, distances: Sequence[Tensor], levels: Sequence[Tensor]) -> Scores:
        """Score a batch.

        Args:
            distances: Of each head, shape ``(N, h, w)``.
            levels: What each level of the first adds to their squares, shape ``(cells, N)``.
        """
        anomaly_map, scores = self.score(distances)
        first = cast(Postprocess, self.postprocess[0])
        own = [image_score(level.t().sqrt(), first.score_fraction) for level in levels]
        return Scores(anomaly_map, self.join(scores), torch.stack((*own, *scores[1:]), dim=1))

    def score(self, distances: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The map of distances ``(N, h, w)`` of each head, and the image scores by each."""
        found = [one(own) for one, own in zip(self.postprocess, distances, strict=True)]
        return found[0][0], [score for _, score in found]

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
    recipe = state.recipe
    ways = [
        (recipe.sigma_px, recipe.score_fraction),
        (recipe.coarse_sigma_px, recipe.coarse_fraction),
    ]
    postprocess = [
        _postprocess_of(state, head, *way)
        for head, way in zip(state.pyramid.heads, ways, strict=False)
    ]
    return Finish(postprocess, state.fusion)


def _postprocess_of(
    state: ModelState, head: Pyramid, sigma_px: float, fraction: float
) -> Postprocess:
    """The way from the distances of a head to its map and score."""
    roi, grid = state.preprocess.roi, head.levels[-1].grid
    modelled = counted = None
    if roi is not None:
        modelled = (head.place < head.n_cells(-1)).reshape(grid)
        counted = roi.mask
    size_px = state.preprocess.size_px
    if state.recipe.tile_px is not None:
        # A defect is as large as it is, however much else the picture shows.
        n_counted = size_px[0] * size_px[1] if counted is None else counted.sum()
        fraction *= min(1.0, state.tiling.window_px[0] * state.tiling.window_px[1] / n_counted)
    return Postprocess(grid, size_px, sigma_px, fraction, modelled, counted)
