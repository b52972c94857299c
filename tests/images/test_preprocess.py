import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from padim.documents import Document
from padim.errors import PadimError, ShapeError
from padim.images.preprocess import Preprocess

HALF = (0.5, 0.5, 0.5)
REFERENCE = Preprocess((224, 224), 0.875, "lanczos", HALF, HALF)
STANDARD = Preprocess((256, 256), 1, "bilinear", HALF, HALF)
WIDE = Preprocess((96, 160), 1, "bilinear", HALF, HALF)

# Landscape, portrait, square, smaller than the network, just off, long.
SOURCES_PX = [(300, 300), (480, 640), (641, 333), (100, 80), (256, 256), (224, 224), (257, 1000)]
SOURCE_PX = st.tuples(st.integers(20, 400), st.integers(20, 400))


def noise(source_px: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*source_px, 3), dtype=np.uint8)


def reference(pixels: NDArray[np.uint8], mode: InterpolationMode) -> NDArray[np.uint8]:
    way = transforms.Compose([transforms.Resize(256, mode), transforms.CenterCrop(224)])
    return np.asarray(way(Image.fromarray(pixels)))


@pytest.mark.parametrize("source_px", SOURCES_PX)
def test_the_reference_geometry_is_torchvisions_to_the_bit(source_px: tuple[int, int]) -> None:
    pixels = noise(source_px)
    np.testing.assert_array_equal(REFERENCE(pixels), reference(pixels, InterpolationMode.LANCZOS))


@given(source_px=SOURCE_PX)
def test_the_reference_geometry_is_torchvisions_whatever_the_size(
    source_px: tuple[int, int],
) -> None:
    pixels = noise(source_px)
    np.testing.assert_array_equal(REFERENCE(pixels), reference(pixels, InterpolationMode.LANCZOS))


@pytest.mark.parametrize("size_px", [224, 320])
def test_another_size_keeps_the_share_that_is_cropped(size_px: int) -> None:
    preprocess = Preprocess((size_px, size_px), 0.875, "lanczos", HALF, HALF)
    way = transforms.Compose(
        [
            transforms.Resize(round(size_px / 0.875), InterpolationMode.LANCZOS),
            transforms.CenterCrop(size_px),
        ]
    )
    pixels = noise((480, 640))
    np.testing.assert_array_equal(preprocess(pixels), np.asarray(way(Image.fromarray(pixels))))


@pytest.mark.parametrize("preprocess", [STANDARD, WIDE])
@pytest.mark.parametrize("source_px", SOURCES_PX)
def test_the_whole_image_is_resized_as_torchvision_does(
    preprocess: Preprocess, source_px: tuple[int, int]
) -> None:
    pixels = noise(source_px)
    way = transforms.Resize(preprocess.size_px, InterpolationMode.BILINEAR)
    np.testing.assert_array_equal(preprocess(pixels), np.asarray(way(Image.fromarray(pixels))))


@pytest.mark.parametrize("source_px", SOURCES_PX)
def test_masks_go_the_same_way_by_nearest_neighbour(source_px: tuple[int, int]) -> None:
    mask = noise(source_px)[:, :, 0] > 128
    grey = mask.astype(np.uint8) * 255
    cropped = reference(grey, InterpolationMode.NEAREST) > 0
    resized = transforms.Resize((256, 256), InterpolationMode.NEAREST)(Image.fromarray(grey))
    np.testing.assert_array_equal(REFERENCE.mask(mask), cropped)
    np.testing.assert_array_equal(STANDARD.mask(mask), np.asarray(resized) > 0)


@pytest.mark.parametrize("preprocess", [REFERENCE, STANDARD, WIDE])
def test_the_result_can_be_written_to(preprocess: Preprocess) -> None:
    # torch takes no other array without a warning.
    assert preprocess(noise((50, 70))).flags.writeable
    assert preprocess(noise(preprocess.size_px)).flags.writeable


def test_the_image_that_came_is_not_the_one_that_goes() -> None:
    pixels = noise((256, 256))
    STANDARD(pixels)[:] = 0
    assert pixels.any()


@pytest.mark.parametrize("preprocess", [STANDARD, WIDE])
@given(source_px=SOURCE_PX)
def test_the_window_of_a_whole_image_is_the_image(
    preprocess: Preprocess, source_px: tuple[int, int]
) -> None:
    assert preprocess.window(source_px) == (0, 0, *source_px)


@given(source_px=SOURCE_PX)
def test_the_window_of_a_crop_is_the_middle_of_the_image(source_px: tuple[int, int]) -> None:
    top, left, height, width = REFERENCE.window(source_px)
    seen = 0.875 * min(source_px)
    assert height == pytest.approx(seen, abs=1.5)
    assert width == pytest.approx(seen, abs=1.5)
    assert top + height / 2 == pytest.approx(source_px[0] / 2, abs=1.5)
    assert left + width / 2 == pytest.approx(source_px[1] / 2, abs=1.5)
    assert 0 <= top < top + height <= source_px[0]
    assert 0 <= left < left + width <= source_px[1]


@pytest.mark.parametrize("source_px", SOURCES_PX)
def test_a_map_of_a_crop_is_unknown_outside_the_window(source_px: tuple[int, int]) -> None:
    source_map = REFERENCE.to_source(np.ones((224, 224), np.float32), source_px)
    top, left, height, width = REFERENCE.window(source_px)
    inside = np.zeros(source_px, bool)
    inside[top : top + height, left : left + width] = True
    assert source_map.shape == source_px
    assert source_map.dtype == np.float32
    assert (source_map[inside] == 1).all()
    assert np.isnan(source_map[~inside]).all()


