"""Files that are either there and whole, or not there."""

import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from padim.errors import PadimError

# It can only be read by setting it, for all threads at once: so once, here.
_UMASK = os.umask(0)
os.umask(_UMASK)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Let a file be written under another name; it takes its own once it is whole and on disk.

    Args:
        path: The file to be; its folder is made when missing.

    Yields:
        Where to write. Nothing is left of it, or of a folder made for it, when the block fails.
    """
    is_new = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.chmod(0o666 & ~_UMASK)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        if is_new:
            with suppress(OSError):  # others have written there
                path.parent.rmdir()
        raise


@contextmanager
def written_together(path: Path, *, same: bool = False) -> Iterator[Path]:
    """Let a file and what it refers to be written elsewhere; they move once all are on disk.

    Args:
        path: The file to be; its folder is made when missing.
        same: Whether a file of before says the same, and so may stay until it is replaced.

    Yields:
        Where to write it; whatever else is written into that folder moves beside it, and first. A
        file of before goes before that, so that one that is there fits what it refers to. Nothing
        changes when the block fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as name:
        partial = Path(name) / path.name
        yield partial
        parts = sorted(partial.parent.iterdir(), key=lambda part: part == partial)
        for part in parts:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        if len(parts) > 1 and not same:
            path.unlink(missing_ok=True)
        for part in parts:
            part.replace(path.with_name(part.name))


def sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_partial(path: Path) -> None:
    """Remove what ``written_whole`` has written of a file when its process died."""
    for partial in path.parent.glob(f".{escape(path.stem)}-{'?' * 8}{escape(path.suffix)}"):
        partial.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all; names of files in it need not be text."""
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder; the system lets them in when this one ends.

    Args:
        folder: It is made when missing; an empty ``.lock`` stays in it.

    Raises:
        PadimError: Another process keeps it.
    """
    import fcntl  # not everywhere

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PadimError(
                f"Another padim is writing into {folder}. Wait for it, or choose another folder."
            ) from error
        except OSError:
            pass  # a file system without locks
        yield


def plain_text(name: str) -> str:
    """A name as text; file names need not be."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


class TemporaryFolder:
    """A folder that goes, with all that is in it, when nobody holds it any more.

    Args:
        parent: Where; the system's folder for such when None. It is made when missing, and goes as
            well when it is empty then.
    """

    def __init__(self, parent: Path | None = None) -> None:
        is_new = parent is not None and not parent.exists()
        if parent is not None:
            parent.mkdir(parents=True, exist_ok=True)
        self.path = Path(tempfile.mkdtemp(prefix=".padim-", dir=parent)).absolute()
        weakref.finalize(self, _remove, self.path, is_new)


def _remove(folder: Path, with_parent: bool) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if with_parent:
        with suppress(OSError):  # others have written there
            folder.parent.rmdir()
