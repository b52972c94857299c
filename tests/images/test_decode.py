import io
import os
import re
import struct
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from padim.errors import ImageReadError
from padim.images.decode import read_image, read_levels, turn_to_8_bit
from padim.images.masks import judge_levels, read_mask

MODES = {
    "PNG": ("RGB", "L", "P", "RGBA", "I;16"),
    "JPEG": ("RGB", "L", "CMYK"),
    "BMP": ("RGB", "L", "P", "RGBA"),
    "TIFF": ("RGB", "L", "P", "RGBA", "CMYK", "I;16", "F"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("RGB", "L", "P"),
    "PPM": ("RGB", "L"),
}


def gradient(height: int = 40, width: int = 56) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 5, columns * 4, (rows + columns) % 256], axis=2).astype(np.uint8)


def written(folder: Path, image: Image.Image, name: str, **options: object) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(turn_to_8_bit(image).convert("RGB"))


def refuses(path: Path, reason: str) -> None:
    expected = f"^{re.escape(str(path))} cannot be read as an image: .*{reason}.*\\.$"
    for read in (read_image, read_mask):
        with pytest.raises(ImageReadError, match=expected) as caught:
            read(path)
        assert caught.value.path == path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".jp2"])
def test_lossless_formats_come_back_exactly(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == ".webp" else {}
    path = written(tmp_path, Image.fromarray(gradient()), f"a{suffix}", **options)

    pixels = read_image(path)

    np.testing.assert_array_equal(pixels, gradient())
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    assert pixels.flags.c_contiguous


def test_jpeg_comes_back_nearly(tmp_path: Path) -> None:
    path = written(tmp_path, Image.fromarray(gradient()), "a.jpg", quality=98, subsampling=0)
    assert np.abs(read_image(path).astype(int) - gradient()).max() <= 6


def test_content_counts_not_suffix(tmp_path: Path) -> None:
    path = written(tmp_path, Image.fromarray(gradient()), "a.jpg", format="PNG")
    np.testing.assert_array_equal(read_image(path), gradient())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_png_modes_become_three_channels(tmp_path: Path, mode: str) -> None:
    source = Image.new("RGB", (5, 4), "white").convert(mode)
    pixels = read_image(written(tmp_path, source, "a.png"))
    np.testing.assert_array_equal(pixels, np.full((4, 5, 3), 255))


@pytest.mark.parametrize(
    "mode",
    ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV"],
)
def test_every_mode_of_a_grey_image_becomes_grey(mode: str) -> None:
    white = Image.new("L", (3, 2), 255)
    for step in {"La": ("LA", "La"), "RGBa": ("RGBA", "RGBa"), "PA": ("P", "PA")}.get(
        mode, ("RGB", mode)
    ):
        white = white.convert(step)
    assert white.mode == mode
    np.testing.assert_array_equal(_rgb(white), np.full((2, 3, 3), 255))


def test_lab_becomes_rgb(tmp_path: Path) -> None:
    colour = Image.new("RGB", (3, 2), (200, 60, 30))
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(colour, *profiles, outputMode="LAB")
    assert lab is not None
    pixels = read_image(written(tmp_path, lab, "a.tif"))
    assert np.abs(pixels.astype(int) - [200, 60, 30]).max() <= 4


def test_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    cmyk = Image.new("RGB", (16, 16), (200, 60, 30)).convert("CMYK")
    pixels = read_image(written(tmp_path, cmyk, "a.jpg", quality=98))
    assert np.abs(pixels.astype(int) - [200, 60, 30]).max() <= 4


@pytest.mark.parametrize("alpha", [0, 100, 255])
def test_alpha_is_dropped_and_colour_kept(tmp_path: Path, alpha: int) -> None:
    colour = Image.new("RGBA", (3, 2), (200, 60, 30, alpha))
    grey = Image.new("LA", (3, 2), (77, alpha))
    assert read_image(written(tmp_path, colour, "c.png"))[0, 0].tolist() == [200, 60, 30]
    assert read_image(written(tmp_path, grey, "g.png"))[0, 0].tolist() == [77, 77, 77]


@pytest.mark.parametrize("transparency", [1, b"\x00\x80\xff"])
def test_palette_with_transparency_is_read_without_a_warning(
    tmp_path: Path, transparency: int | bytes
) -> None:
    palette = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8)).convert("P")
    palette.putpalette([9, 8, 7, 200, 60, 30, 1, 2, 3])
    path = written(tmp_path, palette, "a.png", transparency=transparency)
    with Image.open(path) as stored:
        assert stored.info["transparency"] == transparency

    expected = [[[9, 8, 7], [200, 60, 30], [1, 2, 3]]]
    assert read_image(path).tolist() == expected
    with Image.open(path) as stored:
        assert _rgb(stored).tolist() == expected


