from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from padim.method.leave_one_out import _LOOK_BYTES, LeaveOneOut
from padim.method.moments import Moments
from padim.method.pyramid import Level, Pyramid, nest

DIMS = (3, 4)


def two_levels() -> Pyramid:
    return nest([Level((1, 2), (1,), (tuple(range(3)),)), Level((2, 4), (0,), (tuple(range(4)),))])


def refitted(pyramid: Pyramid, features: list[Tensor], eps: tuple[float, float]) -> np.ndarray:
    """Distances of each image to a dense Gaussian of all the others, location by location."""
    coarse, fine = (f.double().numpy() for f in features)  # (cells, n, d)
    n = coarse.shape[1]
    result = np.empty((n, 2, 4))
    ridge = np.repeat(eps, DIMS)
    for cell, place in enumerate(pyramid.order[1]):
        joined = np.concatenate((coarse[cell // 4], fine[cell]), axis=1)
        for i in range(n):
            others = np.delete(joined, i, axis=0)
            delta = joined[i] - others.mean(axis=0)
            covariance = np.diag(ridge)
            if n > 2:
                covariance = covariance + np.cov(others, rowvar=False)
            squared = delta @ np.linalg.solve(covariance, delta)
            result[i].reshape(-1)[place] = np.sqrt(squared)
    return result


@given(n=st.integers(2, 20), n_same=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
def test_distances_equal_those_of_refits(n: int, n_same: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pyramid = two_levels()
    features = [
        5 + torch.randn(level.n_cells, n, level.n_dims, generator=generator)
        for level in pyramid.levels
    ]
    for level in features:  # duplicates among the images
        level[:, : min(n_same, n - 1)] = level[:, :1].clone()
    eps = (0.02, 0.01)
    leave_one_out = LeaveOneOut(Moments.of(features), eps, pyramid)
    parts = zip(*(level.split(3, 1) for level in features), strict=True)
    found = torch.cat([leave_one_out(part)[0] for part in parts])
    np.testing.assert_allclose(found.numpy(), refitted(pyramid, features, eps), rtol=1e-5)


@given(n=st.integers(2, 9), seed=st.integers(0, 2**32 - 1))
def test_the_scatter_gives_its_memory_or_stays_as_it_is(n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pyramid = replace(two_levels(), coarse=Pyramid((Level((1, 3), (2,), ((0, 1),)),)))
    features = [torch.randn(c, n, d, generator=generator) for c, d, _ in pyramid.shapes]
    moments, eps = Moments.of(features, n_levels=2), (0.02, 0.01, 0.03)
    before = [block.clone() for blocks in moments.scatter for block in blocks]
    expected = LeaveOneOut(moments, eps, pyramid)(features)
    for block, same in zip(sum(moments.scatter, ()), before, strict=True):
        assert torch.equal(block, same)
    memory = [block.data_ptr() for blocks in moments.scatter for block in blocks]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(_LOOK_BYTES, "cpu", 1)
        in_place = LeaveOneOut(moments, eps, pyramid, in_place=True)
        for found, one in zip(in_place(features), expected, strict=True):
            torch.testing.assert_close(found, one, rtol=1e-12, atol=0)
    assert [block.data_ptr() for blocks in in_place.rows for block in blocks] == memory
