"""Feature maps as nested levels of cells: the coarse grid first, nothing upsampled."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from padim.backbones import BackboneSpec
from padim.errors import UsageError

RANDOM_DIMS_SEED = 1024  # the seed of the published PaDiM figures


@dataclass(frozen=True)
class Level:
    """The taps that share one grid.

    Attributes:
        grid: (h, w) cells.
        taps: Positions of its feature maps among those that the trunk returns.
        channels: For each of them, the channels that are used, ascending.
    """

    grid: tuple[int, int]
    taps: tuple[int, ...]
    channels: tuple[tuple[int, ...], ...]

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
    """

    levels: tuple[Level, ...]

    @property
    def n_dims(self) -> int:
        """Dimensions D of all levels together."""
        return sum(level.n_dims for level in self.levels)

    def context_dims(self, level: int) -> int:
        """Dimensions of a level's ancestors together."""
        return sum(above.n_dims for above in self.levels[:level])

    @property
    def n_entries(self) -> int:
        """Entries of all whitening rows, and multiply-adds of the distance of one image."""
        return sum(
            level.n_cells * level.n_dims * (self.context_dims(i) + level.n_dims)
            for i, level in enumerate(self.levels)
        )

    @property
    def n_features(self) -> int:
        """Features of one image: dimensions times cells over all levels."""
        return sum(level.n_cells * level.n_dims for level in self.levels)

    @cached_property
    def order(self) -> tuple[NDArray[np.int64], ...]:
        """For each level, the row-major cell at each place of the nested order."""
        h, w = self.levels[0].grid
        nested = np.arange(h * w)
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

    def split(self, feature_maps: Sequence[Tensor]) -> list[Tensor]:
        """Take the used channels of each level, cells in nested order.

        Args:
            feature_maps: One per tap, shape ``(N, C, h, w)``.

        Returns:
            One per level, shape ``(cells, N, d)``; in memory image by image.
        """
        embeddings = []
        for level, order in zip(self.levels, self.order, strict=True):
            parts = []
            for tap, channels in zip(level.taps, level.channels, strict=True):
                cells = feature_maps[tap].permute(0, 2, 3, 1).flatten(1, 2)  # (N, h w, C)
                if len(channels) < cells.shape[2]:
                    cells = cells.index_select(2, torch.as_tensor(channels, device=cells.device))
                parts.append(cells)
            joined = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
            nested_cells = joined.index_select(1, torch.as_tensor(order, device=joined.device))
            embeddings.append(nested_cells.transpose(0, 1))
        return embeddings

    def to_json(self) -> list[dict[str, Any]]:
        """The levels as plain data."""
        return [
            {"grid": level.grid, "taps": level.taps, "channels": level.channels}
            for level in self.levels
        ]

    @classmethod
    def from_json(cls, data: list[dict[str, Any]]) -> "Pyramid":
        """The levels from plain data."""
        return cls(
            tuple(
                Level(tuple(d["grid"]), tuple(d["taps"]), tuple(map(tuple, d["channels"])))
                for d in data
            )
        )


def build_pyramid(
    spec: BackboneSpec, size_px: tuple[int, int], n_random_dims: int | None = None
) -> Pyramid:
    """Group the taps of a backbone into levels.

    Args:
        spec: Facts of the backbone.
        size_px: (height, width) of what the network sees.
        n_random_dims: How many dimensions to draw at random from all, as PaDiM does with its
            ResNets; all of them when None.

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
        drawn = sorted(random.Random(RANDOM_DIMS_SEED).sample(range(spec.n_dims), n_random_dims))
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
    return nested(levels)


def nested(levels: Sequence[Level]) -> Pyramid:
    """Make a pyramid of levels, coarse to fine.

    Raises:
        UsageError: A grid is no whole multiple of the one before.
    """
    for above, level in pairwise(levels):
        if any(fine % coarse for fine, coarse in zip(level.grid, above.grid, strict=True)):
            raise UsageError(
                f"A grid of {level.grid[0]}x{level.grid[1]} cells does not nest in one of "
                f"{above.grid[0]}x{above.grid[1]}, but needs to. Choose taps whose strides divide "
                "each other."
            )
    return Pyramid(tuple(levels))
