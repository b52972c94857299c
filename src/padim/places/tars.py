"""Members of a tar, found once and read where they lie; nothing is unpacked."""

import errno
import os
import tarfile
import threading
from collections.abc import Hashable
from typing import BinaryIO

from padim.errors import DatasetError
from padim.places.archives import Archive, has_changed
from padim.places.entry import MOST_BYTES, Entry, Store, is_safe_name

_Index = dict[str, list[Entry]]  # what is in each folder
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd


class TarStore(Store):
    """A plain tar. Regular files count alone, of those of one name the last."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._lock = threading.Lock()
        self._known: tuple[Hashable, _Index] | None = None

    def find(self, inside: str) -> Entry | None:
        """What there is of a name."""
        whole = self._archive.look()
        if whole is None:
            return None
        if not inside:
            return Entry(self._archive.name, True, whole.n_bytes, 0, whole.changed_s)
        folder, _, name = inside.rpartition("/")
        found = self._index().get(folder, ())
        return next((entry for entry in found if entry.name == name), None)

    def list(self, inside: str) -> list[Entry]:
        """What is in a folder."""
        whole = self._archive.look()
        index = {} if whole is None else self._index()
        if inside not in index:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._archive))
        return index[inside]

    def read(self, inside: str, known: Entry | None = None) -> bytes:
        """The bytes of a member."""
        entry = known or self.find(inside)
        name = f"{self._archive}/{inside}"
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        if entry.is_folder or entry.n_bytes is None:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
        if entry.n_bytes > MOST_BYTES:
            raise OSError(errno.EFBIG, f"it has more than {MOST_BYTES >> 20} MiB", name)
        content = self._archive.read_part(entry.start, entry.start + entry.n_bytes)
        if self._archive.identify() != entry.identity:
            raise has_changed("tar", name)
        if len(content) != entry.n_bytes:
            raise OSError(errno.EIO, "its tar is cut short; copy it again", name)
        return content

    def _index(self) -> _Index:
        """What the tar holds, which is read anew when its file has changed."""
        with self._lock:
            identity = self._archive.identify()
            if self._known is None or self._known[0] != identity:
                self._known = identity, _read_index(self._archive, identity)
            return self._known[1]


def _read_index(archive: Archive, identity: Hashable) -> _Index:
    """Go through the headers of a tar.

    Raises:
        DatasetError: It is packed, no tar, or cut short.
    """
    with archive.open() as stream:
        start = stream.read(8)
        if start.startswith(_PACKED):
            raise DatasetError(
                f"{archive} is packed, so that no image in it can be read by itself. Unpack it to "
                "a plain .tar."
            )
        stream.seek(0)
        try:
            files = _list_members(stream)
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            raise DatasetError(
                f"{archive} is no tar, or is cut short or damaged ({error}). Copy it again."
            ) from error
    index: _Index = {"": []}
    for name, (begin, n_bytes) in files.items():
        folder, _, last = name.rpartition("/")
        _add_folder(index, folder)
        index[folder].append(Entry(last, False, n_bytes, begin, 0.0, identity))
    return index


def _list_members(stream: BinaryIO) -> dict[str, tuple[int, int]]:
    """Where the bytes of each regular file begin and how many they are, by a name that is safe."""
    files: dict[str, tuple[int, int]] = {}
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep all, and has no other way
            name = member.name.removeprefix("./")
            if member.isreg() and not member.issparse() and is_safe_name(name):
                files.pop(name, None)
                files[name] = member.offset_data, member.size
        stream.seek(tar.offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("its end is missing")
    return files


def _add_folder(index: _Index, folder: str) -> None:
    if folder not in index:
        above, _, name = folder.rpartition("/")
        _add_folder(index, above)
        index[folder] = []
        index[above].append(Entry(name, True))
