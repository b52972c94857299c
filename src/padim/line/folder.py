"""A folder as a source: looked at again and again, for network shares tell nobody of a new file."""

import errno
import hashlib
import logging
import os
import shutil
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import NamedTuple

from padim.files import plain_text, write_whole
from padim.images.decode import IMAGE_SUFFIXES
from padim.line.errors import SourceError
from padim.line.protocols import Part
from padim.line.settings import FolderSettings
from padim.store.inspection import Inspection, Verdict
from padim.temporary import name_temporary, sweep

_EMPTY_S = 10.0  # an empty file stands still so long before nothing is expected to come into it
_UNREADABLE_S = 10.0  # so long another program may keep a file for itself
_AT_ONCE = 10  # files that could not be moved away, and are tried again at each look
_LONGEST_NAME = 255  # bytes
_log = logging.getLogger(__name__)

_Stamp = tuple[int, int, int]  # inode, bytes, nanoseconds of the last change


class _File(NamedTuple):
    """A picture in the folder, as it was when it was looked at; a light thing, for thousands."""

    place: str
    recipe: str
    stamp: _Stamp

    @property
    def path(self) -> Path:
        return Path(self.place)

    @property
    def n_bytes(self) -> int:
        return self.stamp[1]


@dataclass(frozen=True, kw_only=True)
class FilePart(Part):
    """A part that came as a file."""

    file: _File


class _Watched(NamedTuple):
    """Since when a file looks as it does."""

    stamp: _Stamp
    since_s: float


