from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from padim.errors import DatasetError, MemoryLimitError, UsageError
from padim.fitting.looks import grouped
from padim.method.leave_one_out import LeaveOneOut
from padim.method.moments import Moments
from padim.method.pyramid import Level, Pyramid, nest
from padim.model import scorer as model_scorer
from padim.scoring.calibration import LEAVE_ONE_OUT

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
    found = torch.cat([leave_one_out(part) for part in parts])
    np.testing.assert_allclose(found.numpy(), refitted(pyramid, features, eps), rtol=1e-5)


@pytest.mark.parametrize("n", [2, 5, 12])
def test_the_calibration_of_a_fit_is_that_of_refits(n: int) -> None:
    images = list(oracle.random_images(n, (64, 64)))
    fitter = oracle.small_fitter(eps=0.01, eps_rule="absolute", store="float32")
    state = fitter.fit(images).state
    assert state.calibration is not None
    assert state.calibration.source == LEAVE_ONE_OUT
    refits = []
    for i, image in enumerate(images):
        other = fitter.fit(images[:i] + images[i + 1 :]).state
        scorer = model_scorer.scorer_of(other, fitter.features)
        with torch.inference_mode():
            refits.append(float(scorer(torch.from_numpy(image[None])).image_score))
    np.testing.assert_allclose(state.calibration.image_score, sorted(refits), rtol=1e-4)
    assert state.calibration.pixel_count.sum() == n * 64 * 64


def test_features_that_do_not_fit_are_computed_again() -> None:
    images = list(oracle.random_images(7, (64, 64)))
    fitter = oracle.small_fitter()
    kept = fitter.fit(images).state.calibration
    again = replace(fitter, kept_feature_bytes=0).fit(images).state.calibration
    assert kept is not None
    assert again is not None
    np.testing.assert_array_equal(kept.image_score, again.image_score)
    np.testing.assert_array_equal(kept.pixel_count, again.pixel_count)


def test_images_that_change_between_two_looks_are_refused() -> None:
    class Changing(list[np.ndarray]):
        def __iter__(self) -> Iterator[np.ndarray]:
            yield from list.copy(self)
            self.reverse()

    images = Changing(oracle.random_images(5, (64, 64)))
    with pytest.raises(DatasetError, match="have changed while the fit looked at them"):
        replace(oracle.small_fitter(), kept_feature_bytes=0).fit(images)


def test_a_limit_of_memory_keeps_fewer_features() -> None:
    fitter = oracle.small_fitter()
    peak = fitter.forecast((0, 0), 100).peak_bytes
    assert fitter.within(peak, 100, (0, 0)) is fitter
    less = fitter.within(peak - 1_000_000, 100, (0, 0))
    assert less.forecast((0, 0), 100).peak_bytes == pytest.approx(peak - 1_000_000, abs=500_000)
    with pytest.raises(MemoryLimitError):
        fitter.within(1000, 100, (0, 0)).forecast((0, 0), 100).check(1000)


def test_an_iterator_can_be_looked_at_once_only() -> None:
    images = oracle.random_images(3, (64, 64))
    with pytest.raises(UsageError, match="takes a second look"):
        oracle.small_fitter().fit(iter(images))
    assert oracle.small_fitter(calibrate=False).fit(iter(images)).state.calibration is None


def test_one_image_cannot_calibrate() -> None:
    assert oracle.small_fitter().fit(oracle.random_images(1, (64, 64))).state.calibration is None


def test_small_batches_are_joined_in_order() -> None:
    batches = [[torch.full((2, n, 3), float(i))] for i, n in enumerate((20, 20, 1))]
    joined = list(grouped(batches))
    assert [level[0].shape[1] for level in joined] == [40, 1]
    assert joined[0][0][0, :, 0].tolist() == [0.0] * 20 + [1.0] * 20
