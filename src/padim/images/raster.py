"""Pixels that Pillow has no mode for, or reads wrongly: by tifffile and imagecodecs, an extra."""

import importlib
import logging
import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from padim.errors import ImageReadError, install_command
from padim.images.pages import SEVERAL, is_page
from padim.images.reading import FULL_WHITE, Reading

if TYPE_CHECKING:
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

logging.getLogger("tifffile").addHandler(logging.NullHandler())

_WITH_WHITE = ("PPM", "JPEG2000")  # formats that can say what is white
_CODESTREAM = b"\xff\x4f\xff\x51"  # how that of a JPEG 2000 begins
_HEADER_BYTES = 1 << 20  # within which it does
_DEPTH, _SIGN = 0x7F, 0x80
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# TIFF 6.0 and its supplements.
_BITS, _COMPRESSION, _PHOTOMETRIC, _PLANAR, _PREDICTOR, _FORMAT = 258, 259, 262, 284, 317, 339
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_SEPARATE, _SIGNED, _FLOAT = 2, 2, 3
_PACK_BITS = 32773
# None, LZW, deflate, PackBits, LZMA and Zstandard: those that leave pixels as they are.
_COMPRESSIONS = (1, 5, 8, 32946, _PACK_BITS, 34925, 50000)


@dataclass(frozen=True)
class Raster:
    """Pixels as a file stores them: ``(H, W)`` or ``(H, W, 3)``, upright."""

    values: NDArray[Any]
    is_inverted: bool = False  # whether 0 is white

    @property
    def width(self) -> int:
        """Pixels across."""
        return int(self.values.shape[1])

    @property
    def height(self) -> int:
        """Pixels down."""
        return int(self.values.shape[0])


def read_tags(stream: BinaryIO) -> "ImageFileDirectory_v2 | None":
    """Read the tags of the first page of a TIFF; None where it is something else."""
    stream.seek(0)
    header = stream.read(8)
    if header[:4] not in _TIFF_STARTS:
        return None
    if header[2:3] == b"+" or header[3:4] == b"+":
        header += stream.read(8)
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    tags = ImageFileDirectory_v2(header)
    stream.seek(tags.next)
    tags.load(stream)
    return tags


def has_floats(tags: "ImageFileDirectory_v2") -> bool:
    """Whether the pixels of a TIFF are floats."""
    return _FLOAT in tags.get(_FORMAT, ())


def loses_depth(image: Image.Image) -> bool:
    """Whether an image that is not loaded yet has several channels of 16 bits: Pillow keeps 8."""
    tiles = () if image.mode.startswith(("I", "F")) else getattr(image, "tile", ())
    if tiles and image.format in _WITH_WHITE:
        return _read_largest(image) > 255
    return any(";16" in str(tile[3]) for tile in tiles)


def says_white(image: Image.Image) -> bool:
    """Whether the file of an image that is not loaded yet says what is white, which Pillow obeys.

    A file that may use all of 16 bits says nothing of the kind.
    """
    return image.format in _WITH_WHITE and _read_largest(image) != FULL_WHITE


def _read_largest(image: Image.Image) -> int:
    """Read the largest value that the header of a Netpbm or JPEG 2000 file allows."""
    if image.format == "JPEG2000":
        return (1 << max(depth & _DEPTH for depth in _read_depths(image)) + 1) - 1
    decoder, _, _, choices = image.tile[0]  # type: ignore[attr-defined]  # of an image in a file
    if decoder == "raw":
        return FULL_WHITE if ";16" in str(choices) else 255
    return int(choices[1]) if isinstance(choices, tuple) else 1


def _read_depths(image: Image.Image) -> bytes:
    """Read the bits of each channel of a JPEG 2000, less one, and `_SIGN` where it is signed.

    Raises:
        ValueError: Its header is not as it must be.

    Source:
        ISO/IEC 15444-1, annex A.5.1.
    """
    stream = image.fp  # type: ignore[attr-defined]  # of an image in a file
    place = stream.tell()
    stream.seek(0)
    start = stream.read(_HEADER_BYTES)
    stream.seek(place)
    header = start[max(start.find(_CODESTREAM), 0) :]
    depths = b""
    if len(header) > 42:
        width, height, left, top = struct.unpack(">4I", header[8:24])
        depths = header[42 : 42 + 3 * int.from_bytes(header[40:42], "big") : 3]
    if not depths or (width - left, height - top) != image.size:
        raise ValueError("its headers do not agree")
    return depths


