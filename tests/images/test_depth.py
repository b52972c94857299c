import io
import json
import struct
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from padim.datasets import Category
from padim.datasets.check import check
from padim.errors import ImageReadError
from padim.images.ahead import ImageInput, Loaded, load_image
from padim.images.decode import decode, decode_with_depth
from padim.images.facts import ImageFacts, describe_depth, describe_differences
from padim.images.reading import FULL_WHITE, Reading, smallest_white


def png(values: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("white", [1, 255, 1023, 4095, 16383, 65535])
def test_white_is_what_becomes_255_and_what_is_above_is_counted(white: int) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    image, depth = decode_with_depth(png(values), Reading(white=white))
    expected = np.floor(values.clip(max=white) * (255 / white) + 0.5)
    assert np.abs(np.asarray(image) - expected).max() <= (white % 2 == 0)
    assert (depth.kind, depth.highest) == ("16-bit grey", 65535)
    assert depth.n_above_white == 65535 - white


def test_white_is_of_16_bits_alone() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image, depth = decode_with_depth(png(values), Reading(white=4095))
    np.testing.assert_array_equal(np.asarray(image), values)
    assert (depth.kind, depth.n_above_white) == ("8-bit grey", 0)


def test_netpbm_says_itself_what_is_white() -> None:
    content = b"P5 2 1 4095\n" + np.array([[4095, 0]], ">u2").tobytes()
    assert np.asarray(decode(content, Reading(white=4095))).tolist() == [[255, 0]]


@pytest.mark.parametrize("start", [b"P5 2 1 65535\n", b"P2 2 1 65535\n"])
def test_netpbm_of_all_16_bits_follows_white(start: bytes) -> None:
    values = np.array([[4095, 2048]], ">u2")
    plain = b"4095 2048\n"
    content = start + (values.tobytes() if start[:2] == b"P5" else plain)
    image, depth = decode_with_depth(content, Reading(white=4095))
    assert (np.asarray(image).tolist(), depth.highest) == ([[255, 128]], 4095)


@pytest.mark.parametrize("largest", [4095, 65535])
@pytest.mark.parametrize("kind", [b"P3", b"P6"])
def test_colour_of_netpbm_is_said_to_be_deep(kind: bytes, largest: int) -> None:
    values = np.array([largest, 0, 0, 0, largest // 2, 0], ">u2")
    plain = " ".join(map(str, values)).encode()
    content = kind + b" 2 1 %d\n" % largest + (values.tobytes() if kind == b"P6" else plain)
    image, depth = decode_with_depth(content)
    assert (depth.kind, depth.highest) == ("16-bit colour", 65535)
    assert np.asarray(image)[0, 0].tolist() == [255, 0, 0]
    if largest == 4095:
        assert decode(content, Reading(white=1023)) == image
    else:
        with pytest.raises(
            ImageReadError, match=r"of the 16 bits of a PPM 8 are read, .*--white.*save it as"
        ):
            decode(content, Reading(white=4095))


def jpeg2000(values: NDArray[np.generic], n_bits: int, suffix: str = "jp2") -> bytes:
    codecs = pytest.importorskip("imagecodecs", reason="writes what Pillow does not")
    options = {"level": 0, "reversible": True, "bitspersample": n_bits, "codecformat": suffix}
    return bytes(codecs.jpeg2k_encode(values, **options))


@pytest.mark.parametrize("suffix", ["jp2", "j2k"])
@pytest.mark.parametrize("shape", [(16, 17), (16, 17, 3), (16, 17, 4)])
def test_jpeg_2000_keeps_its_depth_under_another_white(shape: tuple[int, ...], suffix: str) -> None:
    values = np.random.default_rng(0).integers(0, 4096, shape, dtype=np.uint16)
    colour = values if values.ndim == 2 else values[..., :3]
    kind = "16-bit grey" if values.ndim == 2 else "16-bit colour"
    expected = np.floor(colour * (255 / 4095) + 0.5)
    image, depth = decode_with_depth(jpeg2000(values, 16, suffix), Reading(white=4095))
    np.testing.assert_array_equal(np.asarray(image), expected)
    assert (depth.kind, depth.highest, depth.n_above_white) == (kind, colour.max(), 0)
    # Of 12 bits, as it says, its white is what it says.
    image, depth = decode_with_depth(jpeg2000(values, 12, suffix), Reading(white=4095))
    assert np.abs(np.asarray(image) - expected).max() <= 1
    assert (depth.kind, depth.n_above_white) == (kind, 0)
    assert decode_with_depth(jpeg2000((values >> 4).astype(np.uint8), 8))[1].kind[:2] == "8-"


def test_jpeg_2000_of_signed_numbers_is_not_shifted() -> None:
    values = np.arange(-9, 247, dtype=np.int16).reshape(16, 16)
    with pytest.raises(ImageReadError, match="its pixels go from -9 to 246"):
        decode(jpeg2000(values, 16))
    expected = np.floor((values + 9) * (255 / 4095) + 0.5)
    image = decode(jpeg2000(values + 9, 16), Reading(white=4095))
    np.testing.assert_array_equal(np.asarray(image), expected)


def test_jpeg_2000_whose_headers_do_not_agree_is_refused() -> None:
    content = jpeg2000(np.zeros((16, 17, 3), np.uint16), 16)
    at = content.index(b"\xff\x4f\xff\x51") + 8
    with pytest.raises(ImageReadError, match="its headers do not agree"):
        decode(content[:at] + b"\0\1" + content[at + 2 :], Reading(white=4095))
    with pytest.raises(ImageReadError, match="is damaged"):
        decode(content[: at + 4])


def test_colour_of_16_bits_keeps_its_depth_under_another_white() -> None:
    codecs = pytest.importorskip("imagecodecs", reason="writes what Pillow does not")
    values = np.random.default_rng(0).integers(0, 4096, (8, 9, 3), dtype=np.uint16)
    content = bytes(codecs.png_encode(values))
    image, depth = decode_with_depth(content, Reading(white=4095))
    expected = np.floor(values * (255 / 4095) + 0.5)
    np.testing.assert_array_equal(np.asarray(image), expected)
    assert depth.kind == "16-bit colour"
    assert decode_with_depth(content)[1].highest == 4095
    # With a chunk of EXIF that says the rows go from right to left.
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x02\0\0\0\0\0\0"
    chunk = b"eXIf" + exif
    chunk = struct.pack(">I", len(exif)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    mirrored = decode(content[:33] + chunk + content[33:], Reading(white=4095))
    np.testing.assert_array_equal(np.asarray(mirrored), expected[:, ::-1])


@pytest.mark.parametrize(
    ("highest", "white"),
    [(0, 1023), (1023, 1023), (1024, 4095), (4095, 4095), (4096, 16383), (65535, 65535)],
)
def test_white_that_holds_all_values(highest: int, white: int) -> None:
    assert smallest_white(highest) == white


def look(image: ImageInput, white: int = FULL_WHITE) -> Loaded:
    def bring(image: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
        picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
        return np.asarray(picture.convert("RGB"))

    return load_image(image, bring, Reading(white=white))


def level(value: int, dtype: str = "u2") -> bytes:
    return png(np.full((8, 8), value, dtype))


def facts_of(image: ImageInput) -> ImageFacts:
    return ImageFacts.of(look(image, 4095))


def test_differences_of_depth_colour_and_brightness_are_named() -> None:
    facts = facts_of(level(2000)).merge(facts_of(level(2200)))
    assert facts == msgspec.convert(json.loads(json.dumps(asdict(facts))), ImageFacts)
    assert (facts.kinds, facts.highest) == (("16-bit grey",), 2200)
    assert facts.compare(facts_of(level(2100))) == ()
    assert facts.compare(facts_of(level(125, "u1"))) == ("of 8-bit grey, not 16-bit grey",)
    assert facts.compare(facts_of(level(100))) == ("much darker than any good image",)
    assert facts.compare(facts_of(level(65535))) == ("much brighter than any good image",)
    colour = png(np.full((8, 8, 3), 125, np.uint8))
    assert facts.compare(facts_of(colour)) == ("of 8-bit colour, not 16-bit grey",)
    differing = [facts.compare(facts_of(level(100))), (), ("x",), ("x",)]
    assert describe_differences(differing) == (
        "3 of 4 images are not like those of the fit: 2 x; 1 much darker than any good image. "
        "Check the camera and its light, or fit anew."
    )
    assert not describe_differences([(), ()])


@pytest.mark.parametrize(
    ("value", "white", "words"),
    [
        (4000, 65535, "as if the files held 12 bits. Fit with --white 4095, or auto"),
        (1000, 65535, "as if the files held 10 bits. Fit with --white 1023, or auto"),
        (5000, 4095, "up to 5000, and what is above white, 4095, is clipped"),
        (4000, 4095, ""),
        (20000, 65535, ""),
    ],
)
def test_a_white_that_does_not_suit_is_said(value: int, white: int, words: str) -> None:
    said = describe_depth(ImageFacts.of(look(level(value), white)), white)
    assert words in said
    assert bool(words) == bool(said)


@pytest.mark.parametrize("n_bits", [10, 12, 16])
def test_dark_images_of_16_bits_are_no_duplicates(tmp_path: Path, n_bits: int) -> None:
    generator = np.random.default_rng(n_bits)
    paths = [tmp_path / "of_8_bits.png"]
    Image.new("L", (128, 128), 77).save(paths[0])
    for i in range(6):
        rough = generator.integers(2**n_bits // 4, 2**n_bits // 2, (16, 16), dtype=np.uint16)
        picture = np.kron(rough, np.ones((8, 8), np.uint16))
        for name in (f"{i}.png", f"{i}_again.tif")[: 1 + (i == 5)]:
            Image.fromarray(picture).save(tmp_path / name)
            paths.append(tmp_path / name)
    findings = check(Category("part", tmp_path, tuple(paths), ()), 2)
    repeated = [finding.path.name for finding in findings if finding.kind == "duplicate"]
    assert repeated == ["5_again.tif"]


def test_a_missing_extra_is_named_for_deep_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    codecs = pytest.importorskip("imagecodecs", reason="writes what Pillow does not")
    content = bytes(codecs.png_encode(np.zeros((4, 3, 3), np.uint16)))
    monkeypatch.setitem(__import__("sys").modules, "imagecodecs", None)
    assert decode(content).size == (3, 4)
    with pytest.raises(ImageReadError, match=r"needs imagecodecs; .*\[tiff\]"):
        decode(content, Reading(white=4095))