@pytest.mark.parametrize("source_px", SOURCES_PX)
def test_a_map_of_a_whole_image_covers_it(source_px: tuple[int, int]) -> None:
    source_map = WIDE.to_source(np.ones((96, 160), np.float32), source_px)
    assert source_map.shape == source_px
    assert (source_map == 1).all()


@pytest.mark.parametrize("preprocess", [REFERENCE, STANDARD, WIDE])
@pytest.mark.parametrize("source_px", [(300, 300), (480, 640), (641, 333), (100, 80)])
@pytest.mark.parametrize("place", [(0.5, 0.5), (0.3, 0.6), (0.62, 0.41)])
def test_a_hot_pixel_goes_back_to_its_place(
    preprocess: Preprocess, source_px: tuple[int, int], place: tuple[float, float]
) -> None:
    # Within the middle square, which the crop sees as well.
    short = min(source_px)
    y, x = (
        round((side - short) / 2 + part * short)
        for side, part in zip(source_px, place, strict=True)
    )
    pixels = np.zeros((*source_px, 3), np.uint8)
    pixels[y - 2 : y + 3, x - 2 : x + 3] = 255

    source_map = preprocess.to_source(preprocess(pixels)[:, :, 0].astype(np.float32), source_px)

    weight = np.nan_to_num(source_map)
    rows, columns = np.indices(source_px)
    assert (weight * rows).sum() / weight.sum() == pytest.approx(y, abs=0.75)
    assert (weight * columns).sum() / weight.sum() == pytest.approx(x, abs=0.75)


@pytest.mark.parametrize("preprocess", [REFERENCE, STANDARD, WIDE])
@pytest.mark.parametrize("source_px", [(255, 255), (250, 180), (120, 240)])
@pytest.mark.parametrize("axis", [0, 1])
def test_every_pixel_goes_back_to_its_place(
    preprocess: Preprocess, source_px: tuple[int, int], axis: int
) -> None:
    coordinate = np.indices(source_px)[axis].astype(np.uint8)  # a grey of its own for each
    pixels = np.repeat(coordinate[:, :, None], 3, axis=2)
    source_map = preprocess.to_source(preprocess(pixels)[:, :, 0].astype(np.float32), source_px)
    # Grey is rounded to whole numbers, a window to whole pixels, and the border is blunted.
    assert np.nanmax(np.abs(source_map - coordinate)) <= 2.5
    assert np.nanmean(np.abs(source_map - coordinate)) <= 0.75


@pytest.mark.parametrize("preprocess", [REFERENCE, STANDARD, WIDE])
def test_the_contract_survives_json(preprocess: Preprocess) -> None:
    document = Document("it", PadimError, "")
    assert (
        document.restore(document.parse(json.dumps(preprocess.to_json())), Preprocess) == preprocess
    )


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8, 2), np.uint8),
        np.zeros((0, 8), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((2, 8, 8, 3), np.uint8),
    ],
)
def test_what_is_no_image_of_8_bits_is_refused(image: NDArray[np.uint8]) -> None:
    with pytest.raises(ShapeError, match=r"but needs \(height, width\), .* and uint8"):
        STANDARD(image)


def test_grey_and_alpha_are_brought_to_the_same_pixels_as_rgb() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    with_alpha = np.dstack((rgb, rgb[..., 0]))
    np.testing.assert_array_equal(STANDARD(with_alpha), STANDARD(rgb))
    grey = rgb[..., 0]
    expected = STANDARD(np.repeat(grey[..., None], 3, axis=2))
    for image in (grey, grey[..., None], Image.fromarray(grey)):
        np.testing.assert_array_equal(STANDARD(image), expected)


@pytest.mark.parametrize("source_px", [(1, 1), (1, 300), (300, 1), (2, 3)])
@pytest.mark.parametrize("preprocess", [REFERENCE, STANDARD, WIDE])
def test_the_smallest_images_go_there_and_back(
    preprocess: Preprocess, source_px: tuple[int, int]
) -> None:
    seen = preprocess(noise(source_px))
    assert seen.shape == (*preprocess.size_px, 3)
    assert preprocess.to_source(seen[:, :, 0].astype(np.float32), source_px).shape == source_px


def test_no_region_in_sight_is_lost() -> None:
    labels = np.zeros((900, 900), np.int32)
    labels[::90, ::90] = np.arange(1, 101).reshape(10, 10)
    labels[400:600, 405:445] = 200
    brought = STANDARD.labels(labels)
    assert set(np.unique(brought)) == {0, *labels[labels > 0].tolist()}
    assert (brought > 0).sum() < 110 + (STANDARD.mask(labels == 200)).sum()
    in_sight = labels[58:842, 58:842]  # 16 of 256 px are cut off on each side
    assert set(np.unique(REFERENCE.labels(labels))) >= set(np.unique(in_sight))
    assert 1 not in REFERENCE.labels(labels)


def test_regions_that_are_met_are_brought_as_a_mask_is() -> None:
    labels = np.zeros((300, 400), np.int32)
    labels[50:90, 30:300] = 1
    labels[150:250, 200:210] = 2
    for preprocess in (STANDARD, REFERENCE):
        np.testing.assert_array_equal(preprocess.labels(labels) > 0, preprocess.mask(labels > 0))
