"""The distances of good images under the model fitted without each, exactly and in closed form."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from padim.method.gaussian import factor_into, squared_distances
from padim.method.moments import Moments
from padim.method.pyramid import Pyramid

# Of the features of a block of cells: what a cache holds; a GPU is slow with little at a time.
_LOOK_BYTES = {"cpu": 1 << 20, "cuda": 32 << 20}


class LeftOut(NamedTuple):
    """What images are under the model without each.

    Attributes:
        distances: Not squared, float64: of the levels ``(N, h, w)``, of the coarse head
            ``(N, cells)``.
        levels: What each level adds to the squares of the first, given the coarser ones, shape
            ``(cells, N)``, as ``Head.levels`` has it.
    """

    distances: list[Tensor]
    levels: list[Tensor]


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
        return self.look(embeddings).distances

    def look(self, embeddings: Sequence[Tensor]) -> LeftOut:
        """The same, and what each level adds."""
        (first, *others), levels = self._of_heads(embeddings)
        distances = [self.pyramid.on_grid(first), *(found.t() for found in others)]
        return LeftOut(distances, levels)

    def distances(self, embeddings: Sequence[Tensor]) -> list[Tensor]:
        """The same in nested order, shape ``(cells, N)`` of the finest level of each head."""
        return self._of_heads(embeddings)[0]

    def _of_heads(self, embeddings: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The distances of each head, and what each level adds to those of the first."""
        parts = map(self.pyramid.by_head, (self.rows, self.mean, embeddings))
        found = [
            self._of_head(head, *own) for head, *own in zip(self.pyramid.heads, *parts, strict=True)
        ]
        return [distances for distances, _ in found], found[0][1]

    def _of_head(
        self,
        head: Pyramid,
        rows: Sequence[Sequence[Tensor]],
        means: Sequence[Tensor],
        embeddings: Sequence[Tensor],
    ) -> tuple[Tensor, list[Tensor]]:
        """The distances of one head and what its levels add, in blocks of coarse cells."""
        n_images = embeddings[0].shape[1]
        found = means[-1].new_empty(head.n_cells(-1), n_images)
        added = [mean.new_empty(len(mean), n_images) for mean in means]
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
            for place, span, more in zip(added, spans, self._split(levels), strict=True):
                place[span] = more
        return found, added

    def _split(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """What each level adds to the squared distances of images that are left out.

        The coarser levels are a model of their own, whose images are left out in the same way.
        """
        before: Tensor | None = None
        added = []
        for n_levels in range(1, len(levels) + 1):
            whole = self._leave_out(Pyramid.add_up(levels[:n_levels])).square()
            own = whole
            if before is not None:
                own = (whole.view(len(before), -1, whole.shape[1]) - before[:, None]).clamp_min(0)
            added.append(own.reshape(whole.shape))
            before = whole
        return added

    def _leave_out(self, distance_sq: Tensor) -> Tensor:
        # With fewer images than dimensions this is a small difference.
        rest = 1 - self.factor / self.dof * distance_sq
        return self.factor * (distance_sq / rest.clamp_min(torch.finfo(rest.dtype).eps)).sqrt()