def is_misread(image: Image.Image, white: int) -> bool:
    """Whether Pillow has no right pixels of an image that is not loaded yet."""
    if loses_depth(image) and white != FULL_WHITE and not says_white(image):
        return True
    if image.format == "JPEG2000":
        return any(depth & _SIGN for depth in _read_depths(image))
    if image.format != "TIFF":
        return False
    tags: ImageFileDirectory_v2 = image.tag_v2  # type: ignore[attr-defined]  # of a TIFF
    bits, formats = tags.get(_BITS, (1,)), tags.get(_FORMAT, (1,))
    is_packed = tags.get(_COMPRESSION) == _PACK_BITS
    return (
        (max(bits) > 8 and tags.get(_PLANAR) == _SEPARATE)
        or (_SIGNED in formats and max(bits) == 8)
        or (_SIGNED in formats and tags.prefix == b"MM")
        or (max(bits) == 16 and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO)
        or (tags.get(_PREDICTOR, 1) != 1 and is_packed)
    )


def read_raster(
    stream: BinaryIO,
    reading: Reading,
    name: Path | str,
    hold: Callable[[int], None],
    orientation: int = 1,
) -> Raster:
    """Read what Pillow does not.

    Args:
        stream: A TIFF, a PNG, a JPEG 2000 or a Netpbm file.
        reading: How it is read.
        name: What it is called in errors.
        hold: Told how many bytes of memory it takes.
        orientation: That of EXIF; a TIFF says its own.

    Raises:
        ImageReadError: It is of a kind that is not read here either, or the extra is missing.
    """
    stream.seek(0)
    if stream.read(4) in _TIFF_STARTS:
        stream.seek(0)
        return _read_tiff(stream, reading, name, hold)
    stream.seek(0)
    content = stream.read()
    if content.startswith(b"P"):
        reason = "of the 16 bits of a PPM 8 are read, too few for a --white below; save it as PNG"
        raise ImageReadError(name, reason)
    codecs = _load("imagecodecs", name)
    decode = codecs.png_decode if content.startswith(b"\x89PNG") else codecs.jpeg2k_decode
    values = np.atleast_3d(_turn(decode(content), orientation))
    return Raster(values[..., :3] if values.shape[2] > 2 else values[..., 0])


def _read_tiff(
    stream: BinaryIO, reading: Reading, name: Path | str, hold: Callable[[int], None]
) -> Raster:
    with _load("tifffile", name).TiffFile(stream) as file:
        if reading.page is None:
            others = islice(file.pages, 1, 16)
            if any(is_page(int(page.subfiletype or 0)) for page in others):
                raise ImageReadError(name, SEVERAL)
        try:
            page = file.pages[(reading.page or 1) - 1]
        except IndexError as error:
            reason = (
                f"it has no page {reading.page}; fit with another --page, or save the page alone"
            )
            raise ImageReadError(name, reason) from error
        n_pixels = page.imagewidth * page.imagelength
        if not n_pixels:
            raise ImageReadError(name, "it has no pixel")
        n_samples, photometric = page.samplesperpixel, int(page.photometric)
        if Image.MAX_IMAGE_PIXELS is not None and n_pixels > Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError
        is_grey = photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO) and n_samples <= 2
        is_colour = photometric == _RGB and n_samples in (3, 4)
        n_tile = (page.tilewidth or 0) * (page.tilelength or 0)
        if (
            not (is_grey or is_colour)
            or page.imagedepth != 1
            or int(page.compression) not in _COMPRESSIONS
            or page.dtype is None
            or n_tile > max(4 * n_pixels, 2**20)
        ):
            raise ImageReadError(
                name, "it is a TIFF of a kind that is not read; save it as a plain TIFF or PNG"
            )
        hold(2 * n_pixels * n_samples * page.dtype.itemsize)
        values = page.asarray().reshape(
            (n_samples, page.imagelength, page.imagewidth)
            if int(page.planarconfig) == _SEPARATE
            else (page.imagelength, page.imagewidth, n_samples)
        )
        if int(page.planarconfig) == _SEPARATE:
            values = np.moveaxis(values, 0, -1)
        tag = page.tags.get("Orientation")
        values = _turn(values, int(tag.value) if tag else 1)
    return Raster(values[..., 0] if is_grey else values[..., :3], photometric == _WHITE_IS_ZERO)


def _turn(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn stored pixels upright, by the EXIF orientation."""
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values[:, ::-1] if orientation in (2, 3, 6, 7) else values


def _load(package: str, name: Path | str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImageReadError(
            name, f"reading it rightly needs {package}; install it with {install_command('tiff')}"
        ) from error
