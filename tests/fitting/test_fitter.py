from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch

import padim
from padim.errors import DatasetError, UsageError
from padim.model import scorer as model_scorer
from padim.scoring.calibration import LEAVE_ONE_OUT


@pytest.mark.parametrize("n", [2, 5, 12])
def test_the_calibration_of_a_fit_is_that_of_refits(n: int) -> None:
    images = list(oracle.random_images(n, (64, 64)))
    fitter = oracle.small_fitter(eps=0.01, eps_rule="absolute", store="float32")
    state = fitter.fit(images).state
    assert state.calibration is not None
    assert state.calibration.source == LEAVE_ONE_OUT
    refits, levels = [], []
    for i, image in enumerate(images):
        other = fitter.fit(images[:i] + images[i + 1 :]).state
        scorer = model_scorer.scorer_of(other, fitter.features)
        with torch.inference_mode():
            _, score, by_level = scorer(torch.from_numpy(image[None]))
        refits.append(float(score))
        levels.append(by_level[0].tolist())
    np.testing.assert_allclose(state.calibration.image_score, sorted(refits), rtol=1e-4)
    assert state.calibration.pixel_count.sum() == n * 64 * 64
    assert state.calibration.reference is not None
    expected = np.array(levels)[np.argsort(refits)]
    np.testing.assert_allclose(state.calibration.reference.level_scores, expected, rtol=1e-4)


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


def test_an_iterator_can_be_looked_at_once_only() -> None:
    images = oracle.random_images(3, (64, 64))
    with pytest.raises(UsageError, match="takes a second look"):
        oracle.small_fitter().fit(iter(images))
    assert oracle.small_fitter(calibrate=False).fit(iter(images)).state.calibration is None


def test_a_fit_takes_other_taps(tmp_path: Path) -> None:
    images = list(oracle.random_images(3, (64, 64)))
    padim.fit(
        images, size_px=(64, 64), taps=(1, 3), dims="all", engine="torch", coarse_scale=0
    ).save(tmp_path / "m.safetensors")
    model = padim.load(tmp_path / "m.safetensors")
    assert isinstance(model, padim.PaDiM)
    spec = model.state.encoder.spec
    assert (spec.taps, spec.channels, spec.strides) == ((1, 3), (24, 80), (4, 16))
    assert [mean.shape for mean in model.state.mean] == [(16, 80), (256, 24)]
    assert np.isfinite(model.predict(images[0]).score)


def test_one_image_cannot_calibrate() -> None:
    assert oracle.small_fitter().fit(oracle.random_images(1, (64, 64))).state.calibration is None
