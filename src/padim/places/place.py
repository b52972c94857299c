"""A path of what is no plain file of this machine, and that knows how to read it."""

import errno
import io
import os
import re
import stat
from collections.abc import Generator
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, final

from padim.errors import UsageError
from padim.places.archives import find_archive, find_url_store
from padim.places.entry import SCHEMES, Entry, Store

FAR_THREADS = 16  # that wait for a network at a time
_URL = re.compile(rf"({'|'.join(SCHEMES)}):[/\\]+(.*)", re.DOTALL | re.IGNORECASE)
_ANY_URL = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_TAR = re.compile(r".+\.(tar|tgz|tbz2?|txz)(\.(gz|bz2|xz|zst))?", re.IGNORECASE)
_PARQUET = re.compile(r".+\.parquet", re.IGNORECASE)
_MOST_IN_MEMORY = 2**26  # bytes of an opened file
_NOTHING = "\x1f"  # stands for nothing between two slashes, which a path would drop

if TYPE_CHECKING:
    _Base = Path
else:
    _Base = type(Path())  # of this system


@final
class Place(_Base):
    """A path of a URL, of a member of a tar, or of a row of a Parquet file.

    It can be listed, looked at and read as others can, and not be written to. As a text it is the
    URL, or ``shots.tar/0001.png``. What is beside it or above it is a path of its kind.
    """

    _entry: Entry | None = None  # what was said of it when it was listed, or first looked at

    def __str__(self) -> str:
        text = super().__str__()
        found = _URL.fullmatch(text)
        if found is None:
            return text
        rest = found[2].replace(os.sep, "/").replace(_NOTHING, "")
        return f"{found[1]}://{rest}"

    def __fspath__(self) -> str:
        return str(self)

    def __reduce__(self) -> tuple[object, ...]:
        return find_place, (str(self),)

    @property
    def is_url(self) -> bool:
        """Whether it is behind a network."""
        return _URL.fullmatch(super().__str__()) is not None

    @property
    def suffix(self) -> str:
        """The suffix of its name, of which what follows the question mark by HTTP is no part."""
        name = self.name
        return Path(name.partition("?")[0] if self.is_url else name).suffix

    def locate(self) -> tuple[Store, str] | None:
        """The store that it is in, and its name there; None where it is a plain file after all."""
        parts = self.parts
        is_url = self.is_url
        for i, part in enumerate(parts[2:] if is_url else parts, 3 if is_url else 1):
            if _TAR.fullmatch(part) and (is_url or not Path(*parts[:i]).is_dir()):
                return _find_store("tar", _join_parts(parts[:i], is_url)), "/".join(parts[i:])
            if i == len(parts) or not _PARQUET.fullmatch(part):
                continue
            if is_url or not Path(*parts[:i]).is_dir():
                return _find_store("parquet", _join_parts(parts[:i], is_url)), "/".join(parts[i:])
        if not is_url:
            return None
        return find_url_store(parts[0].rstrip(":").lower()), str(self)

    def look(self) -> Entry | None:
        """What there is; None where there is nothing."""
        if self._entry is not None:
            return self._entry
        place = self.locate()
        if place is not None:
            self._entry = place[0].find(place[1])
            return self._entry
        try:
            status = super().stat()
        except (OSError, ValueError):
            return None
        changed_s = status.st_mtime
        identity = (status.st_ino, status.st_size, status.st_mtime_ns)
        is_folder = stat.S_ISDIR(status.st_mode)
        return Entry(self.name, is_folder, status.st_size, 0, changed_s, identity)

    def exists(self, **_links: bool) -> bool:
        """Whether there is anything."""
        return self.look() is not None

    def is_file(self, **_links: bool) -> bool:
        """Whether it is a file."""
        entry = self.look()
        return entry is not None and not entry.is_folder

    def is_dir(self, **_links: bool) -> bool:
        """Whether it is a folder, or a tar."""
        entry = self.look()
        return entry is not None and entry.is_folder

    def is_symlink(self) -> bool:
        """Whether it is a link, which nothing in a store is."""
        return False

    def stat(self, **_links: bool) -> os.stat_result:
        """What is known of it: kind, length and time."""
        entry = self.look()
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        mode = stat.S_IFDIR | 0o555 if entry.is_folder else stat.S_IFREG | 0o444
        time_s = int(entry.changed_s)
        return os.stat_result((mode, 0, 0, 1, 0, 0, entry.n_bytes or 0, time_s, time_s, time_s))

    def iterdir(self) -> Generator["Place", None, None]:
        """What is in a folder; that it is and how long it is asks for nothing more."""
        place = self.locate()
        if place is None:
            yield from super().iterdir()
            return
        for entry in place[0].list(place[1]):
            child = self / entry.name
            child._entry = entry
            yield child

    def absolute(self) -> "Place":
        """The same from every folder."""
        return self if self.is_url else _keep(super().absolute())

    def resolve(self, strict: bool = False) -> "Place":
        """The same from every folder, without links on the way."""
        return self if self.is_url else _keep(super().resolve(strict))

    def read_bytes(self) -> bytes:
        """The bytes of a file, into memory."""
        place = self.locate()
        return super().read_bytes() if place is None else place[0].read(place[1], self._entry)

    def open_parts(self) -> IO[bytes]:
        """Open a file whose parts are read here and there."""
        place = self.locate()
        return super().open("rb") if place is None else place[0].open(place[1])

    def open(  # type: ignore[override]  # of the many kinds of files two are enough
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[str] | IO[bytes]:
        """Open it for reading: in memory, or as a copy on this machine if it is large.

        So it is without a buffer, which who does without it wants of a file.
        """
        from padim.places.copies import copy_here

        if set(mode) & set("wax+"):
            require_here(self)
        if self.locate() is None:
            return super().open(mode, buffering, encoding, errors, newline)
        if "b" not in mode:
            return io.TextIOWrapper(io.BytesIO(self.read_bytes()), encoding, errors, newline)
        n_bytes = self.stat().st_size
        if buffering == 0 or n_bytes > _MOST_IN_MEMORY:
            return copy_here(self).open(mode, buffering)
        return io.BytesIO(self.read_bytes())

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Refuse to be made in a store."""
        require_here(self)
        super().mkdir(mode, parents, exist_ok)


def find_place(given: str | os.PathLike[str]) -> Path:
    """The path that a text or another path means, a `Place` where it is no plain file's.

    Raises:
        UsageError: It is a URL of a kind that is not known.
    """
    if isinstance(given, Place):
        return given
    text = os.fspath(given)
    if (url := _URL.fullmatch(text)) and (url[2] or "://" in text):
        return _place_of_url(url[1], url[2])
    if (other := _ANY_URL.match(text)) and isinstance(given, str):
        raise UsageError(
            f"{text} begins with {other[0]}, but needs to be a path or one of "
            f"{', '.join(f'{scheme}://' for scheme in SCHEMES)}. Name another place."
        )
    path = given if isinstance(given, Path) else Path(text)
    for i, part in enumerate(path.parts, 1):
        is_inside = i < len(path.parts)
        if (_TAR.fullmatch(part) or (is_inside and _PARQUET.fullmatch(part))) and Path(
            *path.parts[:i]
        ).is_file():
            return _keep(path)
    return path


def is_far(path: object) -> bool:
    """Whether something is a path, or the text of one, that is behind a network."""
    if isinstance(path, str):
        return bool(_URL.match(path))
    return isinstance(path, Place) and path.is_url


def join(folder: Path, text: str) -> Path:
    """The path that a text in a file means, from the folder of the file.

    Raises:
        UsageError: As ``find_place``.
    """
    if _ANY_URL.match(text):
        return find_place(text)
    path = folder / text
    if is_far(path) and ".." in path.parts:
        kept: list[str] = []
        for part in path.parts:
            if part != "..":
                kept.append(part)
            elif len(kept) > 2:
                kept.pop()
        return find_place(_join_parts(tuple(kept), True))
    return find_place(path)


def require_here(path: Path) -> None:
    """Make sure that a file is one that can be written to.

    Raises:
        UsageError: It is in a store.
    """
    if isinstance(path, Place) and path.locate() is not None:
        raise UsageError(
            f"{path} cannot be written to, since what is written stays on this machine. "
            "Name a file or folder here."
        )


def _place_of_url(scheme: str, rest: str) -> Place:
    segments = rest.replace(os.sep, "/").rstrip("/").split("/")
    return Place(f"{scheme.lower()}:", *(one or _NOTHING for one in segments))


def _keep(path: Path) -> Place:
    return Place(*path.parts)


def _join_parts(parts: tuple[str, ...], is_url: bool) -> str:
    if is_url:
        return f"{parts[0]}//{'/'.join(parts[1:])}".replace(_NOTHING, "")
    return str(Path(*parts))


@lru_cache(64)
def _find_store(kind: str, file: str) -> Store:
    if kind == "tar":
        from padim.places.tars import TarStore

        return TarStore(find_archive(file))
    if kind == "parquet":
        from padim.places.rows import RowStore

        return RowStore(find_archive(file))
    return find_url_store(kind)
