"""One error of all that reading an image can raise, and none of Pillow's words beside it."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from padim.errors import DatasetError, ImageReadError, MissingExtraError, UnreachableError

# Pillow's others stay closed: EPS starts a program. Those it loads only when asked come last.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "JPEG2000", "TIFF", "WEBP")

# Without a handler of its own, Python prints what Pillow logs about damaged files.
logging.getLogger("PIL").addHandler(logging.NullHandler())
_LONG_TEXT = ("MAX_TEXT", "Decompressed Data Too Large")  # of Pillow; the latter before 11


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


@contextmanager
def raise_own_errors(name: Path | str) -> Iterator[None]:
    """Make one error of all that reading an image can raise, but where its store cannot be read."""
    try:
        with _muted_pillow:
            yield
    except (ImageReadError, UnreachableError, MissingExtraError, DatasetError):
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
            known = ", ".join(FORMATS)
            return f"it is no image of a known format ({known}), or is damaged; save it anew"
        case Image.DecompressionBombError():
            return (
                f"it has more than {Image.MAX_IMAGE_PIXELS} pixels, "
                "the limit in PIL.Image.MAX_IMAGE_PIXELS"
            )
        case MemoryError():
            return "there is not enough memory for it"
        case ValueError() if any(words in str(error) for words in _LONG_TEXT):
            return (
                "its text is longer than what PIL.PngImagePlugin.MAX_TEXT_CHUNK and "
                "MAX_TEXT_MEMORY allow; save it without its text"
            )
        case OSError(errno=int(), strerror=str() as why):
            return why
    why = str(error).rstrip(".") or type(error).__name__
    return f"it is damaged or cut short ({why}); copy it again"
