"""The parts of a picture that the network sees one at a time, and the cells each answers for."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from padim.errors import UsageError
from padim.method.pyramid import Level, Pyramid, scale_px
from padim.recipes import Recipe

_MOST_TILES = 4096

Span = tuple[slice, slice]  # what a part sees along one axis, and what of it it answers for


@dataclass(frozen=True)
class Tile:
    """A part of a picture, in pixels at network size."""

    top: int
    left: int
    pyramid: Pyramid  # the cells of its own grids that it answers for


@dataclass(frozen=True)
class Tiling:
    """Parts of one size that together answer for every modelled cell once."""

    window_px: tuple[int, int]  # (height, width) of each part
    tiles: tuple[Tile, ...]  # row by row
    pyramid: Pyramid  # the modelled cells of the whole picture, part by part

    @classmethod
    def whole(cls, pyramid: Pyramid, size_px: tuple[int, int]) -> "Tiling":
        """One part: the whole picture of a size, all cells of which are modelled."""
        coarse = pyramid.coarse and replace(pyramid.coarse, coarse_cells=None)
        pyramid = replace(pyramid, coarse_cells=None, coarse=coarse)
        return cls(size_px, (Tile(0, 0, pyramid),), pyramid)

    @property
    def is_trivial(self) -> bool:
        """Whether there is one part: the whole picture, every cell of which is modelled."""
        return self.pyramid.coarse_cells is None

    @property
    def coarse_px(self) -> tuple[int, int] | None:
        """(height, width) of the copy of a part that its coarse head sees; None without one."""
        pyramid = self.tiles[0].pyramid
        if pyramid.coarse is None:
            return None
        sides = zip(
            self.window_px, pyramid.levels[0].grid, pyramid.coarse.levels[0].grid, strict=True
        )
        height, width = (side // fine * coarse for side, fine, coarse in sides)
        return height, width

    @property
    def largest(self) -> Pyramid:
        """The cells of the part that answers for most."""
        return max((tile.pyramid for tile in self.tiles), key=lambda p: p.n_coarse_cells)

    def spans(self) -> Iterator[tuple[Tile, list[slice]]]:
        """Each part, and where its cells are among the modelled ones of each level."""
        starts = [0] * len(self.pyramid.shapes)
        for tile in self.tiles:
            counts = [cells for cells, _, _ in tile.pyramid.shapes]
            stops = [start + n for start, n in zip(starts, counts, strict=True)]
            yield tile, [slice(*ends) for ends in zip(starts, stops, strict=True)]
            starts = stops

    def crop(self, images: Tensor, tile: Tile) -> Tensor:
        """What a part shows of images ``(N, H, W, 3)``."""
        height, width = self.window_px
        return images[:, tile.top : tile.top + height, tile.left : tile.left + width]


def plan_tiles(
    pyramid: Pyramid,
    recipe: Recipe,
    find_cells: Callable[[tuple[int, int]], NDArray[np.bool_]] | None,
) -> Tiling:
    """Cut a picture into the parts that the network is to see.

    Neighbours overlap, and each cell is answered for by the part that sees most around it. Without
    tiles there is one part: the whole, or what a region of interest needs.

    ``find_cells`` says which cells of a grid are to be looked at; all are when it is None. A tile
    or an overlap that cannot be is a `UsageError`.
    """
    pyramid = replace(pyramid, coarse_cells=None, coarse=None)
    grid = pyramid.levels[0].grid
    stride = recipe.size_px[0] // grid[0]
    wanted = np.ones(grid, np.bool_) if find_cells is None else find_cells(grid)
    if find_cells is None and recipe.tile_px is None:
        return Tiling.whole(_with_coarse(pyramid, recipe, stride), recipe.size_px)
    overlap = _in_cells(recipe.tile_overlap_px, stride, "overlap of tiles", least=0)
    if recipe.tile_px is None:
        spans = [[_around(np.asarray(wanted.any(axis=1 - axis)), overlap // 2)] for axis in (0, 1)]
        sides = tuple(axis[0][0].stop - axis[0][0].start for axis in spans)
    else:
        side = _in_cells(recipe.tile_px, stride, "tile", least=2 * overlap or 1)
        if overlap >= side:
            raise UsageError(
                f"Tiles of {recipe.tile_px} px cannot overlap by {recipe.tile_overlap_px} px. "
                f"Set tile_overlap_px to {recipe.tile_px // 4 // stride * stride}, say."
            )
        sides = tuple(min(side, n) for n in grid)
        spans = [_cut_axis(n, side, overlap) for n, side in zip(grid, sides, strict=True)]
        if (n_tiles := len(spans[0]) * len(spans[1])) > _MOST_TILES:
            raise UsageError(
                f"There would be {n_tiles} tiles, but may be {_MOST_TILES}. Take larger ones, or "
                "let them overlap less."
            )
    if sides == grid and wanted.all():
        return Tiling.whole(_with_coarse(pyramid, recipe, stride), recipe.size_px)
    number = np.arange(grid[0] * grid[1]).reshape(grid)
    levels = tuple(_resize(level, grid, (sides[0], sides[1])) for level in pyramid.levels)
    tiles, cells = [], []
    for rows, own_rows in spans[0]:
        for columns, own_columns in spans[1]:
            own = np.zeros_like(wanted)
            own[own_rows, own_columns] = wanted[own_rows, own_columns]
            inside = own[rows, columns]
            if inside.any():
                coarse_cells = tuple(np.flatnonzero(inside).tolist())
                origin = rows.start * stride, columns.start * stride
                part = _with_coarse(Pyramid(levels, coarse_cells), recipe, stride, inside)
                tiles.append(Tile(*origin, part))
                cells += number[own].tolist()
    window_px = sides[0] * stride, sides[1] * stride
    return Tiling(window_px, tuple(tiles), _join(pyramid, cells, tiles))


def _with_coarse(
    pyramid: Pyramid, recipe: Recipe, stride: int, inside: NDArray[np.bool_] | None = None
) -> Pyramid:
    """Give a part the coarse head of a recipe, at the cells that see what is ``inside``."""
    if not recipe.coarse_scale:
        return pyramid
    last = pyramid.levels[0]
    window_px = last.grid[0] * stride, last.grid[1] * stride
    height, width = scale_px(window_px, recipe.coarse_scale, stride)
    grid = height // stride, width // stride
    level = Level(grid, last.taps[-1:], last.channels[-1:])
    cells = None
    if inside is not None:
        rows, columns = (
            [slice(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]
            for n, m in zip(last.grid, grid, strict=True)
        )
        seen = [inside[row, column].any() for row in rows for column in columns]
        cells = tuple(np.flatnonzero(seen).tolist())
    return replace(pyramid, coarse=Pyramid((level,), cells))


def _join(pyramid: Pyramid, cells: Sequence[int], tiles: Sequence[Tile]) -> Pyramid:
    """The modelled cells of all parts; those of their coarse heads side by side."""
    coarse = tiles[0].pyramid.coarse
    if coarse is not None and len(tiles) > 1:
        n_cells = sum(tile.pyramid.heads[1].n_coarse_cells for tile in tiles)
        coarse = Pyramid((replace(coarse.levels[0], grid=(1, n_cells)),))
    return replace(pyramid, coarse_cells=tuple(cells), coarse=coarse)


def _cut_axis(n_cells: int, side: int, overlap: int) -> list[Span]:
    """Parts along one axis, evenly spread, that meet in the middle of their overlaps."""
    n_parts = 1 if side == n_cells else 1 + -(-(n_cells - side) // (side - overlap))
    starts = [i * (n_cells - side) // max(n_parts - 1, 1) for i in range(n_parts)]
    borders = [(b + a + side) // 2 for a, b in itertools.pairwise(starts)]
    edges = [0, *borders, n_cells]
    return [
        (slice(start, start + side), slice(*own))
        for start, own in zip(starts, itertools.pairwise(edges), strict=True)
    ]


def _around(wanted: NDArray[np.bool_], margin: int) -> Span:
    inside = np.flatnonzero(wanted)
    first, last = int(inside[0]), int(inside[-1])
    return (
        slice(max(0, first - margin), min(len(wanted), last + 1 + margin)),
        slice(first, last + 1),
    )


def _resize(level: Level, grid: tuple[int, int], sides: Sequence[int]) -> Level:
    """A level of a picture whose coarsest grid is of another size."""
    rows, columns = (fine // coarse for fine, coarse in zip(level.grid, grid, strict=True))
    return replace(level, grid=(sides[0] * rows, sides[1] * columns))


def _in_cells(side_px: int, stride: int, what: str, least: int) -> int:
    if side_px % stride or side_px < min(least, 1) * stride:
        nearest = max(least, side_px // stride) * stride
        raise UsageError(
            f"The {what} is {side_px} px, but needs to be a multiple of {stride} px. Try {nearest}."
        )
    return side_px // stride
