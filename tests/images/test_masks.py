"""Masks as people have them: blurred, compressed, inverted, in alpha, photographed."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from padim.images.masks import MaskImage, judge_levels, read_mask

SIDE_PX = 96


def spots() -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX]
    disc = (rows - 30) ** 2 + (columns - 37) ** 2 < 15**2
    disc[60:80, 55:83] = True
    return np.asarray(disc)


def sharp() -> Image.Image:
    return Image.fromarray(spots().astype(np.uint8) * 255)


def overlap(found: NDArray[np.bool_]) -> float:
    return float((found & spots()).sum() / (found | spots()).sum())


def saved(tmp_path: Path, image: Image.Image, name: str = "a.png", **options: int) -> MaskImage:
    image.save(tmp_path / name, **options)
    return read_mask(tmp_path / name)


@pytest.mark.parametrize("levels", [(0, 1), (0, 255), (0, 128), (40, 41), (200, 255)])
def test_of_two_levels_the_higher_is_the_defect(levels: tuple[int, int]) -> None:
    found = judge_levels(np.where(spots(), *reversed(levels)).astype(np.uint8))
    np.testing.assert_array_equal(found.mask, spots())
    assert found.flaws == ()


def test_of_one_level_all_is_a_defect_unless_it_is_0() -> None:
    assert not judge_levels(np.zeros((4, 4), np.uint8)).mask.any()
    found = judge_levels(np.full((4, 4), 3, np.uint8))
    assert found.mask.all()
    assert found.flaws == ("covering-mask",)


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_a_compressed_mask_reads_as_the_sharp_one(tmp_path: Path, quality: int) -> None:
    found = saved(tmp_path, sharp(), "a.jpg", quality=quality)
    assert overlap(found.mask) > 0.98
    assert found.flaws == ("mask-levels",)


def test_blurred_and_scaled_masks_read_as_the_sharp_one(tmp_path: Path) -> None:
    blurred = saved(tmp_path, sharp().filter(ImageFilter.GaussianBlur(2)))
    assert overlap(blurred.mask) > 0.97
    size = (SIDE_PX * 2, SIDE_PX * 2)
    scaled = saved(tmp_path, sharp().resize(size, Image.Resampling.BILINEAR))
    assert overlap(scaled.mask[::2, ::2]) > 0.95
    assert blurred.flaws == scaled.flaws == ("mask-levels",)


@pytest.mark.parametrize("values", [(1, 2, 3), (1, 5, 31), (64, 128, 192), (1000, 1001, 2002)])
def test_every_class_of_a_map_is_a_defect(values: tuple[int, int, int]) -> None:
    levels = np.zeros((SIDE_PX, SIDE_PX), np.uint16)
    for i, value in enumerate(values):
        levels[20 * i + 5 : 20 * i + 12, 9:40] = value
    found = judge_levels(levels)
    np.testing.assert_array_equal(found.mask, levels > 0)
    assert found.flaws == ()


def test_a_map_of_floats_has_classes_as_well() -> None:
    levels = np.array([[0, 1, 2, np.nan]] * 4, np.float32)
    assert judge_levels(levels).mask[0].tolist() == [False, True, True, False]
    soft = np.array([[0, 0.2, 0.9, 1]] * 4, np.float32)
    assert judge_levels(soft).mask[0].tolist() == [False, False, True, True]


def test_an_inverted_mask_is_found_whatever_made_it(tmp_path: Path) -> None:
    inverted = Image.fromarray(255 - np.asarray(sharp()))
    assert saved(tmp_path, inverted).flaws == ("inverted-mask",)
    assert saved(tmp_path, inverted, "a.jpg").flaws == ("inverted-mask", "mask-levels")
    red = Image.fromarray(np.where(spots()[..., None], (200, 0, 0), (255, 255, 255)).astype("u1"))
    assert saved(tmp_path, red).flaws == ("inverted-mask",)
    palette = Image.fromarray(spots().astype(np.uint8)).convert("P")
    palette.putpalette([90, 90, 90, 10, 10, 10])
    assert saved(tmp_path, palette).flaws == ("inverted-mask",)


def test_a_colour_as_bright_as_its_background_marks_all(tmp_path: Path) -> None:
    red = Image.fromarray(np.where(spots()[..., None], (255, 0, 0), (255, 255, 255)).astype("u1"))
    assert saved(tmp_path, red).flaws == ("covering-mask",)


def test_alpha_is_read_where_the_colour_says_nothing(tmp_path: Path) -> None:
    layers = np.full((SIDE_PX, SIDE_PX, 4), 255, np.uint8)
    layers[..., 3] = spots() * 255
    found = saved(tmp_path, Image.fromarray(layers))
    np.testing.assert_array_equal(found.mask, spots())
    assert found.flaws == ("alpha-mask",)
    layers[..., :3], layers[..., 3] = spots()[..., None] * 255, 128
    layers[0, 0, 3] = 0
    found = saved(tmp_path, Image.fromarray(layers))
    np.testing.assert_array_equal(found.mask, spots())
    assert found.flaws == ()


def test_a_photographed_mask_is_grey(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    light = np.linspace(60, 180, SIDE_PX)[:, None] + np.where(spots(), 60, 0)
    photograph = (light + generator.normal(0, 6, light.shape)).clip(0, 255).astype(np.uint8)
    assert "grey-mask" in saved(tmp_path, Image.fromarray(photograph), "a.jpg").flaws


def test_a_mask_of_more_than_half_is_doubtful_and_one_of_half_is_not() -> None:
    levels = np.zeros((10, 10), np.uint8)
    levels[:5] = 255
    assert judge_levels(levels).flaws == ()
    levels[5, 0] = 255
    assert judge_levels(levels).flaws == ("covering-mask",)
