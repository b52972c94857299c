"""Image files in, arrays out: whatever the file, it becomes RGB or a mask, or one error."""

import logging
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from padim.errors import ImageReadError

__all__ = [
    "IMAGE_SUFFIXES",
    "decode",
    "decode_with_mode",
    "read_image",
    "read_levels",
    "read_mask",
    "read_size_px",
    "upright_8_bit",
]

IMAGE_SUFFIXES: frozenset[str] = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
)

# The other formats of Pillow stay closed: EPS, for one, starts another program.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

# Without a handler of its own, Python prints what Pillow logs about damaged files.
logging.getLogger("PIL").addHandler(logging.NullHandler())

_WHITE_16 = 65535

_Read = TypeVar("_Read")


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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._n_readers -= 1
            if self._n_readers == 0:
                self._filters.__exit__(kind, error, trace)


_muted_pillow = _MutedPillow()


def decode(path: Path) -> Image.Image:
    """Read an image file as an upright picture of 8 bits.

    Args:
        path: A file of any suffix; what counts is what is in it. Of several frames, the first.

    Returns:
        A picture of mode ``L`` where the file is grey, ``RGB`` otherwise.

    Raises:
        ImageReadError: Whatever is wrong: missing, empty, not an image, damaged, cut short, too
            large (``PIL.Image.MAX_IMAGE_PIXELS``), or of a kind that `upright_8_bit` refuses.
    """
    return _read(path, lambda image: _upright_8_bit(image, path))


def decode_with_mode(path: Path) -> tuple[Image.Image, str]:
    """Read an image file as `decode` does, and the Pillow mode that the file has."""
    return _read(path, lambda image: (_upright_8_bit(image, path), image.mode))


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image file as upright RGB.

    Args:
        path: As for `decode`.

    Returns:
        Pixels, shape ``(H, W, 3)``, 0 to 255, contiguous and writable.

    Raises:
        ImageReadError: As for `decode`.
    """
    return np.array(decode(path).convert("RGB"))


def read_size_px(path: Path) -> tuple[int, int]:
    """Read the size of an image from its header.

    Returns:
        (height, width) of the file's pixels, before any EXIF rotation.

    Raises:
        ImageReadError: The file cannot be read as an image.
    """
    return _read(path, lambda image: (image.height, image.width))


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Read a ground truth mask: a pixel is defect where any colour channel is above 0.

    Args:
        path: A file of any suffix. Palettes are looked up, alpha is ignored, and the EXIF
            orientation is obeyed as it is for images.

    Returns:
        Mask, shape ``(H, W)``, true on the defect.

    Raises:
        ImageReadError: As for `read_image`; a mask of floats is fine, though.
    """
    is_defect: NDArray[np.bool_] = read_levels(path) > 0
    return is_defect


def read_levels(path: Path) -> NDArray[Any]:
    """Read the values that a mask is drawn with: of each pixel, the highest colour channel.

    Args:
        path: As for `read_mask`.

    Returns:
        Values, shape ``(H, W)``, of the file's depth.

    Raises:
        ImageReadError: As for `read_mask`.
    """
    return _read(path, _levels)


def upright_8_bit(image: Image.Image) -> Image.Image:
    """Turn a Pillow image of any mode into an upright one of mode ``L`` or ``RGB``.

    Grey of 16 bits is scaled over its full range (65535 becomes 255, rounded). Transparent pixels
    keep the colour they are stored with. The EXIF orientation is obeyed.

    Args:
        image: An image; of several frames, the current one.

    Raises:
        ImageReadError: The pixels are floats, or integers outside 0 to 65535.
    """
    return _upright_8_bit(image, "The Pillow image")


def _read(path: Path, convert: Callable[[Image.Image], _Read]) -> _Read:
    try:
        with path.open("rb") as stream, _muted_pillow:
            if not stream.read(1):
                raise ImageReadError(path, "it is empty")
            image = Image.open(stream, formats=_FORMATS)
            # Pillow only warns up to twice its limit; one limit, whatever the warning filters.
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise Image.DecompressionBombError
            return convert(image)
    except ImageReadError:
        raise
    except Exception as error:  # Pillow lets out almost anything on damaged files.
        raise ImageReadError(path, _reason(error)) from error


def _reason(error: Exception) -> str:
    match error:
        case FileNotFoundError():
            return "it does not exist"
        case PermissionError():
            return "permission is denied"
        case IsADirectoryError():
            return "it is a folder"
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
        case OSError(errno=int(), strerror=str() as reason):
            return reason
    return f"it is damaged or cut short ({str(error).rstrip('.') or type(error).__name__})"


def _upright_8_bit(image: Image.Image, name: Path | str) -> Image.Image:
    image = _upright(image)
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
    return _grey_or_colours(image)


def _levels(image: Image.Image) -> NDArray[Any]:
    image = _upright(image)
    if image.mode != "F" and not image.mode.startswith("I"):
        image = _grey_or_colours(image)
    levels: NDArray[Any] = np.atleast_3d(np.asarray(image)).max(axis=2)
    return levels


def _upright(image: Image.Image) -> Image.Image:
    # exif_transpose copies what is upright already.
    if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
        image.load()
        return image
    return ImageOps.exif_transpose(image)


def _grey_or_colours(image: Image.Image) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    # Pillow would blend or warn for a transparent colour, and alpha is dropped anyway.
    image.info.pop("transparency", None)
    mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
    return image if image.mode == mode else image.convert(mode)