class FolderSource:
    """Takes pictures that are put into a folder, and moves them away once they are inspected.

    The key of a picture is the sha256 of its bytes: the same bytes are inspected once, whatever the
    file is called. What has no bytes, or too many, is known by its name and time instead.
    """

    def __init__(self, settings: FolderSettings) -> None:
        self.name = settings.name
        self._settings = settings
        self._done = settings.done_path
        self._failed = settings.failed_path
        self._watched: dict[str, _Watched] = {}
        self._unreadable: dict[str, float] = {}  # since when
        self._ready: deque[_File] = deque()
        self._taken: dict[str, _Stamp] = {}  # and not moved away
        self._stuck: dict[_File, tuple[bool, str]] = {}  # whether it failed, and why it stays
        self._next_look_s = 0.0

    @property
    def trouble(self) -> str:
        """Which file cannot be moved away though it is inspected; empty when there is none."""
        for file, (_, reason) in tuple(self._stuck.items()):
            return f"{plain_text(str(file.path))} is inspected, but cannot be moved away: {reason}."
        return ""

    def open(self) -> None:
        """Make sure that the folder is there, and that files can be moved out of it.

        Raises:
            SourceError: It is not, or they cannot.
        """
        folder = self._settings.path
        if not folder.is_dir():
            raise SourceError(
                f"The folder {folder} is not there. Check the path, and whether its share is "
                "connected."
            )
        sweep(folder)
        for place in (self._done, self._failed):
            probe = folder / name_temporary()
            try:
                place.mkdir(exist_ok=True)
                sweep(place)
                probe.touch()
                _move(probe, moved := place / probe.name)
                moved.unlink()
            except OSError as error:
                with suppress(OSError):
                    probe.unlink()
                raise SourceError(
                    f"Files of {folder} cannot be moved to {place}: {error.strerror}. Give the "
                    "service the right to write into both."
                ) from error
        self._watched = {}
        self._unreadable = {}
        self._ready.clear()
        self._taken = {}
        self._stuck = {}
        self._next_look_s = 0.0
        self._drop_lone_markers()

    def take(self, n_most: int, timeout_s: float) -> list[Part]:
        """Hand over pictures that stand still, the oldest first."""
        end_s = time.monotonic() + timeout_s
        parts: list[Part] = []
        while not parts:
            now_s = time.monotonic()
            if not self._ready and now_s >= self._next_look_s:
                self._look()
                self._next_look_s = time.monotonic() + self._settings.poll_s
            while self._ready and len(parts) < n_most:
                file = self._ready.popleft()
                part = self._read(file)
                if part is not None:
                    self._taken[file.place] = file.stamp
                    parts.append(part)
            wait_s = min(end_s, self._next_look_s) - time.monotonic()
            if not parts:
                if time.monotonic() >= end_s:
                    break
                time.sleep(max(0.0, wait_s))
        return parts

    def forget(self, part: Part, inspection: Inspection) -> None:
        """Move the file of a part away, unless another has taken its name."""
        assert isinstance(part, FilePart)
        self._put_away(part.file, is_failed=inspection.verdict is Verdict.NOT_INSPECTED)

    def close(self) -> None:
        """Let go; there is nothing to be let go of."""

    def _look(self) -> None:
        """Look for files that are ready, the oldest first."""
        for file, (is_failed, _) in tuple(self._stuck.items())[:_AT_ONCE]:
            self._put_away(file, is_failed=is_failed)
        settings, now_s = self._settings, time.monotonic()
        seen: dict[str, _Watched] = {}
        ready: list[_File] = []
        for folder, recipe in self._list_folders():
            found, markers = self._scan(folder, recipe)
            for file in found:
                if self._taken.get(file.place) == file.stamp:
                    continue
                before = self._watched.get(file.place)
                is_same = before is not None and before.stamp == file.stamp
                watched = before if before and is_same else _Watched(file.stamp, now_s)
                seen[file.place] = watched
                still_s = settings.still_s if file.n_bytes else max(settings.still_s, _EMPTY_S)
                is_still = is_same and now_s - watched.since_s >= still_s
                is_marked = bool(markers) and not markers.isdisjoint(self._name_markers(file.path))
                if is_marked or (is_still and not settings.marker_only):
                    ready.append(file)
        self._watched = seen
        self._unreadable = {one: at for one, at in self._unreadable.items() if one in seen}
        ready.sort(key=lambda one: (one.stamp[2], one.place))
        self._ready.extend(ready)

    def _list_folders(self) -> Iterator[tuple[Path, str]]:
        """Folders to look into, and what is inspected by in each."""
        root = self._settings.path
        yield root, self._settings.recipe or ""
        if self._settings.recipe is None:
            places = {self._done, self._failed}
            with os.scandir(root) as entries:
                names = sorted(
                    one.name for one in entries if one.is_dir() and not one.name.startswith(".")
                )
            for name in names:
                if root / name not in places:
                    yield root / name, plain_text(name)

    def _scan(self, folder: Path, recipe: str) -> tuple[list[_File], set[str]]:
        """The pictures in a folder, and the names of the markers."""
        files: list[_File] = []
        markers: set[str] = set()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = entry.name
                    if name.startswith("."):
                        continue
                    if name.endswith(self._settings.marker):
                        markers.add(name)
                    elif _is_image(name) and entry.is_file(follow_symlinks=False):
                        try:
                            status = entry.stat(follow_symlinks=False)
                        except FileNotFoundError:  # moved since
                            continue
                        files.append(_File(entry.path, recipe, _stamp(status)))
        except FileNotFoundError:
            if folder == self._settings.path:
                raise SourceError(
                    f"The folder {folder} is gone. Check whether its share is connected."
                ) from None
        return files, markers

    def _name_markers(self, path: Path) -> tuple[str, str]:
        return path.name + self._settings.marker, path.stem + self._settings.marker

    def _drop_lone_markers(self) -> None:
        """Remove markers whose pictures are gone: a file of that name would be taken half written.

        They are left by a process that ended after it had moved the picture.
        """
        for folder, _ in self._list_folders():
            with suppress(OSError):
                names = {entry.name for entry in os.scandir(folder)}
                kept = {
                    marker
                    for name in names
                    if _is_image(name)
                    for marker in self._name_markers(folder / name)
                }
                for name in names - kept:
                    if name.endswith(self._settings.marker) and not name.startswith("."):
                        (folder / name).unlink()

    def _read(self, file: _File) -> FilePart | None:
        """What to hand over of a file; None when it is to be looked at again."""
        picture: bytes | None = None
        reason = ""
        if not file.n_bytes:
            reason = "The file is empty."
        elif file.n_bytes > (most := self._settings.picture_bytes):
            reason = f"The file has {file.n_bytes} bytes, but may have {most}."
        elif not file.recipe:
            reason = "The file lies in no folder of a recipe."
        else:
            try:
                picture = _read_whole(file)
            except FileNotFoundError:
                return None
            except OSError as error:
                since_s = self._unreadable.setdefault(file.place, time.monotonic())
                if time.monotonic() - since_s < _UNREADABLE_S:
                    return None
                reason = f"The file cannot be read: {error.strerror}."
            else:
                if picture is None:
                    return None
        deadline_ms = self._settings.deadline_ms
        name = plain_text(file.path.relative_to(self._settings.path).as_posix())
        known_by = picture or f"{name}\n{file.n_bytes}\n{file.stamp[2]}".encode()
        return FilePart(
            picture=picture,
            key=hashlib.sha256(known_by).hexdigest(),
            time_s=time.time(),
            recipe=file.recipe,
            reason=reason,
            tags={"file": name},
            deadline_s=None if deadline_ms is None else deadline_ms / 1e3,
            file=file,
        )

    def _put_away(self, file: _File, *, is_failed: bool) -> None:
        """Move a file away, or remember that it cannot be."""
        path = file.path
        try:
            if _stamp(path.lstat()) == file.stamp:
                if self._settings.delete_done and not is_failed:
                    path.unlink()
                else:
                    _move(path, self._choose_place(path, is_failed=is_failed))
                for marker in self._name_markers(path):
                    if len(os.fsencode(marker)) <= _LONGEST_NAME:
                        path.with_name(marker).unlink(missing_ok=True)
        except FileNotFoundError:  # someone else has moved it
            if not self._settings.path.is_dir():
                raise
        except OSError as error:
            if file not in self._stuck:
                _log.warning("source %s: %s cannot be moved away: %s", self.name, path, error)
            self._stuck[file] = is_failed, error.strerror or str(error)
            return
        self._stuck.pop(file, None)
        if self._taken.get(file.place) == file.stamp:
            del self._taken[file.place]

    def _choose_place(self, path: Path, *, is_failed: bool) -> Path:
        """Where a file goes to; under another name when its own is taken there."""
        place = self._failed if is_failed else self._done
        folder = place / path.parent.relative_to(self._settings.path)
        folder.mkdir(exist_ok=True)
        target = folder / path.name
        numbers = count(2)
        while os.path.lexists(target):
            suffix = f"-{next(numbers)}{path.suffix}"
            stem = os.fsencode(path.stem)[: _LONGEST_NAME - len(os.fsencode(suffix))]
            target = folder / f"{os.fsdecode(stem)}{suffix}"
        return target


def _move(path: Path, target: Path) -> None:
    """Move a file, also to another disk; where a power failure undoes it, it is moved again."""
    try:
        path.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with write_whole(target) as partial:
            shutil.copyfile(path, partial)
        path.unlink()


def _is_image(name: str) -> bool:
    stem, dot, suffix = name.rpartition(".")
    return bool(stem) and f"{dot}{suffix.lower()}" in IMAGE_SUFFIXES


def _stamp(status: os.stat_result) -> _Stamp:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _read_whole(file: _File) -> bytes | None:
    """The bytes of a file; None when it is another than was looked at, or changes meanwhile."""
    with file.path.open("rb") as stream:
        if _stamp(os.fstat(stream.fileno())) != file.stamp:
            return None
        picture = stream.read(file.n_bytes + 1)
        is_same = _stamp(os.fstat(stream.fileno())) == file.stamp
    return picture if is_same and len(picture) == file.n_bytes else None
