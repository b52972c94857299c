"""What a picture says of its camera, against formulas written out and shifts that are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from padim.images.camera import CameraFacts, MeanImage, Snapshot

_RNG = np.random.default_rng(0)
_SCENE = 128 + 1500 * ndimage.gaussian_filter(_RNG.normal(size=(400, 400)), 6)


def picture(
    down: float = 0, right: float = 0, size_px: tuple[int, int] = (256, 256)
) -> NDArray[np.uint8]:
    """A part of a scene, in which all is moved, with noise."""
    moved = ndimage.shift(_SCENE, (down, right), order=1)
    cut = moved[40 : 40 + size_px[0], 40 : 40 + size_px[1]]
    grey = cut + _RNG.normal(size=cut.shape) * 5
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


@given(
    height=st.sampled_from([1, 2, 3, 16, 32, 64, 95]),
    width=st.sampled_from([1, 2, 3, 16, 32, 64, 95]),
    seed=st.integers(0, 1000),
)
def test_facts_of_a_small_picture_are_those_of_all_its_pixels(
    height: int, width: int, seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    snapshot = Snapshot.of(pixels)
    rows, columns = max(1, height // 2), max(1, width // 2)
    cells = np.zeros((rows, columns))
    for i in range(rows):
        for j in range(columns):
            cells[i, j] = pixels[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean()
    assert snapshot.facts.grey == pytest.approx(cells.mean())
    assert snapshot.facts.contrast == pytest.approx(cells.std(), abs=1e-6)
    np.testing.assert_array_equal(snapshot.small, np.floor(cells + 0.5))
    green = pixels[..., 1].astype(np.float64)
    laplacian = [
        green[i - 1, j] + green[i + 1, j] + green[i, j - 1] + green[i, j + 1] - 4 * green[i, j]
        for i in range(1, height - 1, 4)
        for j in range(1, width - 1)
    ]
    expected = np.var(laplacian) if laplacian else 0.0
    assert snapshot.facts.sharpness == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("size_px", [(256, 256), (224, 320), (96, 96)])
@pytest.mark.parametrize("moved", [(0, 0), (3, 0), (0, -5), (4, 6), (-1, 1.5)])
def test_a_shift_is_found_to_a_pixel(size_px: tuple[int, int], moved: tuple[float, float]) -> None:
    mean_image = MeanImage(Snapshot.of(picture(size_px=size_px)).small)
    found = Snapshot.of(picture(*moved, size_px=size_px)).compare(mean_image).shift_px
    assert found == pytest.approx(np.hypot(*moved), abs=1)


def test_blur_and_light_show_in_their_own_facts() -> None:
    sharp = picture()
    blurred = ndimage.gaussian_filter(sharp.astype(float), (1, 1, 0)).astype(np.uint8)
    before, after = Snapshot.of(sharp).facts, Snapshot.of(blurred).facts
    assert after.sharpness < before.sharpness / 2
    assert after.grey == pytest.approx(before.grey, abs=1)
    brighter = Snapshot.of((sharp * 0.8 + 20).astype(np.uint8)).facts
    assert brighter.contrast == pytest.approx(0.8 * before.contrast, rel=0.02)


def test_each_image_is_compared_with_the_mean_of_the_others() -> None:
    snapshots = [Snapshot.of(picture(i, 0)) for i in (0, 0, 0, 6)]
    smalls = np.stack([one.small for one in snapshots]).astype(np.float64)
    found = MeanImage.compare_each(snapshots)
    for i, one in enumerate(snapshots):
        others = np.floor(np.delete(smalls, i, axis=0).mean(axis=0) + 0.5).astype(np.uint8)
        assert found[i] == one.compare(MeanImage(others))
    mean = MeanImage.of(snapshots)
    assert mean is not None
    np.testing.assert_array_equal(mean.small, np.floor(smalls.mean(axis=0) + 0.5))
    np.testing.assert_array_equal(MeanImage.from_png(mean.to_png()).small, mean.small)


def test_there_is_no_shift_without_a_mean_image_of_that_size() -> None:
    snapshot = Snapshot.of(picture())
    assert snapshot.compare(None).shift_px is None
    assert snapshot.compare(MeanImage(np.zeros((9, 9), np.uint8))).shift_px is None
    assert MeanImage.of([]) is None
    assert MeanImage.compare_each([snapshot]) == [snapshot.facts]
    flat = np.full((64, 64, 3), 9, np.uint8)
    same = Snapshot.of(flat).compare(MeanImage(Snapshot.of(flat).small))
    assert same == CameraFacts(grey=9, contrast=0, sharpness=0, shift_px=0)


def test_a_mean_image_of_another_kind_is_refused() -> None:
    for wrong in (np.zeros((4, 4)), np.zeros((4, 4, 3), np.uint8), np.zeros((2000, 4), np.uint8)):
        with pytest.raises(ValueError, match="mean image"):
            MeanImage(wrong)
