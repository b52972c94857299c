"""The distances of good images under the model fitted without each, exactly and in closed form."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from padim.method.gaussian import factor_into, squared_distances
from padim.method.moments import Moments
from padim.method.pyramid import Pyramid

# Of the features of a block of cells: what a cache holds; a GPU is slow with little at a time.
_LOOK_BYTES = {"cpu": 1 << 20, "cuda": 32 << 20}


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
        in_place: Whether the scatter, which is worth nothing then, gives its memory to the rows.
    """

    def __init__(
        self,
        moments: Moments,
        eps: Sequence[float],
        pyramid: Pyramid,
        advance: Callable[[int], None] = lambda n_cells: None,
        *,
        in_place: bool = False,
    ) -> None:
        self.pyramid = pyramid
        self.dof = max(moments.count - 2, 1)
        self.factor = moments.count / (moments.count - 1)
        self.mean = moments.mean
        # Another ridge than the model's: a factor of its own.
        self.rows = moments.scatter
        if not in_place:
            self.rows = tuple(tuple(map(torch.empty_like, blocks)) for blocks in moments.scatter)
        factor_into(self.rows, moments, eps, self.dof, advance)

    def __call__(self, embeddings: Sequence[Tensor]) -> list[Tensor]:
        """Compute the distances of a batch, not squared, float64.

        Those of the levels have the shape ``(N, h, w)``, of the coarse head ``(N, cells)``. The
        embeddings ``(cells, N, d)`` are bit for bit what entered the moments.
        """
        first, *others = self.distances(embeddings)
        return [self.pyramid.on_grid(first), *(distances.t() for distances in others)]

    def distances(self, embeddings: Sequence[Tensor]) -> list[Tensor]:
        """The same in nested order, shape ``(cells, N)`` of the finest level of each head."""
        parts = map(self.pyramid.by_head, (self.rows, self.mean, embeddings))
        return [
            self._of_head(head, *own) for head, *own in zip(self.pyramid.heads, *parts, strict=True)
        ]

    def _of_head(
        self,
        head: Pyramid,
        rows: Sequence[Sequence[Tensor]],
        means: Sequence[Tensor],
        embeddings: Sequence[Tensor],
    ) -> Tensor:
        """The distances of one head, in blocks of coarse cells."""
        n_images = embeddings[0].shape[1]
        found = means[-1].new_empty(head.n_cells(-1), n_images)
        n_features = sum(mean.numel() for mean in means) // head.n_coarse_cells
        step = max(1, _LOOK_BYTES[found.device.type] // (8 * n_features * n_images))
        for first in range(0, head.n_coarse_cells, step):
            spans = [
                slice(first * n, (first + step) * n)
                for n in map(head.descendants, range(len(means)))
            ]
            centred = [
                (embedding[span].double() - mean[span, None]).transpose(1, 2)
                for embedding, mean, span in zip(embeddings, means, spans, strict=True)
            ]
            own = [
                [block[span] for block in blocks] for blocks, span in zip(rows, spans, strict=True)
            ]
            levels = squared_distances(own, centred)
            found[spans[-1]] = self._leave_out(Pyramid.add_up(levels))
        return found

    def _leave_out(self, distance_sq: Tensor) -> Tensor:
        # With fewer images than dimensions this is a small difference.
        rest = 1 - self.factor / self.dof * distance_sq
        return self.factor * (distance_sq / rest.clamp_min(torch.finfo(rest.dtype).eps)).sqrt()
