"""Images in, arrays out: whatever the file, it becomes RGB or a mask, or one error."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from padim.errors import ImageReadError, MaskReadError, ShapeError, UsageError
from padim.images.failures import FORMATS, raise_own_errors
from padim.images.pages import choose_page
from padim.images.raster import (
    Raster,
    has_floats,
    is_misread,
    loses_depth,
    read_raster,
    read_tags,
    says_white,
)
from padim.images.reading import AS_IT_IS, FULL_WHITE, Reading, smallest_white
from padim.images.stream import STDIN_WORDS, Fetched, Piped, open_regular, require_few_scans

IMAGE_SUFFIXES: frozenset[str] = frozenset(
    {
        *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
        *(".pbm", ".pgm", ".ppm", ".pnm", ".jp2", ".j2k"),
    }
)

_FLOATS = "its pixels are floats, whose black and white are not known; save it with 8 or 16 bits"
DECODE_BYTES_PER_PX = 8  # Pillow's pixels and a copy of them on the way

_Read = TypeVar("_Read")
Hold = Callable[[int], None]  # told how many bytes of memory are to be taken; may wait for them


def take_any(_n_bytes: int) -> None:
    """Take memory without asking."""


@dataclass(frozen=True)
class Depth:
    """What an image was before it had 8 bits."""

    kind: str  # such as ``8-bit colour`` or ``16-bit grey``
    white: int = FULL_WHITE  # the value of 16 bits that became 255
    # The highest value; what it can be at most where only the upper 8 of 16 bits are read.
    highest: int = FULL_WHITE
    n_above_white: int = 0  # pixels, or values of channels

    @property
    def is_deep(self) -> bool:
        """Whether it had more than 8 bits."""
        return self.kind.startswith("16")


PLAIN = Depth("8-bit colour")


def decode(file: Path | bytes, reading: Reading = AS_IT_IS, hold: Hold = take_any) -> Image.Image:
    """Read an image file, whatever its suffix, as `turn_to_8_bit` has it.

    Raises:
        ImageReadError: Whatever is wrong: missing, empty, not an image, damaged, cut short, too
            large (``PIL.Image.MAX_IMAGE_PIXELS``), of several pages none of which was chosen, or
            of a kind that `turn_to_8_bit` refuses.
    """
    return decode_with_depth(file, reading, hold)[0]


def decode_with_depth(
    file: Path | bytes, reading: Reading = AS_IT_IS, hold: Hold = take_any
) -> tuple[Image.Image, Depth]:
    """Read an image file as `decode` does, and tell what it was before."""
    name = _name(file)

    def convert(opened: Image.Image | Raster) -> tuple[Image.Image, Depth]:
        if isinstance(opened, Raster):
            return _scale(opened.values, reading.white, name, opened.is_inverted)
        white = FULL_WHITE if says_white(opened) else reading.white
        return reduce_to_8_bit(opened, name, white)

    return _read(file, convert, reading, hold)


def decode_stretched(file: Path | bytes, hold: Hold = take_any) -> tuple[Image.Image, Depth, str]:
    """Read an image file as `decode_with_depth` does, and its Pillow mode.

    White of 16 bits is the smallest of `reading.WHITES` that holds the image's highest value.
    """
    name = _name(file)

    def convert(opened: Image.Image | Raster) -> tuple[Image.Image, Depth, str]:
        if isinstance(opened, Raster):
            image, depth = _scale(opened.values, None, name, opened.is_inverted)
            return image, depth, depth.kind
        mode = opened.mode
        return *reduce_to_8_bit(opened, name, None), mode

    return _read(file, convert, AS_IT_IS, hold)


def read_image(path: Path, reading: Reading = AS_IT_IS) -> NDArray[np.uint8]:
    """Read an image file as `decode` does: RGB ``(H, W, 3)``, contiguous and writable."""
    return np.array(decode(path, reading).convert("RGB"))


def read_size_px(path: Path, reading: Reading = AS_IT_IS) -> tuple[int, int]:
    """Read the (height, width) of an image from its header, before any EXIF rotation."""
    with raise_own_errors(path), open_regular(path) as stream:
        opened = _open(stream, path, reading, take_any, floats=True)
        return opened.height, opened.width


def read_levels(path: Path) -> NDArray[Any]:
    """Read the values that a mask ``(H, W)`` is drawn with, of any depth or floats.

    They are those of the highest colour channel.
    """
    return read_layers(path)[0]


def read_layers(path: Path) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
    """Read the values that a mask is drawn with, and its alpha if it has some, both ``(H, W)``.

    Raises:
        MaskReadError: It cannot be read.
    """
    try:
        return _read(path, _take_layers, floats=True)
    except ImageReadError as error:
        raise MaskReadError(path, error.reason) from error


def turn_to_8_bit(
    image: Image.Image, name: Path | str = "The Pillow image", white: int = FULL_WHITE
) -> Image.Image:
    """Turn a Pillow image of any mode into an upright one of mode ``L`` or ``RGB``.

    Grey of 16 bits is scaled so that ``white`` becomes 255, rounded; what is above does too.
    Transparent pixels keep the colour they are stored with. The EXIF orientation is obeyed.

    Raises:
        ImageReadError: The pixels are floats, or integers outside 0 to 65535, or damaged.
    """
    return reduce_to_8_bit(image, name, white)[0]


def reduce_to_8_bit(
    image: Image.Image, name: Path | str = "The Pillow image", white: int | None = FULL_WHITE
) -> tuple[Image.Image, Depth]:
    """Do as `turn_to_8_bit`, and tell what it was before; of white None, as `decode_stretched`."""
    is_deep = loses_depth(image)
    with raise_own_errors(name):
        image = _turn_upright(image)
    if image.mode.startswith(("F", "I")):
        return _scale(np.asarray(image), white, name)
    image = _reduce_mode(image)
    colour = "grey" if image.mode == "L" else "colour"
    if not is_deep:
        return image, Depth(f"8-bit {colour}")
    extrema = np.asarray(image.getextrema())
    return image, Depth(f"16-bit {colour}", FULL_WHITE, int(extrema.max()) * 256 + 255)


def _scale(
    values: NDArray[Any], white: int | None, name: Path | str, is_inverted: bool = False
) -> tuple[Image.Image, Depth]:
    """Scale grey ``(H, W)`` or colour ``(H, W, 3)`` to 8 bits; ``is_inverted`` where 0 is white."""
    if values.dtype.kind == "f":
        raise ImageReadError(name, _FLOATS)
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if low < 0 or high > FULL_WHITE:
        raise ImageReadError(
            name,
            f"its pixels go from {low} to {high}, but grey needs to be within 0 to "
            f"{FULL_WHITE}; save it with 8 or 16 bits",
        )
    colour = "grey" if values.ndim == 2 else "colour"
    is_deep = values.dtype.itemsize > 1
    if not is_deep:
        white = 255
    elif white is None:
        white = smallest_white(high)
    levels = _levels_of(white)
    image = Image.fromarray((255 - levels if is_inverted else levels)[values])
    if not is_deep:
        return image, Depth(f"8-bit {colour}")
    n_above = int(np.count_nonzero(values > white)) if high > white else 0
    return image, Depth(f"16-bit {colour}", white, high, n_above)


@lru_cache(maxsize=8)
def _levels_of(white: int) -> NDArray[np.uint8]:
    """The level of 8 bits of each value of 16 bits, rounded, shape ``(65536,)``."""
    values = np.arange(FULL_WHITE + 1, dtype=np.int64).clip(max=white)
    return ((values * 510 + white) // (2 * white)).astype(np.uint8)


def rgb_pixels(image: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bring an image in memory to RGB.

    Args:
        image: A Pillow image of any mode, or a uint8 array of shape ``(H, W)``, ``(H, W, 1)``,
            ``(H, W, 3)`` or ``(H, W, 4)``, whose alpha is left out.

    Returns:
        Pixels, shape ``(H, W, 3)``; a view where nothing is to be done.

    Raises:
        ImageReadError: As `turn_to_8_bit`.
        ShapeError: An array of another shape or type, or an image without a pixel.
        UsageError: It is no image at all.
    """
    if isinstance(image, Image.Image):
        image = np.asarray(turn_to_8_bit(image).convert("RGB"))
    if not isinstance(image, np.ndarray):
        raise UsageError(
            f"An image cannot be of type {type(image).__name__}. Give a path, the bytes of an "
            "image file, a Pillow image or a uint8 array."
        )
    grey = image.reshape(*image.shape, 1) if image.ndim == 2 else image
    if image.dtype != np.uint8 or grey.ndim != 3 or grey.shape[2] not in (1, 3, 4) or not grey.size:
        raise ShapeError(
            f"The image has shape {image.shape} and type {image.dtype}, but needs (height, width), "
            "(height, width, 3) or, with alpha, (height, width, 4), a pixel at least, and uint8. "
            f"{_advise(image)}"
        )
    return np.repeat(grey, 3, axis=2) if grey.shape[2] == 1 else grey[..., :3]


