"""The scoring graph of a fitted model."""

import torch
from torch import nn

from padim.method.postprocess import Postprocess
from padim.model.scorer import Head, Scorer
from padim.model.state import ModelState


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
    return Postprocess(
        grid,
        size_px,
        state.recipe.sigma_px,
        fraction,
        modelled,
        counted,
    )
