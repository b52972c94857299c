import io
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from numpy.typing import NDArray
from PIL import Image

from padim.errors import ImageReadError
from padim.images.decode import decode, decode_with_depth, read_image, read_levels
from padim.images.reading import Reading

tifffile = pytest.importorskip("tifffile", reason="writes what is read here")
pytest.importorskip("imagecodecs", reason="compresses it")


def slopes(dtype: str, n_channels: int, white: int) -> NDArray[Any]:
    """Slopes from 0 to white, ``(40, 56, n_channels)``."""
    rows, columns = np.mgrid[:40, :56]
    slope = (columns * 4 + rows * 3) % 256 / 255
    channels = [np.roll(slope, 7 * k, axis=1) for k in range(n_channels)]
    return (np.stack(channels, axis=2) * white).round().astype(dtype)


def written(values: NDArray[Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, metadata=None, **options)
    return stream.getvalue()


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(
    "compression",
    [
        *(None, "lzw", "adobe_deflate", "packbits"),
        pytest.param(
            "zstd",
            marks=pytest.mark.skipif(
                int(PIL.__version__.split(".")[0]) < 12, reason="Pillow's wheels read none before"
            ),
        ),
    ],
)
def test_kinds_that_pillow_misreads_are_read_rightly(
    compression: str | None, byteorder: str
) -> None:
    for n_bits, photometric, planes, tile in product(
        (8, 16), ("minisblack", "miniswhite", "rgb"), ("contig", "separate"), (None, (16, 16))
    ):
        white = 2**n_bits - 1
        stored = slopes(f"u{n_bits // 8}", 3 if photometric == "rgb" else 1, white)
        expected = stored / white * 255
        if photometric == "miniswhite":
            expected = 255 - expected
        laid = np.moveaxis(stored, 2, 0) if planes == "separate" else stored
        content = written(
            np.ascontiguousarray(laid) if photometric == "rgb" else stored[..., 0],
            photometric=photometric,
            planarconfig=planes if photometric == "rgb" else None,
            compression=compression,
            byteorder=byteorder,
            tile=tile,
        )

        found = np.asarray(decode(content).convert("RGB")).astype(float)

        # Of colour in 16 bits Pillow keeps the upper 8.
        assert np.abs(found - expected).max() <= 1, (n_bits, photometric, planes, tile)


@pytest.mark.parametrize("dtype", ["i1", "i2"])
def test_signed_numbers_are_read_as_they_are_or_refused(dtype: str) -> None:
    values = np.array([[0, 5, 127]], dtype)
    levels = [[0, 5, 127]] if dtype == "i1" else [[0, 0, 0]]
    assert np.asarray(decode(written(values))).tolist() == levels
    with pytest.raises(ImageReadError, match="its pixels go from -3 to 127, but grey needs"):
        decode(written(np.array([[0, -3, 127]], dtype)))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_floats_of_any_size_are_called_floats_and_make_masks(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(written(np.array([[0, 0.5, 2]], dtype)))
    with pytest.raises(ImageReadError, match="its pixels are floats"):
        read_image(path)
    assert (read_levels(path) > 0).tolist() == [[False, True, True]]


def test_masks_of_16_bits_where_0_is_white(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(written(np.array([[65535, 65534, 0]], "u2"), photometric="miniswhite"))
    assert read_levels(path).tolist() == [[0, 1, 65535]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_what_pillow_does_not_read(orientation: int) -> None:
    stored = slopes("u2", 3, 65535)
    options: dict[str, Any] = {"extratags": [(274, "H", 1, orientation, True)]}
    planes = written(
        np.ascontiguousarray(np.moveaxis(stored, 2, 0)),
        photometric="rgb",
        planarconfig="separate",
        **options,
    )
    as_pillow_does = decode(written((stored >> 8).astype("u1"), photometric="rgb", **options))
    found, depth = decode_with_depth(planes)
    assert found.size == as_pillow_does.size
    assert np.abs(np.asarray(found, float) - np.asarray(as_pillow_does)).max() <= 1
    assert depth.kind == "16-bit colour"


@pytest.mark.parametrize("tag", [256, 257])  # width and height
def test_a_tiff_without_a_pixel_is_refused(tag: int) -> None:
    content = bytearray(written(np.zeros((4, 6), "u1")))
    at = content.index(tag.to_bytes(2, "little"))
    content[at + 8 : at + 12] = bytes(4)
    with pytest.raises(ImageReadError, match="it has no pixel"):
        decode(bytes(content))


def test_what_a_reader_cannot_know_is_refused() -> None:
    with pytest.raises(ImageReadError, match="of a kind that is not read"):
        decode(written(np.zeros((8, 9, 5), "u2"), photometric="separated"))


@pytest.mark.parametrize("kind", ["f8", "planes"])
def test_without_the_extra_a_sentence_names_it(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.zeros((3, 8, 9), "u2")
    content = written(values, photometric="rgb", planarconfig="separate")
    for name in ("tifffile", "imagecodecs"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    if kind == "planes":
        with pytest.raises(ImageReadError, match=r"needs tifffile; .*padim-efficientnet\[tiff\]"):
            decode(content)
    else:
        with pytest.raises(ImageReadError, match="its pixels are floats"):
            decode(_FLOAT_64)


_FLOAT_64 = written(np.zeros((2, 3), "f8"))


def frames(name: str) -> bytes:
    pictures = [Image.new("RGB", (8, 6), colour) for colour in ("white", "black", "red")]
    stream = io.BytesIO()
    pictures[0].save(stream, name, save_all=True, append_images=pictures[1:])
    return stream.getvalue()


@pytest.mark.parametrize("name", ["GIF", "TIFF", "PNG", "WEBP"])
def test_of_several_pages_one_must_be_chosen(name: str) -> None:
    content = frames(name)
    with pytest.raises(
        ImageReadError, match="several pages or frames; fit with --page to choose one"
    ):
        decode(content)
    levels = [decode(content, Reading(page=page)).getpixel((0, 0)) for page in (1, 2, 3)]
    red = levels.pop()
    assert isinstance(red, tuple)
    assert red[0] > 250 > 5 > red[1]
    assert [np.mean(level) for level in levels] == [255, 0]  # type: ignore[arg-type]  # a pixel
    with pytest.raises(ImageReadError, match="it has no page 4; fit with another --page"):
        decode(content, Reading(page=4))


@pytest.mark.parametrize("name", ["BMP", "PNG", "JPEG"])
def test_a_single_page_is_page_one(name: str) -> None:
    stream = io.BytesIO()
    Image.new("L", (4, 3), 9).save(stream, name)
    assert decode(stream.getvalue(), Reading(page=1)).getpixel((0, 0)) == 9
    with pytest.raises(ImageReadError, match="no page 2"):
        decode(stream.getvalue(), Reading(page=2))


@pytest.mark.parametrize("dtype", ["u1", "u2", "f8"])
def test_smaller_copies_are_no_pages(dtype: str) -> None:
    def write(subfile_type: int) -> bytes:
        stream = io.BytesIO()
        with tifffile.TiffWriter(stream) as file:
            options = {"metadata": None, "photometric": "minisblack"}
            file.write(np.full((8, 6), 3, dtype), **options)
            file.write(np.full((4, 3), 7, dtype), subfiletype=subfile_type, **options)
        return stream.getvalue()

    words = "its pixels are floats" if dtype == "f8" else "several pages"
    with pytest.raises(ImageReadError, match=words):
        decode(write(0))
    if dtype != "f8":
        assert decode(write(1)).size == (6, 8)


@pytest.mark.parametrize(("multi", "is_one"), [(0x020002, False), (0x010001, True), (0, True)])
def test_previews_in_a_jpeg_of_a_camera_are_no_pages(multi: int, is_one: bool) -> None:
    stream = io.BytesIO()
    first, second = Image.new("L", (8, 6), 200), Image.new("L", (4, 3), 10)
    first.save(stream, "MPO", save_all=True, append_images=[second])
    content = bytearray(stream.getvalue())
    kinds = [i for i in range(len(content)) if content[i : i + 4] == b"\x00\x00\x03\x00"]
    for place in kinds[1:]:
        content[place : place + 4] = multi.to_bytes(4, "little")
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "MPO"
    if is_one:
        assert decode(bytes(content)).size == (8, 6)
    else:
        with pytest.raises(ImageReadError, match="several pages"):
            decode(bytes(content))
