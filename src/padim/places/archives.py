"""The file of a tar or of a table itself, on this machine or behind a network."""

import errno
import os
import time
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from padim.places.entry import SCHEMES, Entry

if TYPE_CHECKING:
    from padim.places.urls import UrlStore


_BELIEVED_S = 10.0  # how long it is taken to be as it was


@dataclass
class Archive:
    """A file whose parts are read."""

    text: str  # its path or its URL
    store: "UrlStore | None"  # where it is, if not here
    _seen: tuple[float, Entry | None] = (float("-inf"), None)  # when, and what there was

    def __str__(self) -> str:
        return self.text

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.text.rpartition("/")[2] if self.store else Path(self.text).name

    def look(self) -> Entry | None:
        """What there is; None where there is nothing."""
        if self.store is not None:
            if time.monotonic() > self._seen[0] + _BELIEVED_S:
                self._seen = time.monotonic(), self.store.find(self.text)
            return self._seen[1]
        try:
            status = os.stat(self.text)  # noqa: PTH116  # a Path of it would be a Place
        except (OSError, ValueError):
            return None
        identity = (status.st_ino, status.st_size, status.st_mtime_ns)
        return Entry(self.name, False, status.st_size, 0, status.st_mtime, identity)

    def identify(self) -> Hashable:
        """What changes with its content.

        Raises:
            OSError: It is gone, or its server does not say when it changes.
        """
        found = self.look()
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.text)
        if found.identity is None:
            raise OSError(
                errno.EIO,
                "its server does not say when it changes, which this needs; copy it here",
                self.text,
            )
        return found.identity

    def open(self) -> BinaryIO:
        """Open it for reading here and there."""
        if self.store is not None:
            return self.store.open(self.text)
        return open(self.text, "rb")  # noqa: PTH123  # a Path of it would be a Place

    def read_part(self, start: int, stop: int) -> bytes:
        """Some of its bytes."""
        if self.store is not None:
            return self.store.read_part(self.text, start, stop)
        with self.open() as file:
            file.seek(start)
            return file.read(stop - start)


def has_changed(kind: str, name: str) -> OSError:
    """What to say of a part whose bytes may now be those of another."""
    return OSError(errno.EIO, f"its {kind} has changed; list it again", name)


def find_archive(text: str) -> Archive:
    """The file of a path or of a URL."""
    scheme, sign, _ = text.partition("://")
    is_url = bool(sign) and scheme.lower() in SCHEMES
    return Archive(text, find_url_store(scheme.lower()) if is_url else None)


@lru_cache(16)
def find_url_store(scheme: str) -> "UrlStore":
    """The store of all URLs of a kind."""
    from padim.places.urls import UrlStore

    return UrlStore(scheme)