def test_grey_with_a_transparent_value_keeps_its_colour(tmp_path: Path) -> None:
    path = written(tmp_path, Image.new("L", (2, 2), 60), "a.png", transparency=60)
    assert (read_image(path) == 60).all()


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I"])
def test_sixteen_bits_are_scaled_over_their_full_range(mode: str) -> None:
    dtype = {"I;16": "<u2", "I;16L": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
    values = np.arange(65536).reshape(256, 256)
    image = Image.frombytes(mode, (256, 256), values.astype(dtype).tobytes())

    expected = np.rint(values * (255 / 65535))
    np.testing.assert_array_equal(_rgb(image), np.repeat(expected[..., None], 3, axis=2))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_files_are_scaled(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 128, 129, 32768, 65535]], dtype=np.uint16)
    path = written(tmp_path, Image.fromarray(values), f"a{suffix}")
    assert read_image(path)[..., 1].tolist() == [[0, 0, 1, 128, 255]]
    assert read_mask(path).mask.tolist() == [[False, False, False, True, True]]


def test_big_endian_tiff_is_scaled(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tags = [(256, 2), (257, 1), (258, 16), (259, 1), (262, 1), (273, 122), (277, 1), (278, 1)]
    entries = b"".join(struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    entries += struct.pack(">HHII", 279, 4, 1, 4)
    header = b"MM\x00*" + struct.pack(">IH", 8, len(tags) + 1)
    path.write_bytes((header + entries + bytes(4)).ljust(122, b"\0") + b"\xff\xff\x01\x01")
    assert read_image(path)[..., 0].tolist() == [[255, 1]]


@pytest.mark.parametrize(("value", "name"), [(65536, "0 to 65536"), (-1, "-1 to 0")])
def test_integers_beyond_sixteen_bits_are_refused(tmp_path: Path, value: int, name: str) -> None:
    image = Image.fromarray(np.array([[0, value]], dtype=np.int32))
    path = written(tmp_path, image, "a.tif")
    with pytest.raises(ImageReadError, match=f"a.tif cannot .* go from {name}, .* 0 to 65535"):
        read_image(path)
    with pytest.raises(ImageReadError, match=f"The Pillow image cannot .* go from {name}"):
        _rgb(image)


def test_floats_are_refused_as_image_but_not_as_mask(tmp_path: Path) -> None:
    path = written(
        tmp_path, Image.fromarray(np.array([[0, 0.5, np.nan]], dtype=np.float32)), "a.tif"
    )
    with pytest.raises(ImageReadError, match=r"a\.tif cannot .* pixels are floats"):
        read_image(path)
    assert read_mask(path).mask.tolist() == [[False, True, False]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_exif_orientation_is_obeyed(tmp_path: Path, orientation: int, name: str) -> None:
    upright = gradient(6, 4)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = written(tmp_path, Image.fromarray(np.ascontiguousarray(stored)), name, exif=exif)

    np.testing.assert_array_equal(read_image(path), upright)
    expected = judge_levels(upright.max(axis=2)).mask
    np.testing.assert_array_equal(read_mask(path).mask, expected)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_exif_orientation_of_sixteen_bits_is_obeyed(mode: str) -> None:
    dtype = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
    image = Image.frombytes(mode, (2, 1), np.array([0, 65535]).astype(dtype).tobytes())
    image.getexif()[0x0112] = 6
    assert _rgb(image)[..., 0].tolist() == [[0], [255]]


def test_missing_file_is_named(tmp_path: Path) -> None:
    refuses(tmp_path / "absent.png", "it does not exist")


def test_empty_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.touch()
    refuses(path, "it is empty")


def test_folder_is_no_image(tmp_path: Path) -> None:
    refuses(tmp_path, "it is a folder")


@pytest.mark.parametrize(
    "content", [b"x", b"not an image at all" * 9, b"%!PS-Adobe-3.0 EPSF-3.0\n"]
)
def test_other_content_is_no_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    refuses(path, "no image of a known format")


@pytest.mark.parametrize("name", ["a.pcx", "a.ico", "a.eps"])
def test_formats_beyond_the_list_stay_closed(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, Image.fromarray(gradient()), name)
    refuses(path, "no image of a known format")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif", "a.webp"])
def test_truncated_file_is_cut_short(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = written(tmp_path, Image.fromarray(noise), name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    refuses(path, "damaged or cut short" if name != "a.webp" else "")


def test_denied_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, Image.fromarray(gradient()), "a.png")

    def deny(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", deny)  # root may read everything
    refuses(path, "permission is denied")


def test_unusable_name_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(ImageReadError, match="name too long"):
        read_image(tmp_path / ("a" * 300))
    with pytest.raises(ImageReadError, match="null"):
        read_image(tmp_path / "a\0b")


@pytest.mark.parametrize("limit", [30, 59])
@pytest.mark.parametrize("action", ["error", "ignore", "always"])
def test_decompression_bomb_is_refused_whatever_the_warning_filters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, action: str
) -> None:
    path = written(tmp_path, Image.new("L", (10, 6)), "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(action)  # type: ignore[arg-type]  # one of the words it takes
        refuses(path, f"more than {limit} pixels")
    assert not caught


@pytest.mark.parametrize("limit", [60, None])
def test_image_within_the_limit_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    path = written(tmp_path, Image.new("L", (10, 6)), "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert read_image(path).shape == (6, 10, 3)


@pytest.mark.parametrize(
    ("file_format", "mode"), [(name, mode) for name, modes in MODES.items() for mode in modes]
)
def test_damaged_files_give_an_image_or_an_image_read_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_format: str, mode: str
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {} if file_format in ("BMP", "GIF", "PPM") else {"exif": exif}
    stream = io.BytesIO()
    Image.fromarray(gradient()).convert(mode).save(stream, file_format, **options)
    intact = np.frombuffer(stream.getvalue(), dtype=np.uint8)
    generator = np.random.default_rng(20)
    n_read = n_refused = 0
    for round_number in range(60):
        damaged = intact.copy()
        # Headers are where the interesting damage is.
        reach = damaged.size if round_number % 2 else min(damaged.size, 150)
        for place in generator.integers(0, reach, generator.integers(0, 6)):
            damaged[place] = generator.integers(0, 256)
        if round_number % 3 == 0:
            damaged = damaged[: generator.integers(1, damaged.size)]
        path = tmp_path / f"{round_number}.png"
        path.write_bytes(damaged.tobytes())
        for read in (read_image, read_levels):
            try:
                n_read += read(path).size > 0
            except ImageReadError:
                n_refused += 1
    assert n_read
    assert n_refused


def test_pillow_prints_nothing_about_a_damaged_file(tmp_path: Path) -> None:
    path = written(tmp_path, Image.new("RGB", (4, 4)), "a.tif")
    content = path.read_bytes()
    samples_per_pixel = struct.pack("<HHIH", 277, 3, 1, 3)
    assert content.count(samples_per_pixel) == 1
    path.write_bytes(content.replace(samples_per_pixel, struct.pack("<HHIH", 277, 3, 1, 2048)))
    code = (
        "import sys, pathlib, padim.errors, padim.images.decode\n"
        "try: padim.images.decode.read_image(pathlib.Path(sys.argv[1]))\n"
        "except padim.errors.ImageReadError: print('refused')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("refused\n", "")


def test_readers_in_threads_mute_pillow_until_the_last_has_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = written(tmp_path, Image.new("L", (1, 1)), "first.png")
    second = written(tmp_path, Image.new("L", (2, 2)), "second.png")
    second_has_begun, first_has_finished = threading.Event(), threading.Event()
    shapes = []
    other = threading.Thread(target=lambda: shapes.append(read_image(second).shape))
    open_now = Image.open

    def open_in_turn(stream: BinaryIO, formats: tuple[str, ...]) -> Image.Image:
        if stream.name == str(first):
            other.start()
            assert second_has_begun.wait(10)
        else:
            second_has_begun.set()
            assert first_has_finished.wait(10)
            warnings.warn_explicit("odd", UserWarning, "PIL/Image.py", 1, module="PIL.Image")
        return open_now(stream, formats=formats)

    monkeypatch.setattr(Image, "open", open_in_turn)
    before = list(warnings.filters)
    shapes.append(read_image(first).shape)
    first_has_finished.set()
    other.join()
    assert shapes == [(1, 1, 3), (2, 2, 3)]
    assert list(warnings.filters) == before


def test_a_mask_is_read_from_any_colour_channel(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 4), dtype=np.uint8)
    pixels[..., 3] = [[0, 128, 255], [255, 255, 0]]
    pixels[0, 0, 0] = 255
    pixels[0, 1, 1] = 255
    pixels[1, 0, 2] = 255
    mask = read_mask(written(tmp_path, Image.fromarray(pixels), "a.png")).mask
    assert mask.dtype == np.bool_
    assert mask.tolist() == [[True, True, False], [True, False, False]]


def test_mask_of_a_palette_follows_the_palette(tmp_path: Path) -> None:
    palette = Image.fromarray(np.array([[0, 1, 2, 3]], dtype=np.uint8)).convert("P")
    palette.putpalette([255, 255, 255, 0, 0, 0, 128, 0, 0, 0, 0, 1])
    path = written(tmp_path, palette, "a.png", transparency=b"\x00\xff\x00\xff")
    assert read_mask(path).mask.tolist() == [[True, False, True, False]]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I"])
def test_mask_of_every_grey_mode_is_above_zero(tmp_path: Path, mode: str) -> None:
    source = Image.fromarray(np.array([[0, 255, 255, 0]], dtype=np.uint8)).convert(mode)
    path = written(tmp_path, source, "a.tif")
    assert read_mask(path).mask.tolist() == [[False, True, True, False]]
