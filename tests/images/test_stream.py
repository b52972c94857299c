import io
import os
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from padim.errors import ImageReadError, ShapeError
from padim.images.ahead import content_sha256, open_image
from padim.images.decode import decode, read_image, read_size_px
from padim.images.masks import read_mask
from padim.images.stream import read_stdin

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="has no such files")


@POSIX
def test_a_pipe_without_a_writer_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    os.mkfifo(path)
    for read in (read_image, read_mask, read_size_px, content_sha256):
        with pytest.raises(ImageReadError, match="a pipe; name a file, or - for a pipe"):
            read(path)


@POSIX
def test_devices_and_sockets_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageReadError, match=r"/dev/zero cannot be read .* it is a device"):
        read_image(Path("/dev/zero"))
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as there:
        there.bind("a.png")
        with pytest.raises(ImageReadError, match="it is a socket"):
            read_image(Path("a.png"))


def test_standard_input_is_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (b"abc", b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        if content:
            assert read_stdin() == content
        else:
            with pytest.raises(ImageReadError, match=r"Standard input .* it is empty"):
                read_stdin()


def pipe(content: bytes, monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    return read_stdin()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "PPM"])
def test_another_image_in_a_pipe_is_not_left_out(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.BytesIO()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))
    picture.save(stream, kind)
    one, other = stream.getvalue(), jpeg(0, progressive=False)
    assert pipe(one + bytes(5), monkeypatch) == one + bytes(5)
    for more in (one, other, bytes(3) + other):
        with pytest.raises(ImageReadError, match=r"Standard input .* more than one image; pipe"):
            pipe(one + more, monkeypatch)


def test_a_thumbnail_and_a_second_picture_of_a_camera_are_of_one_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small, one = jpeg(0, progressive=False), jpeg(0, progressive=False)
    note = small + bytes(4) + b"II*\0"  # as cameras write them
    length = (2 + len(note)).to_bytes(2, "big")
    assert pipe(one[:2] + b"\xff\xe1" + length + note + one[2:], monkeypatch)
    stream = io.BytesIO()
    picture = Image.open(io.BytesIO(one))
    picture.save(stream, "MPO", save_all=True, append_images=[picture])
    assert pipe(stream.getvalue(), monkeypatch) == stream.getvalue()


def test_what_is_no_image_in_a_pipe_is_named_standard_input(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ImageReadError, match="Standard input cannot be read as an image"):
        open_image(pipe(b"words\n", monkeypatch))


def jpeg(n_more_scans: int, *, progressive: bool) -> bytes:
    """A JPEG whose last scan is there so many times more."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", progressive=progressive)
    content = stream.getvalue()
    scan = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + scan * n_more_scans + content[-2:]


def test_a_jpeg_of_many_scans_is_refused() -> None:
    assert decode(jpeg(0, progressive=True)).size == (32, 32)
    with pytest.raises(ImageReadError, match="more than 64 scans; save it anew as a plain JPEG"):
        decode(jpeg(2000, progressive=True))


def test_scans_after_a_whole_one_are_damage() -> None:
    with pytest.raises(ImageReadError, match="damaged"):
        decode(jpeg(2000, progressive=False))


def test_scans_of_single_components_are_counted() -> None:
    content = jpeg(0, progressive=False)
    header = content.rindex(b"\xff\xda")
    # One component: a shorter header that names the first alone.
    scan = b"\xff\xda\x00\x08\x01" + content[header + 5 : header + 7] + b"\x00\x3f\x00\x00"
    with pytest.raises(ImageReadError, match="more than 64 scans"):
        decode(content[:header] + scan * 100 + content[-2:])


@pytest.mark.parametrize("size", [(0, 10), (10, 0), (0, 0)])
def test_an_image_without_a_pixel_has_no_verdict(size: tuple[int, int]) -> None:
    netpbm = f"P5 {size[0]} {size[1]} 255\n".encode()
    with pytest.raises(ImageReadError):
        decode(netpbm)
    frames = [np.zeros(size, np.uint8), *(Image.new(mode, size) for mode in ("L", "I;16", "1"))]
    for frame in frames:
        with pytest.raises(ShapeError, match="a pixel at least"):
            open_image(frame)


def test_long_text_is_called_what_it_is(tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "a" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    Image.new("L", (4, 3)).save(tmp_path / "a.png", pnginfo=text)
    with pytest.raises(
        ImageReadError, match=r"its text is longer than .* save it without its text"
    ):
        read_image(tmp_path / "a.png")
