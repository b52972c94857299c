from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from padim.backbones import backbone
from padim.errors import UsageError
from padim.method.pyramid import Level, Pyramid, Splitter, build_pyramid, nest, scale_px

PAIRS = st.tuples(st.integers(1, 4), st.integers(1, 4))


@st.composite
def pyramids(draw: st.DrawFn) -> Pyramid:
    h, w = draw(PAIRS)
    levels = []
    for tap in range(draw(st.integers(1, 3))):
        if levels:
            rows, columns = draw(PAIRS)
            h, w = h * rows, w * columns
        levels.append(Level((h, w), (tap,), ((0, 1),)))
    return nest(levels)


@given(pyramid=pyramids())
def test_nested_order_is_a_permutation(pyramid: Pyramid) -> None:
    for level, order in zip(pyramid.levels, pyramid.order, strict=True):
        assert sorted(order) == list(range(level.n_cells))


@given(pyramid=pyramids())
def test_descendants_of_a_cell_are_neighbours(pyramid: Pyramid) -> None:
    for (above, order_above), (level, order) in pairwise(
        zip(pyramid.levels, pyramid.order, strict=True)
    ):
        siblings = level.n_cells // above.n_cells
        for place, cell in enumerate(order):
            y, x = divmod(int(cell), level.grid[1])
            parent = (
                y * above.grid[0] // level.grid[0] * above.grid[1]
                + x * above.grid[1] // level.grid[1]
            )
            assert order_above[place // siblings] == parent


@given(pyramid=pyramids())
def test_siblings_stand_row_by_row(pyramid: Pyramid) -> None:
    for above, (level, order) in zip(
        pyramid.levels, list(zip(pyramid.levels, pyramid.order, strict=True))[1:], strict=False
    ):
        groups = order.reshape(above.n_cells, -1)
        assert (np.diff(groups, axis=1) > 0).all()
        assert level.n_cells == groups.size


def test_the_order_of_a_small_pyramid_is_the_one_drawn_on_paper() -> None:
    pyramid = nest([Level((1, 2), (1,), ((0,),)), Level((2, 4), (0,), ((0,),))])
    # 0 1 | 2 3
    # 4 5 | 6 7
    assert [order.tolist() for order in pyramid.order] == [[0, 1], [0, 1, 4, 5, 2, 3, 6, 7]]


def test_split_takes_the_used_channels_of_each_cell() -> None:
    pyramid = nest([Level((1, 2), (1, 2), ((0, 2), (1,))), Level((2, 4), (0,), ((0, 1),))])
    generator = torch.Generator().manual_seed(0)
    maps = [
        torch.randn(3, c, *grid, generator=generator)
        for c, grid in ((2, (2, 4)), (3, (1, 2)), (2, (1, 2)))
    ]
    coarse, fine = Splitter(pyramid)(maps)
    assert coarse.shape == (2, 3, 3)
    assert fine.shape == (8, 3, 2)
    for place, cell in enumerate(pyramid.order[0]):
        y, x = divmod(int(cell), 2)
        expected = torch.stack([maps[1][:, 0, y, x], maps[1][:, 2, y, x], maps[2][:, 1, y, x]], 1)
        assert torch.equal(coarse[place], expected)
    for place, cell in enumerate(pyramid.order[1]):
        y, x = divmod(int(cell), 4)
        assert torch.equal(fine[place], maps[0][:, :, y, x])


def test_entries_are_counted_as_the_rows_that_are_stored() -> None:
    pyramid = nest([Level((1, 2), (1,), ((0, 1, 2),)), Level((2, 4), (0,), ((0, 1),))])
    assert pyramid.n_entries == 2 * 3 * 3 + 8 * 2 * (3 + 2)
    assert pyramid.n_features == 2 * 3 + 8 * 2
    assert (pyramid.n_dims, pyramid.context_dims(0), pyramid.context_dims(1)) == (5, 0, 3)


def test_taps_of_one_grid_form_a_level() -> None:
    pyramid = build_pyramid(backbone("efficientnet_b7_ns"), (64, 96))
    assert [(level.grid, level.taps, level.n_dims) for level in pyramid.levels] == [
        ((4, 6), (1, 2), 384),
        ((16, 24), (0,), 48),
    ]


def test_random_dims_are_the_same_every_time_and_ascending() -> None:
    spec = backbone("resnet18")
    pyramid = build_pyramid(spec, (64, 64), 100)
    assert pyramid == build_pyramid(spec, (64, 64), 100)
    assert pyramid.n_dims == 100
    for level in pyramid.levels:
        for channels in level.channels:
            assert list(channels) == sorted(set(channels))


def test_a_level_of_which_no_dim_was_drawn_is_left_out() -> None:
    pyramid = build_pyramid(backbone("efficientnet_lite0"), (64, 64), 1)
    assert len(pyramid.levels) == 1
    assert pyramid.n_dims == 1


def test_as_many_random_dims_as_there_are_is_all_of_them() -> None:
    spec = backbone("efficientnet_lite0")
    assert build_pyramid(spec, (64, 64), 176) == build_pyramid(spec, (64, 64))


@pytest.mark.parametrize("grid", [(3, 4), (4, 3), (1, 4)])
def test_a_grid_that_does_not_nest_is_refused(grid: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match=rf"{grid[0]}x{grid[1]} cells does not nest in one of 2x2"):
        nest([Level((2, 2), (1,), ((0,),)), Level(grid, (0,), ((0,),))])


@pytest.mark.parametrize(
    ("size_px", "nearest"),
    [
        ((100, 100), "96x96"),
        ((224, 230), "224x224"),
        ((8, 64), "16x64"),
        ((0, 64), "16x64"),
        ((250, 250), "256x256"),
    ],
)
def test_a_size_that_is_no_multiple_is_refused_with_the_nearest(
    size_px: tuple[int, int], nearest: str
) -> None:
    with pytest.raises(UsageError, match=rf"multiple of 16 px .*Try {nearest}\."):
        build_pyramid(backbone("efficientnet_lite0"), size_px)


@pytest.mark.parametrize(("n_dims", "nearest"), [(0, 1), (-3, 1), (177, 176), (1000, 176)])
def test_more_dims_than_there_are_is_refused(n_dims: int, nearest: int) -> None:
    with pytest.raises(UsageError, match=rf"{n_dims} dims were asked for.*Try {nearest}\."):
        build_pyramid(backbone("efficientnet_lite0"), (64, 64), n_dims)


def test_the_rows_of_the_coarse_head_are_counted() -> None:
    levels = (Level((1, 2), (1,), ((0, 1, 2),)), Level((2, 4), (0,), ((0, 1),)))
    coarse = Pyramid((Level((1, 1), (1,), ((0, 1, 2),)),))
    pyramid = Pyramid(levels, coarse_cells=(1,), coarse=coarse)
    assert pyramid.shapes == [(1, 3, 3), (4, 2, 5), (1, 3, 3)]
    assert pyramid.n_entries == 9 + 40 + 9
    assert pyramid.n_steps == 2
    assert pyramid.by_head("abc") == ["ab", "c"]


@pytest.mark.parametrize(
    ("scale", "expected"),
    [(0.625, (160, 320)), (0.6, (160, 304)), (0.01, (16, 16)), (1, (256, 512))],
)
def test_a_copy_is_of_whole_cells(scale: float, expected: tuple[int, int]) -> None:
    assert scale_px((256, 512), scale, 16) == expected
