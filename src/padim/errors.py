"""What can go wrong, one class each: what has this, but needs that; what to do."""

import errno
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

_SECRETS = re.compile(r"(https?://)(?:[^/?#\s]*@)?([^?\s]*)(?:(\?)\S*)?", re.IGNORECASE)


def redact(text: str) -> str:
    """A text whose web addresses do not say who asks, nor what is asked after the question mark."""
    return _SECRETS.sub(lambda found: f"{found[1]}{found[2]}{'?...' if found[3] else ''}", text)


class PadimError(Exception):
    """Base of every error this package raises on purpose. The command line exits with 1."""

    exit_status = 1


class UsageError(PadimError, ValueError):
    """An option, a name, a value or a path that cannot be used. The command line exits with 2."""

    exit_status = 2


_OTHER_WORDS = {"gpu": "cuda"}  # for names that are spelt otherwise here


class UnknownNameError(UsageError, LookupError):
    """A name that is not in a list of names."""

    def __init__(self, kind: str, name: str, available: Sequence[str], where: str = "") -> None:
        meant = _OTHER_WORDS.get(name)
        close = [meant] if meant in available else get_close_matches(name, available, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        known = f"Known: {', '.join(available)}."
        super().__init__(f"There is no {kind} {name!r}{where}.{hint} {known}")


class PathMissingError(UsageError):
    """A path that does not exist, or a folder where a file is needed, or the other way round."""

    def __init__(self, path: Path, needed: str = "") -> None:
        if path.is_dir():
            super().__init__(f"{path} is a folder, but a file is needed. Name one inside.")
        elif path.is_file():
            super().__init__(f"{path} is a file, but a folder is needed. Name one.")
        elif path.exists():
            super().__init__(f"{path} is neither a file nor a folder. Name one of them.")
        else:
            but = f", but {needed} is needed" if needed else ""
            super().__init__(redact(f"{path} does not exist{but}. Check the path."))


class ShapeError(PadimError, ValueError):
    """Arrays whose shapes do not fit together."""


def install_command(extra: str) -> str:
    """What installs an extra."""
    return f"pip install 'padim-efficientnet[{extra}]', or in a clone: pip install '.[{extra}]'"


class MissingExtraError(PadimError, ImportError):
    """A command needs a package that only an extra installs, or nothing of ours."""

    def __init__(self, package: str, extra: str | None = None) -> None:
        command = f"pip install {package}" if extra is None else install_command(extra)
        super().__init__(
            f"This needs {package}, which is not installed. Install it with: {command}"
        )


_EXTRAS = {
    "fit": (
        "torch",
        "torchvision",
        "timm",
        "huggingface_hub",
        "onnx",
        "onnxscript",
        "platformdirs",
    ),
    "report": ("matplotlib", "cycler", "jinja2", "markupsafe"),
    "openvino": ("openvino",),
    "parquet": ("pyarrow",),
    "tiff": ("tifffile", "imagecodecs"),
    "remote": ("fsspec", "aiohttp"),
    "serve": (
        "fastapi",
        "fastapi_offline",
        "uvicorn",
        "sqlalchemy",
        "alembic",
        "prometheus_client",
        "jinja2",
        "h11",
        "starlette",
    ),
    "mqtt": ("paho",),
    "postgresql": ("psycopg",),
    "cluster": ("ray",),
    "zarr": ("zarr",),
}


def require_extras(*extras: str) -> None:
    """Raise, before any work, a `MissingExtraError` that names all extras that are missing."""
    missing = {
        extra: package
        for extra in extras
        for package in reversed(_EXTRAS[extra])
        if find_spec(package) is None
    }
    if missing:
        raise MissingExtraError(next(iter(missing.values())), ",".join(missing))


@contextmanager
def naming_extras() -> Iterator[None]:
    """Say which extra is missing where an import fails for it."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        for extra, packages in _EXTRAS.items():
            if package in packages:
                raise MissingExtraError(package, extra) from error
        raise


class ImageReadError(PadimError):
    """A file that cannot be read as an image."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(redact(f"{path} cannot be read as an image: {reason}."))
        self.path = path
        self.reason = reason


class MaskReadError(ImageReadError):
    """A mask that cannot be read as an image; it is never left out."""


class UnreachableError(PadimError):
    """A store behind a network that is not there, or that lets nobody in."""


class DeviceError(PadimError):
    """A GPU that an engine cannot compute on here."""


class ClusterError(PadimError):
    """A cluster that cannot be reached, or that cannot do the work."""


class DatasetError(PadimError):
    """A folder that is not laid out as it must be."""


class WeightsError(PadimError):
    """Pretrained weights that are absent, damaged or of another network."""


class MemoryLimitError(PadimError):
    """Work that would need more memory than it may have."""


class ModelFileError(PadimError):
    """A model file that cannot be used."""


class ParityError(PadimError):
    """A graph does not compute as it did where it was written."""


class ModelFileTruncatedError(ModelFileError):
    """A model file that is cut short, or no model file at all."""


class ModelFileVersionError(ModelFileError):
    """A model file of a format version this release does not know."""


class ModelFileTensorError(ModelFileError):
    """A model file with a tensor that is missing or has the wrong shape."""


class ModelFileHashError(ModelFileError):
    """A model file whose contents are not what was written."""


def join_names(names: Iterable[object], limit: int = 5) -> str:
    """Join names with commas, as many as the limit, and say how many more there are."""
    texts = [str(name) for name in names]
    more = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more


def format_count(n: int, one: str, several: str = "") -> str:
    """Say how many there are: ``1 image``, ``12 images``; ``several`` is for what takes no s."""
    return f"{n} {one}" if n == 1 else f"{n} {several or one + 's'}"


def is_of_disk(error: OSError) -> bool:
    """Whether nothing more can be written, whatever the file."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def failure_of(error: BaseException) -> tuple[str, str] | None:
    """The class and a sentence of an error that ends a piece of work, and no other.

    None when it is a mistake in the code, or when nobody wants the result any more.
    """
    kind = type(error).__name__
    if isinstance(error, PadimError):
        return kind, str(error)
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        where = f"{error.filename}: " if error.filename else ""
        advice = " Free the disk or choose another folder." if is_of_disk(error) else ""
        if error.errno == errno.EROFS:
            advice = " Choose another folder."
        return kind, f"{where}{error.strerror or error}.{advice}"
    # torch has no class of its own for a CPU that ran out of memory, nor has ONNX Runtime.
    is_engines = isinstance(error, RuntimeError) or kind == "RuntimeException"
    if isinstance(error, MemoryError) or (is_engines and "memory" in str(error)):
        advice = "Take a smaller --size-px, fewer --dims or another --backbone."
        return kind, f"The memory ran out. {advice}"
    return None