def _advise(image: NDArray[Any]) -> str:
    """What to do with an array that is not taken for an image."""
    is_stack = image.ndim == 3 and image.shape[2] > 4
    if is_stack and image.shape[0] in (1, 3, 4):
        return "Its channels come first: put them last with image.transpose(1, 2, 0)."
    if is_stack or image.ndim == 4:
        return "Give several images one by one, or as a list."
    return "Convert it to 8 bits." if image.dtype != np.uint8 else "Give one of that shape."


def _read(
    file: Path | bytes,
    convert: Callable[[Image.Image | Raster], _Read],
    reading: Reading = AS_IT_IS,
    hold: Hold = take_any,
    *,
    floats: bool = False,
) -> _Read:
    with (
        raise_own_errors(_name(file)),
        io.BytesIO(file) if isinstance(file, bytes) else open_regular(file) as stream,
    ):
        name = _name(file)
        opened = _open(stream, name, reading, hold, floats=floats)
        if isinstance(opened, Image.Image):
            if opened.format in ("JPEG", "MPO"):
                require_few_scans(opened, stream, name)
            hold(DECODE_BYTES_PER_PX * opened.width * opened.height)
            if is_misread(opened, reading.white):
                orientation = opened.getexif().get(ExifTags.Base.Orientation, 1)
                opened = read_raster(stream, reading, name, hold, orientation)
        return convert(opened)


