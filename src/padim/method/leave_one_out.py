"""The distances of good images under the model fitted without each, exactly and in closed form."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from padim.method.gaussian import factor, squared_distances
from padim.method.moments import Moments
from padim.method.pyramid import Pyramid


class LeaveOneOut:
    """From the features of an image of the fit to its distances under the model without it.

    With y the features about the mean, A the scatter, ``m = max(n - 2, 1)`` and
    ``g = yᵀ (A + eps m I)⁻¹ y``, the squared distance is ``k² m g / (1 - k g)`` with
    ``k = n / (n - 1)``: Sherman-Morrison on the scatter, eps being that of the full fit.

    Args:
        moments: Moments of the n images, two at least.
        eps: What the full fit added to the diagonal, one per level.
        pyramid: The levels.
        advance: Told how many more coarse cells are done.
    """

    def __init__(
        self,
        moments: Moments,
        eps: Sequence[float],
        pyramid: Pyramid,
        advance: Callable[[int], None] = lambda n_cells: None,
    ) -> None:
        self.pyramid = pyramid
        self.dof = max(moments.count - 2, 1)
        self.factor = moments.count / (moments.count - 1)
        self.mean = moments.mean
        # Another ridge than the model's: a factor of its own.
        self.rows = factor(moments, eps, self.dof, advance=advance)

    def __call__(self, embeddings: Sequence[Tensor]) -> list[Tensor]:
        """Compute the distances of a batch, not squared, float64.

        Those of the levels have the shape ``(N, h, w)``, of the coarse head ``(N, cells)``. The
        embeddings ``(cells, N, d)`` are bit for bit what entered the moments.
        """
        first, *others = self.distances(embeddings)
        return [self.pyramid.on_grid(first), *(distances.t() for distances in others)]

    def distances(self, embeddings: Sequence[Tensor]) -> list[Tensor]:
        """The same in nested order, shape ``(cells, N)`` of the finest level of each head."""
        centred = [
            (embedding.double() - mean[:, None]).transpose(1, 2)
            for embedding, mean in zip(embeddings, self.mean, strict=True)
        ]
        levels = squared_distances(self.rows, centred)
        return [self._leave_out(Pyramid.add_up(own)) for own in self.pyramid.by_head(levels)]

    def _leave_out(self, distance_sq: Tensor) -> Tensor:
        # With fewer images than dimensions this is a small difference.
        rest = 1 - self.factor / self.dof * distance_sq
        return self.factor * (distance_sq / rest.clamp_min(torch.finfo(rest.dtype).eps)).sqrt()
