"""Copies on this machine of files elsewhere, for those who need a file of it: models."""

import os
import threading
from collections.abc import Hashable
from contextlib import nullcontext, suppress
from pathlib import Path

from padim.places.entry import RefusedError
from padim.places.place import Place
from padim.temporary import TemporaryFolder

_lock = threading.Lock()
_folders: list[TemporaryFolder] = []  # they go when the process ends
_copies: dict[tuple[str, Hashable, int], Path] = {}


def copy_here(path: Path, *beside: Path) -> Path:
    """A file of this machine with the bytes of a file, which is itself where it is one.

    A copy that was made before is taken where the store says that the file is the same. What is to
    lie ``beside`` it comes with it, if it is there: a store that does not let all be listed refuses
    what it does not have.

    Raises:
        OSError: It cannot be read.
        UnreachableError: Its store cannot be.
    """
    place = path.locate() if isinstance(path, Place) else None
    if place is None:
        return Path(*path.parts)
    store, inside = place
    entry = store.find(inside)
    identity = entry and entry.identity
    with _lock if identity is not None else nullcontext():
        key = str(path), identity, os.getpid()
        known = _copies.get(key) if identity is not None else None
        if known is not None and known.is_file():
            return known
        folder = TemporaryFolder()
        _folders.append(folder)
        target = folder.path / path.name.partition("?")[0]
        store.save(inside, target)
        for other in beside:
            _save_beside(other, folder.path / other.name.partition("?")[0])
        _copies[key] = target
        return target


def _save_beside(path: Path, target: Path) -> None:
    place = path.locate() if isinstance(path, Place) else None
    with suppress(RefusedError):
        if place is not None and path.is_file():
            place[0].save(place[1], target)
