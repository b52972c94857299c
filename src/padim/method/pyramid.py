"""Feature maps as nested levels of cells: the coarse grid first, nothing upsampled."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from padim.backbones import BackboneSpec
from padim.errors import UsageError

T = TypeVar("T")

RANDOM_DIMS_SEED = 1024  # the seed of the published PaDiM figures


@dataclass(frozen=True)
class Level:
    """The taps that share one grid."""

    grid: tuple[int, int]  # (h, w) cells
    taps: tuple[int, ...]  # positions of its feature maps among those that the trunk returns
    channels: tuple[tuple[int, ...], ...]  # for each of them, those that are used, ascending

    @property
    def n_cells(self) -> int:
        """Cells of the grid."""
        return self.grid[0] * self.grid[1]

    @property
    def n_dims(self) -> int:
        """Dimensions d of the level's own features."""
        return sum(map(len, self.channels))


@dataclass(frozen=True)
class Pyramid:
    """Levels, coarse to fine, each grid a whole multiple of the one before.

    The cells of a level are ordered parent by parent, and row by row inside a parent, so that the
    descendants of a cell are neighbours in memory on every level.

    Attributes:
        levels: Coarse to fine.
        coarse_cells: The cells of the coarsest grid that are modelled, with all their descendants,
            by their row-major numbers and in the order in which they are kept; all, row by row,
            when None.
        coarse: The cells of the coarse head, when there is one: the last tap of a smaller copy of
            the image, with a Gaussian of its own.
    """

    levels: tuple[Level, ...]
    coarse_cells: tuple[int, ...] | None = None
    coarse: "Pyramid | None" = None

    @property
    def heads(self) -> "tuple[Pyramid, ...]":
        """What gives a distance at each cell of its finest level: the levels; the coarse head."""
        if self.coarse is None:
            return (self,)
        return replace(self, coarse=None), self.coarse

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """Of the whitening rows of each level of each head: cells, dimensions, and columns."""
        return [
            (head.n_cells(i), level.n_dims, head.context_dims(i) + level.n_dims)
            for head in self.heads
            for i, level in enumerate(head.levels)
        ]

    def by_head(self, levels: Sequence[T]) -> list[Sequence[T]]:
        """What there is of each level of each head, head by head."""
        n_levels = len(self.levels)
        return [levels] if self.coarse is None else [levels[:n_levels], levels[n_levels:]]

    @property
    def n_dims(self) -> int:
        """Dimensions D of all levels together."""
        return sum(level.n_dims for level in self.levels)

    @property
    def n_steps(self) -> int:
        """Modelled cells of the coarsest level of each head, which are solved one after another."""
        return sum(head.n_coarse_cells for head in self.heads)

    @property
    def n_coarse_cells(self) -> int:
        """Modelled cells of the coarsest level."""
        return self.levels[0].n_cells if self.coarse_cells is None else len(self.coarse_cells)

    def descendants(self, level: int) -> int:
        """Cells of a level below each cell of the coarsest."""
        return self.levels[level].n_cells // self.levels[0].n_cells

    def n_cells(self, level: int) -> int:
        """Modelled cells of a level."""
        return self.n_coarse_cells * self.descendants(level)

    def context_dims(self, level: int) -> int:
        """Dimensions of a level's ancestors together."""
        return sum(above.n_dims for above in self.levels[:level])

    @property
    def n_entries(self) -> int:
        """Entries of all whitening rows, and multiply-adds of the distance of one image."""
        return sum(cells * dims * columns for cells, dims, columns in self.shapes)

    @property
    def n_features(self) -> int:
        """Features of one image: dimensions times cells over all levels of all heads."""
        return sum(cells * dims for cells, dims, _ in self.shapes)

    @cached_property
    def order(self) -> tuple[NDArray[np.int64], ...]:
        """For each level, the row-major cell at each place of the nested order."""
        if self.coarse_cells is None:
            nested = np.arange(self.levels[0].n_cells)
        else:
            nested = np.array(self.coarse_cells, np.int64)
        orders = [nested]
        for above, level in pairwise(self.levels):
            rows, columns = (
                fine // coarse for fine, coarse in zip(level.grid, above.grid, strict=True)
            )
            y, x = np.divmod(nested, above.grid[1])
            fine_y = (y * rows)[:, None, None] + np.arange(rows)[:, None]
            fine_x = (x * columns)[:, None, None] + np.arange(columns)
            nested = (fine_y * level.grid[1] + fine_x).reshape(-1)
            orders.append(nested)
        return tuple(orders)

    @cached_property
    def place(self) -> NDArray[np.int64]:
        """Where in the nested order each finest cell is; past the last if it is not modelled."""
        order = self.order[-1]
        place = np.full(self.levels[-1].n_cells, len(order))
        place[order] = np.arange(len(order))
        return place

    @staticmethod
    def add_up(levels: Sequence[Tensor]) -> Tensor:
        """Add what levels say of their cells, ``(cells, N)`` each, up at the finest, nested."""
        total = levels[0]
        for own in levels[1:]:
            siblings = own.view(total.shape[0], -1, own.shape[1])
            total = (siblings + total[:, None]).view(own.shape)
        return total

    def on_grid(self, values: Tensor, place: Tensor | None = None) -> Tensor:
        """Lay nested values ``(cells, N)`` of the finest cells out on their grid ``(N, h, w)``.

        It is 0 where a cell is not modelled. ``place`` is the attribute as a tensor, where at hand.
        """
        if place is None:
            place = torch.as_tensor(self.place, device=values.device)
        if values.shape[0] < self.levels[-1].n_cells:
            values = nn.functional.pad(values, (0, 0, 0, 1))
        return values[place].t().reshape(-1, *self.levels[-1].grid)

    def keep_modelled(self, embeddings: Sequence[Tensor]) -> list[Tensor]:
        """Keep the modelled ones of all cells, row by row and nested, ``(cells, N, d)``."""
        if self.coarse is not None:
            pairs = zip(self.heads, self.by_head(embeddings), strict=True)
            return [level for head, own in pairs for level in head.keep_modelled(own)]
        if self.coarse_cells is None:
            return list(embeddings)
        kept = torch.as_tensor(self.coarse_cells, device=embeddings[0].device)
        return [
            embedding.view(self.levels[0].n_cells, -1, *embedding.shape[1:])[kept].flatten(0, 1)
            for embedding in embeddings
        ]

    def to_json(self) -> list[dict[str, Any]]:
        """The levels as plain data."""
        return [
            {"grid": level.grid, "taps": level.taps, "channels": level.channels}
            for level in self.levels
        ]


