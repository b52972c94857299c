"""A folder that is watched, on any kind of disk: it is looked at again and again."""

import errno
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from padim.files import plain_text, write_whole
from padim.images.decode import IMAGE_SUFFIXES
from padim.line.errors import SourceError
from padim.line.protocols import Part
from padim.line.settings import FolderSettings
from padim.store.inspection import Inspection, Verdict

_STILL = 2  # looks that find a file alike
_EMPTY = 10  # the same of an empty one, which is likely to be filled yet
_MOST_BYTES = 1 << 30
_log = logging.getLogger(__name__)


@dataclass
class _Sighting:
    """What was seen of a file, and how often in a row."""

    size: int
    changed_ns: int
    n_alike: int = 1


class FolderSource:
    """Takes pictures from a folder, and moves them once their verdict is written.

    A picture is known by its bytes: one that comes twice is inspected once.
    """

    def __init__(self, settings: FolderSettings) -> None:
        self.name = settings.name
        self._settings = settings
        self._done = settings.done or settings.path / "done"
        self._failed = settings.failed or settings.path / "failed"
        self._seen: dict[Path, _Sighting] = {}
        self._places: dict[str, list[Path]] = {}  # of what was handed over, by key
        self._stuck: set[Path] = set()  # cannot be moved, and is not taken again

    def open(self) -> None:
        """Make sure that the folder is there."""
        path = self._settings.path
        if not path.is_dir():
            raise SourceError(f"{path} is no folder now. Make it, or connect its disk.")
        for folder in (self._done, self._failed):
            folder.mkdir(parents=True, exist_ok=True)
        self._places.clear()

    def take(self, n_most: int, timeout_s: float) -> list[Part]:
        """Look for files that stand still, again and again until there are some."""
        until_s = time.monotonic() + timeout_s
        while True:
            parts = [self._read(path, recipe) for path, recipe in self._find(n_most)]
            left_s = until_s - time.monotonic()
            if parts or left_s <= 0:
                return parts
            time.sleep(min(self._settings.poll_s, left_s))

    def forget(self, part: Part, inspection: Inspection) -> None:
        """Move a picture out of the folder."""
        is_failed = inspection.verdict is Verdict.NOT_INSPECTED
        for path in self._places.pop(part.key, []):
            try:
                move_apart(path, self._failed if is_failed else self._done)
                if self._settings.marker:
                    path.with_name(path.name + self._settings.marker).unlink(missing_ok=True)
            except FileNotFoundError:  # somebody else has taken it away
                pass
            except OSError as error:
                _log.error("%s was inspected and cannot be moved: %s", path, error.strerror)
                self._stuck.add(path)

    def close(self) -> None:
        """What was handed over and not moved is found again."""
        self._seen.clear()

    def _find(self, n_most: int) -> list[tuple[Path, str]]:
        """Files that stand still, the oldest first, and their recipes."""
        handed = {path for paths in self._places.values() for path in paths} | self._stuck
        seen, still = {}, []
        for entry, recipe in self._scan():
            path = Path(entry.path)
            if path in handed:
                continue
            try:
                status = entry.stat()
            except FileNotFoundError:  # renamed meanwhile
                continue
            before = self._seen.get(path)
            if before and (before.size, before.changed_ns) == (status.st_size, status.st_mtime_ns):
                before.n_alike += 1
                seen[path] = before
            else:
                seen[path] = _Sighting(status.st_size, status.st_mtime_ns)
            if self._is_whole(path, seen[path]):
                still.append((status.st_mtime_ns, path, recipe))
        self._seen = seen
        return [(path, recipe) for _, path, recipe in sorted(still)[:n_most]]

    def _is_whole(self, path: Path, sighting: _Sighting) -> bool:
        if self._settings.marker:
            return path.with_name(path.name + self._settings.marker).exists()
        return sighting.n_alike >= (_STILL if sighting.size else _EMPTY)

    def _scan(self) -> Iterator[tuple[os.DirEntry[str], str]]:
        """Image files in the folder; in the folders inside it where those are recipes."""
        folder, recipe = self._settings.path, self._settings.recipe
        if recipe is not None:
            yield from ((entry, recipe) for entry in _list_images(folder))
            return
        with os.scandir(folder) as entries:
            inside = sorted(Path(one.path) for one in entries if one.is_dir())
        for one in inside:
            if one not in (self._done, self._failed):
                yield from ((entry, plain_text(one.name)) for entry in _list_images(one))

    def _read(self, path: Path, recipe: str) -> Part:
        """Read a file that stands still; what cannot be read is a part as well."""
        tags = {"file": plain_text(path.name)}
        try:
            status = path.stat()
            if status.st_size > _MOST_BYTES:
                raise OSError(errno.EFBIG, "it has more than 1 GiB")
            content = path.read_bytes()
        except OSError as error:
            what = os.fsencode(path) + repr(self._seen.get(path)).encode()
            reason = f"{plain_text(str(path))} cannot be read: {error.strerror}."
            part = Part(None, _hash(what), time.time(), recipe, reason, tags=tags)
        else:
            part = Part(content, _hash(content), status.st_mtime, recipe, tags=tags)
        self._places.setdefault(part.key, []).append(path)
        return part


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def move_apart(path: Path, folder: Path) -> Path:
    """Move a file into a folder, under a number where its name is taken; where it is then."""
    folder.mkdir(parents=True, exist_ok=True)
    names = (folder / f"{path.stem} ({n}){path.suffix}" for n in count(2))
    place = folder / path.name
    while place.exists():
        place = next(names)
    try:
        path.rename(place)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with write_whole(place) as partial:
            shutil.copyfile(path, partial)
        path.unlink()
    return place


def _list_images(folder: Path) -> Iterator[os.DirEntry[str]]:
    with suppress(NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122  # of ten thousand names
            if suffix in IMAGE_SUFFIXES and not entry.name.startswith(".") and entry.is_file():
                yield entry
