"""A scorer that judges what it scores, at rates that come with the images."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from padim.scoring.calibration import Calibration
from padim.scoring.verdict import (
    Pieces,
    p_value_pieces,
    pixel_threshold_pieces,
    threshold_pieces,
)


class Judged(NamedTuple):
    """What the graph says of a batch, as ``predictor.Outputs`` and ``verdict.Verdict``."""

    anomaly_map: Tensor
    image_score: Tensor
    level_scores: Tensor
    p_value: Tensor
    label: Tensor
    predicted_mask: Tensor


class JudgingScorer(nn.Module):
    """A scorer, and the verdict by a calibration.

    What is not at or below a threshold is anomalous: so is a NaN, whichever of the two it is.
    """

    def __init__(self, scorer: nn.Module, calibration: Calibration) -> None:
        super().__init__()
        self.scorer = scorer
        self.threshold = _Lookup(threshold_pieces(calibration))
        self.pixel_threshold = _Lookup(pixel_threshold_pieces(calibration))
        self.p_value = _Lookup(p_value_pieces(calibration))

    def forward(
        self, images: Tensor, false_alarm_rate: Tensor, pixel_false_alarm_rate: Tensor
    ) -> Judged:
        """Score and judge a batch; each rate has the shape ``(1,)``, float32."""
        anomaly_map, image_score, level_scores = self.scorer(images)
        is_normal = image_score <= self.threshold(false_alarm_rate)
        is_below = anomaly_map <= self.pixel_threshold(pixel_false_alarm_rate)
        return Judged(
            anomaly_map,
            image_score,
            level_scores,
            self.p_value(image_score),
            (~is_normal).to(torch.uint8),
            (~is_below).to(torch.uint8),
        )


class _Lookup(nn.Module):
    """What `Pieces` say of each number, shape ``(M,)``."""

    def __init__(self, pieces: Pieces) -> None:
        super().__init__()
        for name, values in vars(pieces).items():
            self.register_buffer(name, torch.from_numpy(values.copy()))

    def forward(self, x: Tensor) -> Tensor:
        i = (x[:, None] > self.get_buffer("knots")).sum(dim=1)
        base, slope, start = (self.get_buffer(name)[i] for name in ("base", "slope", "start"))
        return base + slope * (x - start)
