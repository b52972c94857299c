"""Images in, arrays out: whatever the file, it becomes RGB or a mask, or one error."""

import io
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from padim.errors import ImageReadError, ShapeError, UsageError
from padim.images.stream import open_regular, require_few_scans

IMAGE_SUFFIXES: frozenset[str] = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
)

# The other formats of Pillow stay closed: EPS, for one, starts another program.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

# Without a handler of its own, Python prints what Pillow logs about damaged files.
logging.getLogger("PIL").addHandler(logging.NullHandler())

_WHITE_16 = 65535
DECODE_BYTES_PER_PX = 8  # Pillow's pixels and a copy of them on the way

_Read = TypeVar("_Read")
Hold = Callable[[int], None]  # told how many bytes of memory are to be taken; may wait for them


class _MutedPillow:
    """Keeps Pillow's warnings from the user while at least one thread reads.

    ``warnings.catch_warnings`` alone restores the wrong filters when threads leave it in another
    order than they entered.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_readers = 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._n_readers == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\b")
            self._n_readers += 1

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._n_readers -= 1
            if self._n_readers == 0:
                self._filters.__exit__(None, None, None)


_muted_pillow = _MutedPillow()


def take_any(_n_bytes: int) -> None:
    """Take memory without asking."""


def decode(file: Path | bytes, hold: Hold = take_any) -> Image.Image:
    """Read an image file, whatever its suffix, as `turn_to_8_bit` has it; of frames, the first.

    Raises:
        ImageReadError: Whatever is wrong: missing, empty, not an image, damaged, cut short, too
            large (``PIL.Image.MAX_IMAGE_PIXELS``), or of a kind that `turn_to_8_bit` refuses.
    """
    return _read(file, lambda image: turn_to_8_bit(image, _name(file)), hold)


def decode_with_mode(path: Path, hold: Hold = take_any) -> tuple[Image.Image, str]:
    """Read an image file as `decode` does, and the Pillow mode that the file has."""
    return _read(path, lambda image: (turn_to_8_bit(image, path), image.mode), hold)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image file as `decode` does: RGB ``(H, W, 3)``, contiguous and writable."""
    return np.array(decode(path).convert("RGB"))


def read_size_px(path: Path) -> tuple[int, int]:
    """Read the (height, width) of an image from its header, before any EXIF rotation."""
    return _read(path, lambda image: (image.height, image.width))


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Read a ground truth mask ``(H, W)``: true where any colour channel is above 0.

    Palettes are looked up, alpha is ignored, and the EXIF orientation is obeyed.
    """
    return np.asarray(read_levels(path) > 0)


def read_levels(path: Path) -> NDArray[Any]:
    """Read the values that a mask ``(H, W)`` is drawn with, of any depth or floats.

    They are those of the highest colour channel.
    """
    return _read(path, _take_levels)


def turn_to_8_bit(image: Image.Image, name: Path | str = "The Pillow image") -> Image.Image:
    """Turn a Pillow image of any mode into an upright one of mode ``L`` or ``RGB``.

    Grey of 16 bits is scaled over its full range (65535 becomes 255, rounded). Transparent pixels
    keep the colour they are stored with. The EXIF orientation is obeyed.

    Raises:
        ImageReadError: The pixels are floats, or integers outside 0 to 65535, or damaged, or there
            are none.
    """
    with raise_own_errors(name):
        image = _turn_upright(image)
    if not image.width or not image.height:
        raise ImageReadError(name, f"it has no pixels ({image.height}x{image.width} px)")
    if image.mode == "F":
        raise ImageReadError(
            name,
            "its pixels are floats, whose black and white are not known; save it with 8 or 16 bits",
        )
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int32)
        low, high = int(grey.min(initial=0)), int(grey.max(initial=0))
        if low < 0 or high > _WHITE_16:
            raise ImageReadError(
                name,
                f"its pixels go from {low} to {high}, but grey needs to be within 0 to "
                f"{_WHITE_16}; save it with 8 or 16 bits",
            )
        # 65535 = 255 * 257, and 257 is odd: this rounds, and there are no ties.
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    return _reduce_mode(image)


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
    file: Path | bytes, convert: Callable[[Image.Image], _Read], hold: Hold = take_any
) -> _Read:
    with (
        raise_own_errors(_name(file)),
        io.BytesIO(file) if isinstance(file, bytes) else open_regular(file) as stream,
    ):
        if not stream.read(1):
            raise ImageReadError(_name(file), "it is empty")
        image = Image.open(stream, formats=_FORMATS)
        # Pillow only warns up to twice its limit; one limit, whatever the warning filters.
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and image.width * image.height > limit:
            raise Image.DecompressionBombError
        if image.format in ("JPEG", "MPO"):
            require_few_scans(stream, _name(file))
        hold(DECODE_BYTES_PER_PX * image.width * image.height)
        return convert(image)


def _name(file: Path | bytes) -> Path | str:
    return f"What was given as {len(file)} bytes" if isinstance(file, bytes) else file


@contextmanager
def raise_own_errors(name: Path | str) -> Iterator[None]:
    """Make one error of all that reading an image can raise."""
    try:
        with _muted_pillow:
            yield
    except ImageReadError:
        raise
    except Exception as error:  # Pillow lets out almost anything on damaged files.
        raise ImageReadError(name, _reason(error)) from error


def _reason(error: Exception) -> str:
    match error:
        case FileNotFoundError():
            return "it does not exist; check the path"
        case PermissionError():
            return "permission is denied"
        case IsADirectoryError():
            return "it is a folder; name the image files in it"
        case UnidentifiedImageError():
            known = ", ".join(_FORMATS)
            return f"it is not an image of a known format ({known}), or its start is damaged"
        case Image.DecompressionBombError():
            return (
                f"it has more than {Image.MAX_IMAGE_PIXELS} pixels, "
                "the limit in PIL.Image.MAX_IMAGE_PIXELS"
            )
        case MemoryError():
            return "there is not enough memory for it"
        case ValueError() if "MAX_TEXT" in str(error):
            return (
                "its text is longer than what PIL.PngImagePlugin.MAX_TEXT_CHUNK and "
                "MAX_TEXT_MEMORY allow; save it without its text"
            )
        case OSError(errno=int(), strerror=str() as reason):
            return reason
    return f"it is damaged or cut short ({str(error).rstrip('.') or type(error).__name__})"


def _take_levels(image: Image.Image) -> NDArray[Any]:
    image = _turn_upright(image)
    if image.mode != "F" and not image.mode.startswith("I"):
        image = _reduce_mode(image)
    levels: NDArray[Any] = np.atleast_3d(np.asarray(image)).max(axis=2)
    return levels


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
