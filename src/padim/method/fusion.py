"""One image score of two: that of the map, raised by what the coarse head says besides."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

_LEAST_SCORE = 1e-6  # its logarithm is still a number
_LEAST_DEVIATION = 1e-3  # of logarithms; good images that differ less are one image
_MOST_LOG = 80.0  # of a score: below the largest float32


@dataclass(frozen=True)
class Fusion:
    """How good images score by either head, and so what a score of one is worth in the other's.

    With ``z = (ln s - mean) / deviation`` of each head, the score is that of the first head whose z
    is ``ln(exp z_1 + exp z_2)``: its own where the second has nothing to say, and as the second
    sees it where that is far above.

    Attributes:
        mean: Of the logarithms of the scores of good images, one per head.
        deviation: Their standard deviation, likewise.
    """

    mean: tuple[float, float]
    deviation: tuple[float, float]

    @classmethod
    def of(cls, scores: NDArray[np.float32]) -> "Fusion":
        """What the scores of good images say, shape ``(n, 2)``, two images at least."""
        logs = np.log(np.maximum(scores.astype(np.float64), _LEAST_SCORE))
        means, deviations = logs.mean(axis=0), logs.std(axis=0, ddof=1)
        first, second = np.maximum(deviations, _LEAST_DEVIATION).tolist()
        return cls((float(means[0]), float(means[1])), (first, second))

    def join(self, scores: Sequence[Tensor]) -> Tensor:
        """One score of those of both heads, ``(N,)`` each."""
        first, second = (score.clamp_min(_LEAST_SCORE).log() for score in scores)
        above = (second - self.mean[1]) / self.deviation[1]
        above = above - (first - self.mean[0]) / self.deviation[0]
        # ln(1 + exp above), in the operators that a graph may have
        most = above.relu()
        raised = first + self.deviation[0] * (
            most + ((0 - most).exp() + (above - most).exp()).log()
        )
        return raised.clamp_max(_MOST_LOG).exp()
