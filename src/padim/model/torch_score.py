"""A model's scores computed by torch, whole or tile by tile."""

import threading
from contextlib import nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from padim.features.device import computing, fetch, send
from padim.features.features import TiledFeatures
from padim.features.recording import Recorded
from padim.method.gaussian import split_columns, squared_distances
from padim.model.scorer import Scorer, finish_of
from padim.model.state import ModelState
from padim.scoring.predictor import Outputs


class TorchScore:
    """Runs a graph in torch."""

    def __init__(self, scorer: Scorer, device: torch.device) -> None:
        self.scorer = scorer.to(device).eval()
        self.device = device
        self._compute = Recorded(self.scorer, scorer.features)
        self._turn = nullcontext() if device.type == "cpu" else threading.Lock()

    def __call__(self, images: NDArray[np.uint8]) -> Outputs:
        """Score a batch: RGB at network size, shape ``(N, H, W, 3)``."""
        with computing(self.device), self._turn:
            scores = self._compute(send(torch.from_numpy(images), self.device))
            fetched = list(map(fetch, scores))
        return _copy_out(fetched, self.device)

    def __reduce__(self) -> tuple[object, ...]:
        return TorchScore, (self.scorer, self.device)


class TileScore:
    """Scores images tile by tile, each call with the whitening rows of one in memory."""

    def __init__(self, state: ModelState, features: TiledFeatures, device: torch.device) -> None:
        self.state = state
        self.features = features.to(device)
        self.device = device
        self.finish = finish_of(state).to(device)

    def __call__(self, images: NDArray[np.uint8]) -> Outputs:
        """Score a batch: RGB at network size, shape ``(N, H, W, 3)``."""
        with computing(self.device):
            return self._score(images)

    def _score(self, images: NDArray[np.uint8]) -> Outputs:
        state, tiling = self.state, self.state.tiling
        pixels = torch.from_numpy(images)
        parts = []
        for tile, spans in tiling.spans():
            crop = tiling.crop(pixels, tile).contiguous().to(self.device)
            centred = [
                (embedding - mean[span, None].to(self.device)).transpose(1, 2)
                for embedding, mean, span in zip(
                    self.features.of_tile(crop, tile), state.mean, spans, strict=True
                )
            ]
            rows = [
                level[span].to(self.device, torch.float32)
                for level, span in zip(state.whitening, spans, strict=True)
            ]
            parts.append(squared_distances(split_columns(rows), centred))
        levels = [torch.cat(level) for level in zip(*parts, strict=True)]
        first, *others = state.pyramid.by_head(levels)
        fine = state.pyramid.on_grid(state.pyramid.add_up(first)).sqrt()
        scores = self.finish([fine, *(level.t().sqrt() for (level,) in others)], first)
        return _copy_out(list(map(fetch, scores)), self.device)


def _copy_out(fetched: list[Tensor], device: torch.device) -> Outputs:
    """What ``fetch`` gave, in memory of its own."""
    arrays = [one.numpy() for one in fetched]
    return Outputs(*(arrays if device.type == "cpu" else map(np.array, arrays)))
