"""What a store says of one thing in it, and what a store is."""

import io
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from padim.errors import UnreachableError

SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "http", "https")
MOST_BYTES = 2**29  # of what is read into memory as a whole


class RefusedError(UnreachableError):
    """A store that lets nobody in, or does not say whether it has what is asked for."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or a folder in a store."""

    name: str
    is_folder: bool
    n_bytes: int | None = None  # None where the store does not say
    start: int = 0  # of a member of a tar: where its bytes begin
    changed_s: float = 0.0
    identity: Hashable = None  # changes with the content; None where nothing tells


def is_safe_name(name: str, *, may_have_drive: bool = False) -> bool:
    """Whether a name, with ``/`` between its parts, leads out of its store on no system."""
    parts = name.split("/")
    if {"\\", "\0"} & set(name) or {"", ".", ".."} & set(parts):
        return False
    return may_have_drive or not any(part[1:2] == ":" for part in parts)


class Store(ABC):
    """What holds files under names with ``/`` between their parts; empty for all of it.

    What cannot be read is an ``OSError``; a store that cannot be reached an `UnreachableError`.
    """

    @abstractmethod
    def find(self, inside: str) -> Entry | None:
        """What there is of a name; None where there is nothing."""

    @abstractmethod
    def list(self, inside: str) -> list[Entry]:
        """What is in a folder."""

    @abstractmethod
    def read(self, inside: str, known: Entry | None = None) -> bytes:
        """The bytes of a file, of which its folder may have said something."""

    def open(self, inside: str) -> BinaryIO:
        """Open a file for reading here and there."""
        return io.BytesIO(self.read(inside))

    def save(self, inside: str, target: Path) -> None:
        """Write the bytes of a file to one of this machine."""
        target.write_bytes(self.read(inside))