def _open(
    stream: BinaryIO, name: Path | str, reading: Reading, hold: Hold, *, floats: bool
) -> Image.Image | Raster:
    """Open a page of an image file; one that Pillow cannot open is read."""
    if not stream.read(1):
        raise ImageReadError(name, "it is empty; copy it again")
    try:
        image = Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError:
        if (tags := read_tags(stream)) is None:
            raise
        if has_floats(tags) and not floats:
            raise ImageReadError(name, _FLOATS) from None
        return read_raster(stream, reading, name, hold)
    choose_page(image, reading.page, name)
    # Pillow only warns up to twice its limit; one limit, whatever the warning filters.
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise Image.DecompressionBombError
    return image


def _name(file: Path | bytes) -> Path | str:
    if isinstance(file, Piped):
        return STDIN_WORDS
    if isinstance(file, Fetched):
        return file.path
    return f"What was given as {len(file)} bytes" if isinstance(file, bytes) else file


def _take_layers(
    opened: Image.Image | Raster,
) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
    if isinstance(opened, Raster):
        values = opened.values.max(axis=2) if opened.values.ndim == 3 else opened.values
        return (np.iinfo(values.dtype).max - values if opened.is_inverted else values), None
    image = _turn_upright(opened)
    alpha = None
    if "A" in image.getbands() or (image.mode == "P" and "transparency" in image.info):
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    if image.mode != "F" and not image.mode.startswith("I"):
        image = _reduce_mode(image)
    levels: NDArray[Any] = np.atleast_3d(np.asarray(image)).max(axis=2)
    return levels, alpha


def _turn_upright(image: Image.Image) -> Image.Image:
    # exif_transpose copies what is upright already.
    if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
        image.load()
        return image
    return ImageOps.exif_transpose(image)


def _reduce_mode(image: Image.Image) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    # Pillow would blend or warn for a transparent colour, and alpha is dropped anyway.
    image.info.pop("transparency", None)
    mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
    return image if image.mode == mode else image.convert(mode)
