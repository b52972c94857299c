import numpy as np
import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from padim.method.postprocess import image_score, resize_blur_matrix


def mapped(distance: oracle.Floats, size_px: tuple[int, int], sigma_px: float) -> oracle.Floats:
    rows = resize_blur_matrix(size_px[0], distance.shape[1], sigma_px)
    columns = resize_blur_matrix(size_px[1], distance.shape[2], sigma_px)
    return rows @ distance @ columns.T


def random_distance(grid: tuple[int, int], n: int = 2, seed: int = 0) -> oracle.Floats:
    return np.random.default_rng(seed).uniform(5, 50, (n, *grid))


@pytest.mark.parametrize("sigma_px", [0, 0.7, 4])
@pytest.mark.parametrize(
    ("grid", "size_px"),
    [
        ((56, 56), (224, 224)),
        ((64, 64), (256, 256)),
        ((6, 10), (96, 160)),
        ((40, 8), (160, 32)),
        ((1, 3), (16, 48)),
        ((7, 5), (7, 5)),
    ],
)
def test_two_matrices_equal_upsampling_and_blurring(
    grid: tuple[int, int], size_px: tuple[int, int], sigma_px: float
) -> None:
    distance = random_distance(grid)
    expected = oracle.anomaly_map(distance, size_px, sigma_px)
    np.testing.assert_allclose(mapped(distance, size_px, sigma_px), expected, rtol=1e-6)


@given(
    grid=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    factors=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    # A blur that is wider than the picture is mirrored more than once.
    sigma_px=st.sampled_from([0.0, 0.1, 0.7, 1.5, 4.0, 9.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_two_matrices_equal_upsampling_and_blurring_whatever_the_size(
    grid: tuple[int, int], factors: tuple[int, int], sigma_px: float, seed: int
) -> None:
    size_px = grid[0] * factors[0], grid[1] * factors[1]
    distance = random_distance(grid, seed=seed)
    expected = oracle.anomaly_map(distance, size_px, sigma_px)
    np.testing.assert_allclose(mapped(distance, size_px, sigma_px), expected, rtol=1e-6)


@given(n_in=st.integers(1, 20), factor=st.integers(1, 16), sigma_px=st.floats(0, 10))
def test_a_flat_grid_gives_a_flat_map(n_in: int, factor: int, sigma_px: float) -> None:
    matrix = resize_blur_matrix(n_in * factor, n_in, sigma_px)
    assert matrix.shape == (n_in * factor, n_in)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-12)


def test_a_mirrored_grid_gives_a_mirrored_map() -> None:
    matrix = resize_blur_matrix(40, 10, 4.0)
    np.testing.assert_allclose(matrix[::-1, ::-1], matrix, atol=1e-15)


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.0025, 0.01, 0.3, 1.0])
def test_image_score_is_the_mean_of_the_hottest_pixels(fraction: float) -> None:
    maps = np.random.default_rng(0).uniform(0, 9, (3, 20, 31))
    expected = oracle.image_score(maps, fraction)
    np.testing.assert_allclose(image_score(torch.from_numpy(maps), fraction), expected, rtol=1e-12)


def test_image_score_goes_from_maximum_to_mean() -> None:
    maps = torch.rand(4, 7, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(image_score(maps, 0.0), maps.amax(dim=(1, 2)))
    torch.testing.assert_close(image_score(maps, 1.0), maps.mean(dim=(1, 2)))


def test_image_score_of_ties_counts_each_pixel() -> None:
    maps = torch.ones(1, 10, 10)
    maps[0, 0, :4] = 3
    assert image_score(maps, 0.08).tolist() == [2.0]
