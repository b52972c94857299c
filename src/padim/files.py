"""Files that are either there and whole, or not there, under names that every system takes."""

import hashlib
import os
import re
import secrets
import shutil
import tempfile
import time
import unicodedata
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from itertools import chain, count
from pathlib import Path

from padim.errors import PadimError, UsageError

# Windows: what no name may hold, and names of devices, whatever their suffix. learn.microsoft.com,
# "Naming Files, Paths, and Namespaces".
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
_DEVICE = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE
)
_LONGEST_BYTES = 240  # of 255, less what write_whole and a suffix add
_WAITS_S = (0.1, 0.2, 0.4, 0.8, 1.6)


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Let a file be written under another name; it takes its own once it is whole and on disk.

    Nothing is left of it, or of a folder made for it, when the block fails. A folder or a device is
    not replaced.
    """
    _require_replaceable(path)
    is_new = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    try:
        partial.open("xb").close()
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        _replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        if is_new:
            with suppress(OSError):  # others have written there
                path.parent.rmdir()
        raise


@contextmanager
def write_together(path: Path, *, same: bool = False) -> Iterator[Path]:
    """Let a file and what it refers to be written elsewhere; they move once all are on disk.

    Whatever else is written into the folder that is given moves beside it, and first. A file of
    before goes before that, so that one that is there fits what it refers to, unless it says the
    ``same``. Nothing changes when the block fails.
    """
    _require_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as name:
        partial = Path(name) / path.name
        yield partial
        parts = sorted(partial.parent.iterdir(), key=lambda part: part == partial)
        for part in parts:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        if len(parts) > 1 and not same:
            _when_free(path, lambda: path.unlink(missing_ok=True))
        for part in parts:
            _replace(part, path.with_name(part.name))


def _require_replaceable(path: Path) -> None:
    """Make sure that a file takes no place but a file's; root could replace /dev/null."""
    if path.exists() and not path.is_file():
        kind = "folder" if path.is_dir() else "device"
        raise UsageError(f"{path} is a {kind}, but a file is to be written. Name another.")


def _replace(partial: Path, path: Path) -> None:
    _when_free(path, lambda: partial.replace(path))


def _when_free(path: Path, change: Callable[[], object]) -> None:
    """Change a file, which Windows refuses while a virus scanner or another program has it open."""
    for wait_s in (*_WAITS_S, None):
        try:
            change()
        except PermissionError as error:
            if getattr(error, "winerror", None) not in (5, 32):  # access denied; shared by another
                raise
            if wait_s is None:
                raise PadimError(
                    f"{path} cannot be replaced while another program has it open. Close it there, "
                    "or choose another file."
                ) from error
            time.sleep(wait_s)
        else:
            return


def sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_partial(path: Path) -> None:
    """Remove what ``write_whole`` has written of a file when its process died."""
    for partial in path.parent.glob(f".{escape(path.stem)}-{'?' * 8}{escape(path.suffix)}"):
        partial.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all; names of files in it need not be text."""
    with write_whole(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder, which is made when missing, as ``lock`` does."""
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / ".lock", f"is writing into {folder}. Wait for it, or choose another folder"):
        yield


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Keep other processes from changing a file that is there, as ``lock`` does."""
    with lock(path.with_name(f".{path.name}.lock"), f"is changing {path}. Wait for it"):
        yield


@contextmanager
def lock(path: Path, doing: str) -> Iterator[None]:
    """Hold a lock, an empty file that may stay; the system lets others in when this process ends.

    Raises:
        PadimError: Another process holds it, and so is ``doing`` something.
    """
    import filelock

    held = filelock.FileLock(path, timeout=0)
    try:
        held.acquire()
    except filelock.Timeout as error:
        raise PadimError(f"Another padim {doing}.") from error
    except (OSError, NotImplementedError):
        pass  # a file system without locks
    try:
        yield
    finally:
        held.release()


def safe_name(name: str) -> str:
    """A name for a file of ours that Windows, macOS and Linux take, with room for a suffix."""
    safe = _FORBIDDEN.sub("_", name)
    if safe.endswith((" ", ".")):  # Windows drops them
        safe = safe[:-1] + "_"
    if _DEVICE.fullmatch(safe):
        safe = "_" + safe
    content = os.fsencode(safe)
    if len(content) > _LONGEST_BYTES:
        digest = hashlib.sha256(content).hexdigest()[:8]
        kept = os.fsdecode(content[: _LONGEST_BYTES - 9]).encode("utf-8", "ignore")
        safe = f"{kept.decode('utf-8')}-{digest}"
    return safe


def same_name(name: str) -> str:
    """What two names have in common when Windows or macOS take them for one."""
    return unicodedata.normalize("NFC", name).casefold()


class Names:
    """Gives each output a name of its own, safe as ``safe_name`` makes it."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, *wanted: str) -> Path:
        """Take a name that nobody has taken, on no system.

        The best wanted comes first, with ``/`` between folders and without suffix. The last is
        numbered when all are taken.
        """
        safe = ["/".join(map(safe_name, name.split("/"))) for name in wanted]
        numbered = (f"{safe[-1]}-{n}" for n in count(2))
        for name in chain(safe, numbered):
            if (key := same_name(name)) not in self._taken:
                self._taken.add(key)
                return Path(name)
        raise AssertionError


def plain_text(name: str) -> str:
    """A name as text; file names need not be."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


class TemporaryFolder:
    """A folder that goes, with all that is in it, when nobody holds it any more.

    So does its parent, if it was missing and is empty then.
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
