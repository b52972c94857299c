"""Files that are either there and whole, or not there, under names that every system takes."""

import errno
import hashlib
import os
import re
import shutil
import stat
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import chain, count
from pathlib import Path

from padim.errors import PadimError, UsageError
from padim.places import require_here
from padim.temporary import (
    TemporaryFolder,
    drop_folder,
    make_folder,
    name_temporary,
    sweep_once,
)

# Windows: what no name may hold, and names of devices, whatever their suffix. learn.microsoft.com,
# "Naming Files, Paths, and Namespaces".
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
_DEVICE = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE
)
_LONGEST_BYTES = 240  # of 255, less a suffix
_WAITS_S = (0.1, 0.2, 0.4, 0.8, 1.6)


@contextmanager
def write_whole(path: Path, *, is_one_of_many: bool = False) -> Iterator[Path]:
    """Let a file be written under another name; it takes its own once it is whole and on disk.

    What it replaces keeps its rights, and a link stays one. Nothing is left of it, or of a folder
    made for it, when the block fails. A folder or a device is not replaced. A power cut may take
    the name of one of many, but leaves no half of it.
    """
    _require_replaceable(path)
    path = _follow(path)
    partial = path.with_name(name_temporary(path.suffix))
    try:
        make_folder(path.parent)
        sweep_once(path.parent)
        with naming(path, partial):
            partial.open("xb").close()
            _copy_rights(path, partial, stat.S_IRUSR | stat.S_IWUSR)
            yield partial
            _replace(partial, path, is_one_of_many=is_one_of_many)
    except BaseException:
        with suppress(OSError):  # of a disk that may only be read; what went wrong is said
            partial.unlink(missing_ok=True)
        drop_folder(path.parent)
        raise


@contextmanager
def write_together(path: Path) -> Iterator[Path]:
    """Let a file and what it refers to be written elsewhere; they move once all are on disk.

    Whatever else is written into the folder that is given moves beside it, and first. Nothing
    changes when the block fails, and what is cut short while they move is made up by ``complete``.
    """
    _require_replaceable(path)
    path = _follow(path)
    make_folder(path.parent)
    complete(path)
    with naming(path), TemporaryFolder(path.parent) as folder:
        partial = folder / path.name
        yield partial
        parts = sorted(folder.iterdir())
        for part in parts:
            _sync(part)
        if len(parts) == 1:
            _replace(partial, path)
            return
        sync_folder(folder)
        ready = _find_ready(path)
        folder.rename(ready)
        sync_folder(path.parent)
        try:
            complete(path)
        except PadimError:
            if len(list(ready.iterdir())) == len(parts):  # nothing has moved
                ready.rename(folder)
            raise


def complete(path: Path) -> None:
    """Finish what ``write_together`` had ready of a file when its process died."""
    path = _follow(path)
    ready = _find_ready(path)
    if not ready.is_dir():
        return
    for part in sorted(ready.iterdir(), key=lambda part: part.name == path.name):
        with suppress(FileNotFoundError):  # another process has done so
            _replace(part, path.with_name(part.name))
    with suppress(OSError):
        ready.rmdir()


def _find_ready(path: Path) -> Path:
    """Where the parts of a file wait that are whole and on their way."""
    return path.with_name(_hide(path.name, ".ready"))


def move(source: Path, path: Path) -> None:
    """Let a file take the place of another, with that one's rights, also on another disk."""
    try:
        with naming(path):
            _replace(source, _follow(path))
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with write_whole(path) as partial:
            shutil.copyfile(source, partial)
        source.unlink()


def _require_replaceable(path: Path) -> None:
    """Make sure that a file takes no place but a file's; root could replace /dev/null."""
    if path.exists() and not path.is_file():
        kind = "folder" if path.is_dir() else "device"
        raise UsageError(f"{path} is a {kind}, but a file is to be written. Name another.")


def _follow(path: Path) -> Path:
    """The file that a link leads to, or the path itself."""
    require_here(path)
    return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextmanager
