import math

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from padim.errors import UsageError
from padim.method import gaussian
from padim.method.gaussian import factor, relative_eps
from padim.method.head import Head
from padim.method.moments import Moments
from padim.method.pyramid import Level, Pyramid, Splitter, nest


def pyramid_of(grid: tuple[int, int], ratios: list[tuple[int, int]], dims: list[int]) -> Pyramid:
    """Levels of one tap each; the tap number says its place among fine-to-coarse feature maps."""
    h, w = grid
    levels = []
    for place, (d, (rows, columns)) in enumerate(zip(dims, [(1, 1), *ratios], strict=True)):
        h, w = h * rows, w * columns
        levels.append(Level((h, w), (len(dims) - 1 - place,), (tuple(range(d)),)))
    return nest(levels)


@st.composite
def pyramids(draw: st.DrawFn) -> Pyramid:
    n_levels = draw(st.integers(1, 3))
    pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
    return pyramid_of(
        draw(pairs),
        [draw(pairs) for _ in range(n_levels - 1)],
        [draw(st.integers(1, 4)) for _ in range(n_levels)],
    )


SEEDS = st.integers(0, 2**32 - 1)
EPS = st.lists(st.sampled_from([1e-3, 0.01, 0.5, 3.0]), min_size=3, max_size=3)
PYRAMID = pyramid_of((1, 2), [(2, 3), (2, 1)], [3, 2, 4])


def feature_maps(pyramid: Pyramid, n: int, seed: int, start: float = 0.0) -> list[oracle.Floats]:
    """Correlated features, fine to coarse, one (n, d, h, w) per tap."""
    generator = np.random.default_rng(seed)
    maps = []
    for level in reversed(pyramid.levels):
        mix = generator.standard_normal((level.n_dims, level.n_dims))
        noise = generator.standard_normal((n, level.n_dims, *level.grid))
        shared = generator.standard_normal((n, 1, 1, 1))
        maps.append(start + np.einsum("ij,njhw->nihw", mix, noise) + shared)
    return maps


def moments_of(pyramid: Pyramid, maps: list[oracle.Floats]) -> Moments:
    return Moments.of(Splitter(pyramid)([torch.from_numpy(m) for m in maps]))


def dof_of(moments: Moments) -> int:
    return max(moments.count - 1, 1)


def eps_per_dim(pyramid: Pyramid, eps: list[float]) -> NDArray[np.float64]:
    """One eps per level, coarse to fine, for the dimensions in tap order, fine to coarse."""
    pairs = zip(pyramid.levels, eps, strict=False)
    return np.concatenate([np.full(level.n_dims, e) for level, e in reversed(list(pairs))])


def hierarchical(
    pyramid: Pyramid, train: list[oracle.Floats], test: list[oracle.Floats], eps: list[float]
) -> oracle.Floats:
    moments = moments_of(pyramid, train)
    rows = factor(moments, eps[: len(pyramid.levels)], dof_of(moments))
    head = Head(pyramid, moments.mean, rows, torch.float64)
    distance: oracle.Floats = head(Splitter(pyramid)([torch.from_numpy(m) for m in test])).numpy()
    return distance


@given(pyramid=pyramids(), n=st.integers(1, 12), eps=EPS, seed=SEEDS)
def test_distances_equal_the_dense_inverse(
    pyramid: Pyramid, n: int, eps: list[float], seed: int
) -> None:
    train, test = feature_maps(pyramid, n, seed), feature_maps(pyramid, 3, seed + 1)
    expected = oracle.distances(
        oracle.embeddings(train), oracle.embeddings(test), eps_per_dim(pyramid, eps)
    )
    np.testing.assert_allclose(hierarchical(pyramid, train, test, eps), expected, rtol=1e-8)


