"""Count, mean and scatter of each cell's features, streamed and mergeable.

Source: Chan, Golub & LeVeque 1983, Algorithms for computing the sample variance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from padim.errors import ShapeError

GROUP = 48  # images added in one pass over the products
_ROW_PADDING = 64  # without it, rows a power of two apart displace each other in the cache


@dataclass(frozen=True)
class Moments:
    """What a fit needs to know of the images; its size does not depend on how many there were.

    Attributes:
        count: Images n.
        mean: One per level, shape ``(cells, d)``, float64.
        scatter: For each level, its products about the mean with each level of its head up to
            itself, coarse to fine; a block has the shape ``(cells_l, d_l, d_k)``, float64.
    """

    count: int
    mean: tuple[Tensor, ...]
    scatter: tuple[tuple[Tensor, ...], ...]

    def __reduce__(self) -> tuple[object, ...]:
        # Arrays may travel without a copy, which tensors may not.
        scatter = tuple(tuple(block.numpy() for block in rows) for rows in self.scatter)
        return _arrive, (self.count, tuple(mean.numpy() for mean in self.mean), scatter)

    @staticmethod
    def of(embeddings: Sequence[Tensor], n_levels: int | None = None) -> "Moments":
        """Moments of a batch, as ``Accumulator`` takes it; all levels are of one head when None."""
        accumulator = Accumulator(len(embeddings) if n_levels is None else n_levels)
        accumulator.add(embeddings)
        return accumulator.moments()

    def merge(self, other: "Moments") -> "Moments":
        """Moments of the images of both; those of another pyramid are a `ShapeError`."""
        return self._combine(other, other.count)

    def without(self, other: "Moments") -> "Moments":
        """Moments of the images that are left when those of ``other`` are taken away.

        Those are of some of the images, bit for bit the same features, and not of all.
        """
        return self._combine(other, -other.count)

    def _combine(self, other: "Moments", n_more: int) -> "Moments":
        """Chan's formula, which serves to take away as well, with a negative number of images."""
        if [m.shape for m in self.mean] != [m.shape for m in other.mean]:
            raise ShapeError(
                f"One model has cells of shape {[tuple(m.shape) for m in self.mean]}, the other "
                f"{[tuple(m.shape) for m in other.mean]}, but they need to be equal. Fit both with "
                "the same backbone and recipe."
            )
        count = self.count + n_more
        delta = [b - a for a, b in zip(self.mean, other.mean, strict=True)]
        mean = tuple(a + d * (n_more / count) for a, d in zip(self.mean, delta, strict=True))
        weight = self.count * n_more / count
        scatter = []
        for level, (rows, other_rows) in enumerate(zip(self.scatter, other.scatter, strict=True)):
            blocks = []
            first = level + 1 - len(rows)
            for above, (a, b) in enumerate(zip(rows, other_rows, strict=True), first):
                block = a + b if n_more > 0 else a - b
                _add_products(block, delta[level][:, None], delta[above][:, None], weight)
                blocks.append(block)
            scatter.append(tuple(blocks))
        return Moments(count, mean, tuple(scatter))


def _arrive(
    count: int,
    mean: tuple[NDArray[np.float64], ...],
    scatter: tuple[tuple[NDArray[np.float64], ...], ...],
) -> Moments:
    """Moments that have travelled, in memory of their own."""
    blocks = tuple(tuple(torch.tensor(block) for block in rows) for rows in scatter)
    return Moments(count, tuple(torch.tensor(one) for one in mean), blocks)


class Accumulator:
    """Adds batches up about the mean of the first, in float64, a group of images at a time.

    Of each batch come ``n_levels`` of the first head, coarse to fine, and then those of others,
    one each.
    """

    def __init__(self, n_levels: int) -> None:
        self._n_levels = n_levels
        self._count = 0
        self._n_waiting = 0
        self._pilot: list[Tensor] = []
        self._sum: list[Tensor] = []
        self._products: list[list[Tensor]] = []
        self._waiting: list[Tensor] = []

    def add(self, embeddings: Sequence[Tensor]) -> None:
        """Add a batch, one tensor ``(cells, N, d)`` per level, coarse to fine, cells nested."""
        if not self._pilot:
            self._start(embeddings)
        images = [embedding.transpose(0, 1).flatten(1) for embedding in embeddings]
        n_images, n_taken = len(images[0]), 0
        while n_taken < n_images:
            n_new = min(n_images - n_taken, GROUP - self._n_waiting)
            for waiting, pilot, image in zip(self._waiting, self._pilot, images, strict=True):
                rows = waiting[self._n_waiting : self._n_waiting + n_new]
                torch.sub(image[n_taken : n_taken + n_new], pilot.flatten(), out=rows)
            n_taken += n_new
            self._n_waiting += n_new
            if self._n_waiting == GROUP:
                self._add_up()

    def moments(self) -> Moments:
        """Finish; the accumulator's memory becomes the moments', so nothing can be added after."""
        if self._n_waiting:
            self._add_up()
        self._waiting = []
        count = self._count
        for level, own in enumerate(self._sum):
            for above, block in enumerate(self._products[level], self._first(level)):
                _add_products(block, own[:, None], self._sum[above][:, None], -1.0 / count)
        mean = tuple(p + s / count for p, s in zip(self._pilot, self._sum, strict=True))
        scatter = tuple(map(tuple, self._products))
        self._products = []
        return Moments(count, mean, scatter)

    def _start(self, embeddings: Sequence[Tensor]) -> None:
        self._pilot = [e.mean(dim=1, dtype=torch.float64) for e in embeddings]
        self._sum = [torch.zeros_like(pilot) for pilot in self._pilot]
        self._products = [
            [
                own.new_zeros(own.shape[0], own.shape[1], above.shape[1])
                for above in self._pilot[self._first(level) : level + 1]
            ]
            for level, own in enumerate(self._pilot)
        ]
        self._waiting = [
            pilot.new_empty(GROUP, pilot.numel() + _ROW_PADDING)[:, : pilot.numel()]
            for pilot in self._pilot
        ]

    def _first(self, level: int) -> int:
        """The first level of the head of one."""
        return 0 if level < self._n_levels else level

    def _add_up(self) -> None:
        """Add the images that wait."""
        centred = [
            rows[: self._n_waiting].view(-1, *pilot.shape).transpose(0, 1)
            for rows, pilot in zip(self._waiting, self._pilot, strict=True)
        ]
        for level, own in enumerate(centred):
            self._sum[level] += own.sum(dim=1)
            for above, block in enumerate(self._products[level], self._first(level)):
                _add_products(block, own, centred[above], 1.0)
        self._count += self._n_waiting
        self._n_waiting = 0


def _add_products(block: Tensor, own: Tensor, above: Tensor, weight: float) -> None:
    """Add the products of a level's features with an ancestor's, in place.

    The descendants of an ancestor cell are neighbours, so they share one matrix product and the
    ancestor's features are never copied to the finer grid.

    Args:
        block: Shape ``(cells, d, d_above)``.
        own: Shape ``(cells, N, d)``, in memory image by image.
        above: Shape ``(cells_above, N, d_above)``, likewise.
        weight: Factor of the products.
    """
    parents, n, n_above = above.shape
    siblings = own.transpose(0, 1).flatten(1).view(n, parents, -1)  # all of a parent side by side
    block.view(parents, -1, n_above).baddbmm_(siblings.permute(1, 2, 0), above, alpha=weight)
