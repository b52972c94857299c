"""The distances of good images under the model fitted without each, exactly and in closed form."""

from collections.abc import Iterable, Iterator, Sequence, Set

import torch
from torch import Tensor

from padim.method.gaussian import factor, squared_distances
from padim.method.moments import Accumulator, Moments
from padim.method.pyramid import Pyramid

GROUP = 32  # images in one product


class LeaveOneOut:
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
        self.pyramid = pyramid
        self.dof = max(moments.count - 2, 1)
        self.factor = moments.count / (moments.count - 1)
        self.mean = moments.mean
        # Another ridge than the model's: a factor of its own.
        self.rows = factor(moments, eps, self.dof)

    def __call__(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Compute the distances of a batch.

        Args:
            embeddings: Bit for bit what entered the moments: one per level, coarse to fine, shape
                ``(cells, N, d)``.

        Returns:
            Mahalanobis distances, not squared, shape ``(N, h, w)``, float64.
        """
        return self.pyramid.on_grid(self.distances(embeddings))

    def distances(self, embeddings: Sequence[Tensor]) -> Tensor:
        """The same in nested order, shape ``(cells, N)`` of the finest level."""
        centred = [
            (embedding.double() - mean[:, None]).transpose(1, 2)
            for embedding, mean in zip(embeddings, self.mean, strict=True)
        ]
        distance_sq = self.pyramid.added_up(squared_distances(self.rows, centred))
        # With fewer images than dimensions this is a small difference.
        rest = 1 - self.factor / self.dof * distance_sq
        return self.factor * (distance_sq / rest.clamp_min(torch.finfo(rest.dtype).eps)).sqrt()


class KeptFeatures:
    """Features kept for a second look, while they are few.

    Args:
        max_bytes: With more, none are kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self._batches: list[list[Tensor]] = []

    def add(self, embeddings: list[Tensor]) -> None:
        """Keep a batch."""
        self._left -= sum(level.numel() * level.element_size() for level in embeddings)
        if self._left >= 0:
            self._batches.append(embeddings)
        else:
            self._batches.clear()

    def again(self) -> list[list[Tensor]]:
        """All batches, or none where they were too many."""
        return self._batches

    def clear(self) -> None:
        """Let them go."""
        self._batches.clear()


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


def chosen(batches: Iterable[Sequence[Tensor]], places: Set[int]) -> Iterator[list[Tensor]]:
    """Keep some images of batches of embeddings.

    Args:
        batches: ``(cells, N, d)`` per level.
        places: Which, counted over all batches.
    """
    start = 0
    for batch in batches:
        n_images = batch[0].shape[1]
        inside = [i for i in range(n_images) if start + i in places]
        start += n_images
        if inside:
            yield [level[:, inside] for level in batch]


def moments_of(batches: Iterable[Sequence[Tensor]]) -> Moments:
    """Add batches up."""
    accumulator = Accumulator()
    for batch in batches:
        accumulator.add(batch)
    return accumulator.moments()