@given(pyramid=pyramids(), n=st.integers(1, 12), eps=EPS, seed=SEEDS)
def test_rows_of_a_cell_and_its_ancestors_are_the_dense_whitening(
    pyramid: Pyramid, n: int, eps: list[float], seed: int
) -> None:
    maps = feature_maps(pyramid, n, seed)
    moments = moments_of(pyramid, maps)
    rows = [r.numpy() for r in factor(moments, eps[: len(pyramid.levels)], dof_of(moments))]
    # Coarse to fine, as the hierarchy orders the dimensions.
    dense = oracle.embeddings(maps[::-1])
    ridge = eps_per_dim(pyramid, eps)
    ridge = np.concatenate(np.split(ridge, np.cumsum([m.shape[1] for m in maps])[:-1])[::-1])
    width = pyramid.levels[-1].grid[1]
    for place, cell in enumerate(pyramid.order[-1]):
        y, x = divmod(int(cell), width)
        covariance = np.zeros((pyramid.n_dims, pyramid.n_dims))
        if n > 1:
            covariance += np.cov(dense[:, :, y, x], rowvar=False)
        expected = np.linalg.inv(np.linalg.cholesky(covariance + np.diag(ridge)))
        assembled = np.zeros_like(expected)
        start = 0
        for level_rows in rows:
            own = level_rows[place * len(level_rows) // pyramid.levels[-1].n_cells]
            assembled[start : start + own.shape[0], : own.shape[1]] = own
            start += own.shape[0]
        np.testing.assert_allclose(assembled, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_fewer_images_than_dimensions_equal_the_dense_inverse(n: int) -> None:
    assert n < PYRAMID.n_dims
    eps = [0.01, 0.01, 0.01]
    train, test = feature_maps(PYRAMID, n, 0), feature_maps(PYRAMID, 2, 1)
    expected = oracle.distances(oracle.embeddings(train), oracle.embeddings(test), 0.01)
    np.testing.assert_allclose(hierarchical(PYRAMID, train, test, eps), expected, rtol=1e-10)


def test_of_one_image_the_distance_is_euclidean() -> None:
    train, test = feature_maps(PYRAMID, 1, 0), feature_maps(PYRAMID, 2, 1)
    delta = oracle.embeddings(test) - oracle.embeddings(train)
    expected = np.sqrt((delta**2).sum(axis=1) / 0.25)
    np.testing.assert_allclose(hierarchical(PYRAMID, train, test, [0.25] * 3), expected, rtol=1e-12)


@pytest.mark.parametrize("constant", [-3.0, 1e3, 1e6])
def test_a_constant_added_to_all_features_changes_no_distance(constant: float) -> None:
    eps = [0.01, 0.02, 0.03]
    train, test = feature_maps(PYRAMID, 15, 0), feature_maps(PYRAMID, 2, 1)
    before = hierarchical(PYRAMID, train, test, eps)
    after = hierarchical(PYRAMID, [m + constant for m in train], [m + constant for m in test], eps)
    np.testing.assert_allclose(after, before, rtol=1e-7)


def test_features_and_eps_scaled_alike_change_no_distance() -> None:
    train, test = feature_maps(PYRAMID, 15, 0), feature_maps(PYRAMID, 2, 1)
    before = hierarchical(PYRAMID, train, test, [0.01, 0.02, 0.03])
    scaled = ([m * 8 for m in train], [m * 8 for m in test])
    after = hierarchical(PYRAMID, *scaled, [0.64, 1.28, 1.92])
    np.testing.assert_allclose(after, before, rtol=1e-9)


def test_the_order_of_the_images_changes_no_distance() -> None:
    train, test = feature_maps(PYRAMID, 15, 0), feature_maps(PYRAMID, 2, 1)
    before = hierarchical(PYRAMID, train, test, [0.01] * 3)
    order = np.random.default_rng(0).permutation(15)
    after = hierarchical(PYRAMID, [m[order] for m in train], test, [0.01] * 3)
    np.testing.assert_allclose(after, before, rtol=1e-9)


def test_blocks_of_cells_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pyramid = pyramid_of((3, 3), [(2, 2), (1, 3)], [3, 2, 4])
    moments = moments_of(pyramid, feature_maps(pyramid, 10, 0))
    whole = factor(moments, [0.01] * 3, 9)
    monkeypatch.setattr(gaussian, "BLOCK_BYTES", 1)
    for one, other in zip(factor(moments, [0.01] * 3, 9), whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_factoring_leaves_the_moments_as_they_were() -> None:
    moments = moments_of(PYRAMID, feature_maps(PYRAMID, 5, 0))
    before = [block.clone() for rows in moments.scatter for block in rows]
    factor(moments, [0.01] * 3, 1)  # divided by one, a scatter could be its own covariance
    after = [block for rows in moments.scatter for block in rows]
    assert all(map(torch.equal, before, after))


def test_degrees_of_freedom_scale_the_scatter() -> None:
    moments = moments_of(PYRAMID, feature_maps(PYRAMID, 10, 0))
    rows = factor(moments, [0.01] * 3, 4)
    doubled = Moments(
        10, moments.mean, tuple(tuple(2 * block for block in r) for r in moments.scatter)
    )
    for one, other in zip(rows, factor(doubled, [0.01] * 3, 8), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_rows_come_in_the_type_asked_for(dtype: torch.dtype) -> None:
    moments = moments_of(PYRAMID, feature_maps(PYRAMID, 10, 0))
    rows = factor(moments, [0.01] * 3, 9, dtype)
    assert {row.dtype for row in rows} == {dtype}
    for row, exact in zip(rows, factor(moments, [0.01] * 3, 9), strict=True):
        assert torch.equal(row, exact.to(dtype))


def test_relative_eps_is_a_fraction_of_the_mean_variance_of_each_level() -> None:
    maps = feature_maps(PYRAMID, 10, 0)
    expected = [0.01 * m.var(axis=0, ddof=1).mean() for m in reversed(maps)]
    assert relative_eps(moments_of(PYRAMID, maps), 0.01) == pytest.approx(expected, rel=1e-12)


def test_relative_eps_of_dead_channels_is_the_floor() -> None:
    maps = [np.full_like(m, 3.0) for m in feature_maps(PYRAMID, 10, 0)]
    assert relative_eps(moments_of(PYRAMID, maps), 0.01) == [1e-4] * 3


def test_relative_eps_of_one_image_is_the_floor() -> None:
    assert relative_eps(moments_of(PYRAMID, feature_maps(PYRAMID, 1, 0)), 0.01) == [1e-4] * 3


def test_a_singular_covariance_is_refused() -> None:
    moments = moments_of(PYRAMID, feature_maps(PYRAMID, 1, 0))
    with pytest.raises(UsageError, match=r"eps is 0, but a covariance stays singular.*Try 0\.01"):
        factor(moments, [0.0] * 3, 1)


def test_rows_that_overflow_float16_are_refused() -> None:
    moments = moments_of(PYRAMID, feature_maps(PYRAMID, 1, 0))
    with pytest.raises(UsageError, match=r"more to fit float16\. Raise --eps, or use --store"):
        factor(moments, [1e-10] * 3, 1, torch.float16)
    assert all(map(all_finite, factor(moments, [1e-10] * 3, 1, torch.float32)))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_no_numbers_are_refused(bad: float) -> None:
    maps = feature_maps(PYRAMID, 5, 0)
    maps[0][0, 0, 0, 0] = bad
    with pytest.raises(UsageError, match="eps"):
        factor(moments_of(PYRAMID, maps), [0.01] * 3, 4)


def all_finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())
