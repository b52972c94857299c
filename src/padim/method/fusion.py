"""One image score of two: that of the map, raised by what the coarse head says besides."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

POWER = 10.0  # the higher, the more the larger of two scores decides alone
_LEAST_SCORE = 1e-6  # its logarithm is still a number


@dataclass(frozen=True)
class Fusion:
    """What is usual of either head's scores, and so what one is worth on the scale of the other.

    With ``a`` and ``b`` the scores over what is usual, the joined one is ``(a^p + b^p)^(1/p)``
    times what is usual of the first: its own where the second has nothing to say, and as the
    second sees it where that is far above.

    Attributes:
        usual: Geometric mean of the scores of good images, one per head.
        power: The exponent p.
    """

    usual: tuple[float, float]
    power: float = POWER

    @classmethod
    def of(cls, scores: NDArray[np.float32]) -> "Fusion":
        """What the scores of good images say, shape ``(n, 2)``, one image at least."""
        logs = np.log(np.maximum(scores.astype(np.float64), _LEAST_SCORE))
        first, second = np.exp(logs.mean(axis=0)).tolist()
        return cls((first, second))

    def join(self, scores: Sequence[Tensor]) -> Tensor:
        """One score of those of both heads, ``(N,)`` each."""
        first, second = (
            (score.clamp_min(_LEAST_SCORE) / usual).log()
            for score, usual in zip(scores, self.usual, strict=True)
        )
        above = self.power * (second - first)
        # ln(1 + exp above), in the operators that a graph may have
        most = above.relu()
        raised = most + ((0 - most).exp() + (above - most).exp()).log()
        return (first + raised / self.power).exp() * self.usual[0]