def naming(path: Path, partial: Path | None = None) -> Iterator[None]:
    """Say which file it is where the system names none, as of a full disk, or the partial one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, partial and str(partial)):
            error.filename = str(path)
        raise


def _replace(partial: Path, path: Path, *, is_one_of_many: bool = False) -> None:
    _sync(partial)
    _copy_rights(path, partial)
    _when_free(path, lambda: partial.replace(path))
    if not is_one_of_many:
        sync_folder(path.parent)


def _copy_rights(source: Path, target: Path, more: int = 0) -> None:
    """Give a file the mode and the owner of another, where there is one."""
    if sys.platform != "win32":
        with suppress(OSError):  # there is none, or it is another's
            status = source.stat()
            target.chmod(stat.S_IMODE(status.st_mode) | more)
            mine = target.stat()
            if (mine.st_uid, mine.st_gid) != (status.st_uid, status.st_gid):
                os.chown(target, status.st_uid, status.st_gid)


def _sync(path: Path) -> None:
    """Bring the bytes of a file to the disk."""
    with path.open("rb+" if os.name == "nt" else "rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can."""
    if os.name == "nt":
        return
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


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


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all; names of files in it need not be text."""
    with write_whole(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")


def csv_cell(value: object) -> object:
    """A value as a table has it: text that a spreadsheet would compute with gets a quote before it.

    Source: OWASP, CSV Injection.
    """
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder, as ``lock`` does.

    One that is missing is made, and goes when nothing is written into it.
    """
    is_new = not folder.exists()
    held = folder / ".lock"
    try:
        make_folder(folder)
        with lock(held, f"is writing into {folder}. Wait for it, or choose another folder"):
            try:
                yield
            finally:
                if is_new and list(folder.iterdir()) == [held]:
                    with suppress(OSError):  # Windows removes no file that is open
                        held.unlink()
    finally:
        drop_folder(folder)


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Keep other processes from changing a file that is there, as ``lock`` does."""
    with lock(_find_lock(path), f"is changing {path}. Wait for it"):
        yield


@contextmanager
def lock_new(path: Path, *, is_one_of_several: bool) -> Iterator[None]:
    """``lock_file`` for a file that may be new, in a folder that may be.

    The lock of a new one that stands alone, or that was not written, does not stay.
    """
    stays = is_one_of_several or path.is_file()
    try:
        make_folder(path.parent)
        with lock_file(path):
            try:
                yield
            finally:
                if not stays or not path.is_file():
                    with suppress(OSError):  # Windows removes no file that is open
                        _find_lock(path).unlink()
    finally:
        drop_folder(path.parent)


def _find_lock(path: Path) -> Path:
    """The lock of a file, which is one whatever link leads to it."""
    path = _follow(path)
    return path.with_name(_hide(path.name, ".lock"))


@contextmanager
def hold(path: Path) -> Iterator[Callable[[], None]]:
    """Keep other processes from changing a file while it is read, and replaced by what came of it.

    Yields:
        What raises a `PadimError` if another program has changed it all the same.

    Raises:
        PadimError: Another process is changing it.
    """
    with lock_file(path) if path.is_file() else nullcontext():
        yield remember(path)


def remember(path: Path) -> Callable[[], None]:
    """Remember which file is there; gives what raises a `PadimError` if it is another by then."""
    before = identify(path)

    def check() -> None:
        if identify(path) != before:
            raise PadimError(
                f"{path} has changed since it was read, and nothing was written. Run it again."
            )

    return check


def identify(file: Path | int) -> tuple[int, ...]:
    """What tells a file, by its path or its descriptor, from another that has taken its place.

    So it tells a file from what it was before it changed; nothing where none is there.
    """
    try:
        status = os.stat(file)  # noqa: PTH116  # Path has none of descriptors
    except FileNotFoundError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _hide(name: str, suffix: str) -> str:
    """A hidden name beside a file's, which may be as long as names can be."""
    if len(content := os.fsencode(name)) > _LONGEST_BYTES:
        name = hashlib.sha256(content).hexdigest()
    return f".{name}{suffix}"


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


def can_be_named(path: Path) -> bool:
    """Whether a file can have such a name, be it there or not."""
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


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
