"""Pictures under their sha256, as many as may be kept."""

import hashlib
import logging
import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from padim.files import write_whole
from padim.store.inspection import Inspection, Verdict

_log = logging.getLogger(__name__)
_CLEANED = 0.9  # of the quota is left by a cleaning
_SOUGHT = 100  # pictures between two looks at the disk


@dataclass(frozen=True)
class Retention:
    """Which pictures are kept, and how much room they have.

    Attributes:
        ok_every: One in so many of the OK ones, drawn by the id; 0 for none. All others are kept.
        most_bytes: Of all pictures; the oldest OK ones go first, then the oldest others.
        free_bytes: That stay free on the disk, likewise.
    """

    ok_every: Annotated[int, Meta(ge=0, le=1 << 40)] = 100
    most_bytes: Annotated[int, Meta(ge=0, le=1 << 60)] = 20_000_000_000
    free_bytes: Annotated[int, Meta(ge=0, le=1 << 60)] = 2_000_000_000


class Pictures:
    """A folder of pictures; threads may share it.

    Args:
        folder: Where they are: those of OK in ``ok``, all others in ``kept``.
        retention: Which are kept.
    """

    def __init__(self, folder: Path, retention: Retention = Retention()) -> None:
        self._folder = folder
        self._retention = retention
        self._n_bytes = sum(size for _, size, _ in self._list())
        self._n_since = 0
        self._has_room = True  # on the disk, at the last look
        self._lock = threading.Lock()

    def keep(self, inspection: Inspection, picture: bytes) -> bool:
        """Keep the picture of an inspection, if the rule says so; whether it did."""
        if inspection.verdict is Verdict.OK:
            every = self._retention.ok_every
            if not every or _draw(inspection.arrival.id) % every:
                return False
            return self._write("ok", inspection, picture)
        return self._write("kept", inspection, picture)

    def keep_disputed(self, inspection: Inspection, picture: bytes) -> bool:
        """Keep a picture on which two models disagree."""
        return self._write("kept", inspection, picture)

    def read(self, sha256: str) -> bytes | None:
        """The bytes of a picture; None when it is not kept."""
        for kind in ("kept", "ok"):
            with suppress(FileNotFoundError):
                return self._place(kind, sha256).read_bytes()
        return None

    def _place(self, kind: str, sha256: str) -> Path:
        return self._folder / kind / sha256[:2] / sha256

    def _write(self, kind: str, inspection: Inspection, picture: bytes) -> bool:
        sha256 = inspection.image_sha256 or hashlib.sha256(picture).hexdigest()
        place = self._place(kind, sha256)
        if place.exists():
            return True
        if len(picture) > self._retention.most_bytes:  # others would go, and it had no room
            return False
        with self._lock:
            self._n_since += 1
            is_full = self._n_bytes + len(picture) > self._retention.most_bytes
            if is_full or self._n_since % _SOUGHT == 1:
                self._has_room = self._clean(len(picture))
            if not self._has_room or self._n_bytes + len(picture) > self._retention.most_bytes:
                return False
        with write_whole(place, is_one_of_many=True) as partial:
            partial.write_bytes(picture)
        with self._lock:
            self._n_bytes += len(picture)
        return True

    def _list(self) -> Iterator[tuple[Path, int, float]]:
        for kind in ("ok", "kept"):
            for path in (self._folder / kind).glob("??/*"):
                with suppress(OSError):  # removed meanwhile
                    status = path.stat()
                    yield path, status.st_size, status.st_mtime

    def _clean(self, n_more: int) -> bool:
        """Remove pictures until there is room for more bytes: the oldest, and OK ones before.

        Returns:
            Whether the disk has room then.
        """
        most = self._retention.most_bytes
        self._folder.mkdir(parents=True, exist_ok=True)
        lacking = self._retention.free_bytes - shutil.disk_usage(self._folder).free + n_more
        n_over = max(self._n_bytes + n_more - most, lacking)
        if n_over <= 0:
            return True
        n_removed, n_goal = 0, n_over + int((1 - _CLEANED) * min(most, self._n_bytes))
        for path, size, _ in sorted(
            self._list(), key=lambda one: (one[0].parts[-3] != "ok", one[2])
        ):
            if n_removed >= n_goal:
                break
            with suppress(OSError):
                path.unlink()
                n_removed += size
        self._n_bytes -= n_removed
        _log.warning("removed %d bytes of old pictures to make room", n_removed)
        return n_removed >= lacking


def _draw(id: str) -> int:
    """A number that an id draws, the same each time."""
    return int.from_bytes(hashlib.sha256(id.encode()).digest()[:8], "big")
