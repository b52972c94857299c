import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from padim.errors import ShapeError
from padim.images.regions import Region, label_regions, peak_region

MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=14))


def spiral(side: int) -> NDArray[np.bool_]:
    mask = np.zeros((side, side), dtype=np.bool_)
    y, x, dy, dx = 0, 0, 0, 1
    for n_steps in [side, *(n for n in range(side - 1, 0, -2) for _ in (0, 1))]:
        for _ in range(n_steps):
            mask[y, x] = True
            y, x = y + dy, x + dx
        y, x = y - dy, x - dx
        dy, dx = dx, -dy
        y, x = y + dy, x + dx
    return mask


def assert_equals_scipy(mask: NDArray[np.bool_]) -> None:
    expected, n_expected = ndimage.label(mask, np.ones((3, 3)))
    labels, n_labels = label_regions(mask)
    assert n_labels == n_expected
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, expected)


@given(mask=MASKS)
def test_labels_equal_scipy(mask: NDArray[np.bool_]) -> None:
    assert_equals_scipy(mask)


@given(
    density=st.floats(0.05, 0.95),
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    seed=st.integers(0, 2**32 - 1),
)
def test_labels_of_noise_equal_scipy(density: float, shape: tuple[int, int], seed: int) -> None:
    assert_equals_scipy(np.random.default_rng(seed).random(shape) < density)


@pytest.mark.parametrize("turns", range(4))
def test_spiral_is_one_region(turns: int) -> None:
    mask = np.rot90(spiral(101), turns)
    assert mask.mean() < 0.6
    assert label_regions(mask)[1] == 1
    assert_equals_scipy(mask)
    assert_equals_scipy(~mask)


@pytest.mark.parametrize("flip", [1, -1])
def test_comb_is_one_region(flip: int) -> None:
    mask = np.zeros((40, 201), dtype=np.bool_)
    mask[:, ::2] = True
    mask[-1] = True
    assert label_regions(mask[::flip])[1] == 1
    assert_equals_scipy(mask[::flip])


def test_corners_connect_but_edges_of_the_mask_do_not() -> None:
    mask = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=np.bool_)
    labels, n_labels = label_regions(mask)
    assert labels.tolist() == [[1, 0, 0, 2], [0, 1, 0, 0], [0, 0, 0, 3]]
    assert n_labels == 3


def test_empty_and_full_masks_have_no_and_one_region() -> None:
    assert label_regions(np.zeros((3, 4), dtype=np.bool_))[1] == 0
    labels, n_labels = label_regions(np.ones((3, 4), dtype=np.bool_))
    assert n_labels == 1
    assert (labels == 1).all()


def test_mask_without_two_axes_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"mask has shape \(2, 3, 4\), but needs two axes"):
        label_regions(np.zeros((2, 3, 4), dtype=np.bool_))


def test_a_megapixel_of_noise_is_labelled_within_a_second() -> None:
    mask = np.random.default_rng(0).random((1000, 1000)) < 0.4
    start = time.perf_counter()
    label_regions(mask)
    assert time.perf_counter() - start < 1


def test_peak_region_is_the_hot_part_with_the_peak() -> None:
    anomaly_map = np.zeros((10, 20), dtype=np.float32)
    anomaly_map[2:4, 5:9] = 3
    anomaly_map[4, 9] = 5  # touches the part above by a corner
    anomaly_map[8, 1:4] = 4
    assert peak_region(anomaly_map, 12 / 200)[0] == Region(
        x=5, y=2, width=5, height=3, area_px=9, peak_x=9, peak_y=4
    )
    assert peak_region(anomaly_map, 1 / 200)[0] == Region(9, 4, 1, 1, 1, 9, 4)


@given(
    anomaly_map=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
        elements=st.sampled_from([0, 0.5, 1, 2, 3, np.inf, np.nan]),
    ).filter(lambda values: not np.isnan(values).all()),
    fraction=st.floats(0.001, 1),
)
def test_peak_region_equals_its_definition(
    anomaly_map: NDArray[np.float32], fraction: float
) -> None:
    values = sorted((v for v in anomaly_map.ravel().tolist() if v == v), reverse=True)
    n_hot = max(1, round(fraction * len(values)))
    labels, _ = ndimage.label(anomaly_map >= values[n_hot - 1], np.ones((3, 3)))
    peak_y, peak_x = next(
        place for place in np.ndindex(anomaly_map.shape) if anomaly_map[place] == values[0]
    )
    part = labels == labels[peak_y, peak_x]
    rows, columns = ndimage.find_objects(part.astype(int))[0]

    assert peak_region(anomaly_map, fraction)[0] == Region(
        x=columns.start,
        y=rows.start,
        width=columns.stop - columns.start,
        height=rows.stop - rows.start,
        area_px=int(part.sum()),
        peak_x=peak_x,
        peak_y=peak_y,
    )


@pytest.mark.parametrize(("fraction", "n_hot"), [(0.01, 1), (0.24, 2), (0.26, 3), (1, 10)])
def test_share_of_hot_pixels_is_rounded(fraction: float, n_hot: int) -> None:
    anomaly_map = np.arange(10, dtype=np.float32)[np.newaxis]
    assert peak_region(anomaly_map, fraction)[0].area_px == n_hot


def test_constant_map_is_one_region_with_its_peak_at_the_first_pixel() -> None:
    anomaly_map = np.full((3, 4), 7, dtype=np.float32)
    anomaly_map[0, 0] = np.nan
    assert peak_region(anomaly_map)[0] == Region(0, 0, 4, 3, 11, 1, 0)


def test_peak_region_leaves_its_map_alone() -> None:
    anomaly_map = np.random.default_rng(0).random((9, 9)).astype(np.float32)
    before = anomaly_map.copy()
    peak_region(anomaly_map)
    np.testing.assert_array_equal(anomaly_map, before)


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ((0, 0, 10, 20), Region(4, 2, 6, 3, 12, 5, 4)),  # as it is
        ((0, 0, 20, 40), Region(8, 4, 12, 6, 48, 11, 9)),  # twice as large
        ((3, 7, 10, 20), Region(11, 5, 6, 3, 12, 12, 7)),  # a centre crop
        ((0, 0, 5, 10), Region(2, 1, 3, 2, 3, 2, 2)),  # half as large: the box covers it
        ((0, 0, 1, 1), Region(0, 0, 1, 1, 1, 0, 0)),
    ],
)
def test_a_region_is_placed_in_its_source(
    window: tuple[int, int, int, int], expected: Region
) -> None:
    region = Region(x=4, y=2, width=6, height=3, area_px=12, peak_x=5, peak_y=4)
    assert region.in_source((10, 20), window) == expected
