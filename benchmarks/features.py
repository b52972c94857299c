"""Features computed once, for fits on many choices of the same images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from padim.fitting.fitter import Fitter
from padim.fitting.looks import GROUP, add_up
from padim.images.ahead import batched, load_ahead
from padim.method.gaussian import STORES, factor, relative_eps
from padim.method.head import Head
from padim.method.moments import Moments
from padim.method.postprocess import Postprocess

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Features:
    """The features of a set of images.

    Attributes:
        name: Of the set.
        levels: One per level, shape ``(N, cells, d)``, images in the order given.
        fitter: Of the recipe.
    """

    name: str
    levels: tuple[Tensor, ...]
    fitter: Fitter

    @classmethod
    def of(cls, name: str, paths: Sequence[Path], fitter: Fitter) -> "Features":
        """Compute them, once for all fits."""
        parts: list[list[Tensor]] = []
        for batch in batched(load_ahead(paths, fitter.encoder.preprocess), fitter.embedder.n_batch):
            pixels = torch.from_numpy(np.stack([image.pixels for image in batch]))
            parts.append([level.transpose(0, 1) for level in fitter.features(pixels)])
        levels = tuple(torch.cat(level) for level in zip(*parts, strict=True))
        return cls(name, levels, fitter)

    @cached_property
    def finish(self) -> Postprocess:
        """From distances on the finest grid to maps and image scores."""
        settings, grid = self.fitter.recipe, self.fitter.encoder.pyramid.levels[-1].grid
        return Postprocess(grid, settings.size_px, settings.sigma_px, settings.score_fraction)

    def batches(self, chosen: Sequence[int]) -> Iterator[list[Tensor]]:
        """Embeddings of some of them, as a fit has them."""
        for start in range(0, len(chosen), GROUP):
            indices = torch.as_tensor(chosen[start : start + GROUP])
            yield [level[indices].transpose(0, 1) for level in self.levels]

    def moments(self, chosen: Sequence[int]) -> Moments:
        """Of some of them."""
        return add_up(self.batches(chosen), self.fitter.encoder.pyramid)

    def solved(self, moments: Moments) -> tuple[list[float], Head]:
        """Fit on the moments of some of them."""
        eps = relative_eps(moments, self.fitter.recipe.eps)
        rows = factor(moments, eps, moments.count - 1, STORES[self.fitter.settings.store])
        return eps, Head(self.fitter.encoder.pyramid, [m.float() for m in moments.mean], rows)

    def scored(
        self, chosen: Sequence[int], distances: Callable[[Sequence[Tensor]], Tensor]
    ) -> Scores:
        """Image scores of some of them."""
        parts = [self.finish(distances(batch).float())[1] for batch in self.batches(chosen)]
        return torch.cat(parts).numpy()
