"""Temporary files and folders, whose names say which process they are of.

What a process that was killed has left is so known from what one that lives still needs, and the
next one that writes there removes it: that of this machine alone, since a folder may be shared.
"""

import hashlib
import os
import secrets
import shutil
import sys
import tempfile
import weakref
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path

_PREFIX = ".padim-"
_SUFFIX_BYTES = 32  # a longer one says nothing of a file's format

_made: set[Path] = set()  # folders that were missing, until they are removed


def name_temporary(suffix: str = "") -> str:
    """A new name for a temporary file of this process, short enough for every folder."""
    kept = suffix if len(os.fsencode(suffix)) <= _SUFFIX_BYTES else ""
    machine, boot = _identify_machine()
    return f"{_PREFIX}{machine}-{boot}-{os.getpid()}-{secrets.token_hex(4)}{kept}"


def sweep(folder: Path) -> None:
    """Remove the temporary files that processes of this machine have left which are gone."""
    with suppress(OSError):  # who writes there says so
        for entry in list(os.scandir(folder)):
            if entry.name.startswith(_PREFIX) and _is_left(entry.name):
                _remove(Path(entry.path))


@lru_cache(1024)
def sweep_once(folder: Path) -> None:
    """``sweep`` a folder, if this process has not done so yet."""
    sweep(folder)


class TemporaryFolder:
    """A folder that nobody else may read, in the system's place when no parent is given.

    It goes, with all that is in it, when nobody holds it any more; in a ``with`` block at its end.
    So does its parent, if it was missing and is empty then.
    """

    def __init__(self, parent: Path | None = None) -> None:
        folder = parent or Path(tempfile.gettempdir())
        self.path = (folder / name_temporary()).absolute()
        # Before anything is made: Ctrl-C may come at any moment.
        self._remove = weakref.finalize(self, _remove_with_parent, self.path)
        if parent is not None:
            make_folder(parent)
        try:
            sweep_once(folder)
            self.path.mkdir(mode=0o700)
        except OSError as error:
            if parent is not None:
                raise
            advice = "Name a folder for temporary files in the variable TMPDIR"
            raise OSError(error.errno, f"{error.strerror}. {advice}", error.filename) from error

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self._remove()


def make_folder(folder: Path) -> None:
    """Make a folder for what is to be written there, if it is missing; ``drop_folder`` knows it."""
    if not folder.exists():
        _made.add(folder.absolute())
    folder.mkdir(parents=True, exist_ok=True)


def drop_folder(folder: Path) -> None:
    """Remove a folder that ``make_folder`` made in this process, if nothing is in it.

    Whoever leaves it last removes it, so each who has made it for something calls this at its end.
    """
    if folder.absolute() in _made:
        with suppress(OSError):  # something has been written there
            folder.rmdir()
            _made.discard(folder.absolute())


def _remove_with_parent(path: Path) -> None:
    _remove(path)
    drop_folder(path.parent)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # another process was faster, or it is not ours
            path.unlink()


def _is_left(name: str) -> bool:
    """Whether a name is that of a temporary file of this machine whose process is gone."""
    machine, _, rest = name.removeprefix(_PREFIX).partition("-")
    boot, _, rest = rest.partition("-")
    pid = rest.partition("-")[0]
    our_machine, our_boot = _identify_machine()
    if machine != our_machine or not pid.isdecimal():
        return False
    if boot != our_boot:
        return True
    import psutil

    try:
        return psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:  # another user's
        return False


@cache
def _identify_machine() -> tuple[str, str]:
    """This machine and its present run, each in a few letters.

    A container with process numbers of its own is a machine of its own. Where the system does not
    name its runs, what one has left is known by the process number alone.
    """
    boot = ""
    if sys.platform == "win32":
        names = [os.environ.get("COMPUTERNAME", "")]
    else:
        names = [os.uname().nodename]
    if sys.platform == "linux":
        with suppress(OSError):
            names.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115  # it is no path
            boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
    return _shorten("".join(names)), _shorten(boot)


def _shorten(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]