class Splitter(nn.Module):
    """Takes the used channels of the feature maps of a pyramid, cell by cell."""

    def __init__(self, pyramid: Pyramid) -> None:
        super().__init__()
        self.pyramid = pyramid
        for i, (level, order) in enumerate(zip(pyramid.levels, pyramid.order, strict=True)):
            self.register_buffer(f"order_{i}", torch.from_numpy(order), persistent=False)
            for tap, channels in zip(level.taps, level.channels, strict=True):
                self.register_buffer(f"channels_{tap}", torch.tensor(channels), persistent=False)

    def forward(self, feature_maps: Sequence[Tensor]) -> list[Tensor]:
        """Take what is used of feature maps, one ``(N, C, h, w)`` per tap.

        It comes one per level, cells in nested order, ``(cells, N, d)``; in memory image by image.
        """
        embeddings = []
        for i, level in enumerate(self.pyramid.levels):
            parts = []
            for tap, channels in zip(level.taps, level.channels, strict=True):
                cells = feature_maps[tap].permute(0, 2, 3, 1).flatten(1, 2)  # (N, h w, C)
                if len(channels) < cells.shape[2]:
                    cells = cells.index_select(2, self.get_buffer(f"channels_{tap}"))
                parts.append(cells)
            joined = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
            nested_cells = joined.index_select(1, self.get_buffer(f"order_{i}"))
            embeddings.append(nested_cells.transpose(0, 1))
        return embeddings


def build_pyramid(
    spec: BackboneSpec,
    size_px: tuple[int, int],
    n_random_dims: int | None = None,
    seed: int = RANDOM_DIMS_SEED,
) -> Pyramid:
    """Group the taps of a backbone into levels.

    Args:
        spec: Facts of the backbone.
        size_px: (height, width) of what the network sees.
        n_random_dims: How many dimensions to draw at random from all, as PaDiM does with its
            ResNets; all of them when None.
        seed: Of the draw.

    Raises:
        UsageError: The size is no multiple of the coarsest stride, or there are not that many
            dimensions.

    Source:
        Defard et al. 2021 (PaDiM), section III-A; seed and draw of the published figures.
    """
    coarsest = max(spec.strides)
    if any(side % coarsest or side < coarsest for side in size_px):
        nearest = [max(coarsest, round(side / coarsest) * coarsest) for side in size_px]
        raise UsageError(
            f"The size is {size_px[0]}x{size_px[1]} px, but {spec.name} needs a multiple of "
            f"{coarsest} px for its grids to nest. Try {nearest[0]}x{nearest[1]}."
        )
    if n_random_dims is None or n_random_dims == spec.n_dims:
        drawn = list(range(spec.n_dims))
    elif 1 <= n_random_dims < spec.n_dims:
        drawn = sorted(random.Random(seed).sample(range(spec.n_dims), n_random_dims))
    else:
        raise UsageError(
            f"{n_random_dims} dims were asked for, but {spec.name} has between 1 and {spec.n_dims} "
            f"to choose from. Try {1 if n_random_dims < 1 else spec.n_dims}."
        )
    starts = np.cumsum((0, *spec.channels)).tolist()
    used = [
        tuple(dim - start for dim in drawn if start <= dim < stop)
        for start, stop in pairwise(starts)
    ]
    levels = []
    for stride in sorted(set(spec.strides), reverse=True):
        taps = tuple(i for i, s in enumerate(spec.strides) if s == stride and used[i])
        if taps:
            grid = size_px[0] // stride, size_px[1] // stride
            levels.append(Level(grid, taps, tuple(used[tap] for tap in taps)))
    return nest(levels)


def scale_px(size_px: tuple[int, int], scale: float, stride: int) -> tuple[int, int]:
    """(height, width) of a smaller copy, to the nearest multiple of a stride, and once at least."""
    height, width = (max(1, round(side * scale / stride)) * stride for side in size_px)
    return height, width


def nest(levels: Sequence[Level]) -> Pyramid:
    """Make a pyramid of levels, coarse to fine, each grid a whole multiple of the one before."""
    for above, level in pairwise(levels):
        if any(fine % coarse for fine, coarse in zip(level.grid, above.grid, strict=True)):
            raise UsageError(
                f"A grid of {level.grid[0]}x{level.grid[1]} cells does not nest in one of "
                f"{above.grid[0]}x{above.grid[1]}, but needs to. Choose taps whose strides divide "
                "each other."
            )
    return Pyramid(tuple(levels))
