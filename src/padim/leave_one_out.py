"""The distances of good images under the model fitted without each, exactly and in closed form."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from padim.gaussian import factor
from padim.moments import Moments
from padim.pyramid import Pyramid
from padim.scorer import Head

GROUP = 32  # images in one product


class LeaveOneOut(nn.Module):
    """From the features of an image of the fit to its distances under the model without it.

    With y the features about the mean, A the scatter, ``m = max(n - 2, 1)`` and
    ``g = yᵀ (A + eps m I)⁻¹ y``, the squared distance is ``k² m g / (1 - k g)`` with
    ``k = n / (n - 1)``: Sherman-Morrison on the scatter, eps being that of the full fit.

    Args:
        moments: Moments of the n images, two at least.
        eps: What the full fit added to the diagonal, one per level.
        pyramid: The levels.
    """

    def __init__(self, moments: Moments, eps: Sequence[float], pyramid: Pyramid) -> None:
        super().__init__()
        self.dof = max(moments.count - 2, 1)
        self.factor = moments.count / (moments.count - 1)
        # Another ridge than the model's: a factor of its own.
        rows = factor(moments, eps, self.dof)
        self.head = Head(pyramid, moments.mean, rows, dtype=torch.float64)

    def forward(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Compute the distances of a batch.

        Args:
            embeddings: Bit for bit what entered the moments: one per level, coarse to fine, shape
                ``(cells, N, d)``.

        Returns:
            Mahalanobis distances, not squared, shape ``(N, h, w)``, float64.
        """
        distance_sq: Tensor = self.head([embedding.double() for embedding in embeddings]).square()
        # With fewer images than dimensions this is a small difference.
        rest = 1 - self.factor / self.dof * distance_sq
        return self.factor * (distance_sq / rest.clamp_min(torch.finfo(torch.float64).eps)).sqrt()


def grouped(batches: Iterable[Sequence[Tensor]]) -> Iterator[list[Tensor]]:
    """Join small batches of embeddings, ``(cells, N, d)`` per level, to larger ones."""
    waiting: list[Sequence[Tensor]] = []
    n_images = 0
    for batch in batches:
        waiting.append(batch)
        n_images += batch[0].shape[1]
        if n_images >= GROUP:
            yield [torch.cat(level, dim=1) for level in zip(*waiting, strict=True)]
            waiting, n_images = [], 0
    if waiting:
        yield [torch.cat(level, dim=1) for level in zip(*waiting, strict=True)]
