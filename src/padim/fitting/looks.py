"""A pass over good images as batches of features; what is kept of it for the second."""

from collections.abc import Iterable, Iterator, Sequence, Set

import torch
from torch import Tensor

from padim.method.moments import Accumulator, Moments

GROUP = 32  # images in one product


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
