"""Pictures whose bytes are in the rows of a Parquet file."""

import errno
import os
import posixpath
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from padim.errors import DatasetError, MissingExtraError
from padim.places.archives import Archive, has_changed
from padim.places.entry import Entry, Store, is_safe_name

if TYPE_CHECKING:
    from pyarrow import Schema
    from pyarrow.parquet import ParquetFile

IMAGE = "image"  # the column: bytes, or a struct of bytes and path as Hugging Face writes it
_BATCH_ROWS = 4096
_KEPT_GROUPS = 2  # row groups in memory
_MOST_GROUP_BYTES = 2**30


@dataclass(frozen=True)
class _Table:
    rows: dict[str, int]  # the row of each name
    starts: tuple[int, ...]  # the first row of each group


class RowStore(Store):
    """A Parquet file whose rows are files, under the names that ``read_names`` gives them."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._lock = threading.Lock()
        self._known: tuple[Hashable, _Table] | None = None
        self._groups: OrderedDict[int, list[bytes | None]] = OrderedDict()

    def find(self, inside: str) -> Entry | None:
        """What there is of a name."""
        with self._lock:
            identity, table = self._look()
            return Entry(inside, False, identity=identity) if inside in table.rows else None

    def list(self, _inside: str) -> list[Entry]:
        """The files, whatever their names, of which there are no folders."""
        with self._lock:
            identity, table = self._look()
            return [Entry(name, False, identity=identity) for name in table.rows]

    def read(self, inside: str, known: Entry | None = None) -> bytes:
        """The bytes of a row; those of rows beside it are read with it."""
        name = f"{self._archive}/{inside}"
        with self._lock:
            identity, table = self._look()
            if known is not None and known.identity != identity:
                raise has_changed("table", name)
            row = table.rows.get(inside)
            if row is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
            group = bisect_right(table.starts, row) - 1
            if group not in self._groups:
                while len(self._groups) >= _KEPT_GROUPS:
                    self._groups.popitem(last=False)
                found = _read_group(self._archive, group)
                if self._archive.identify() != identity:
                    raise has_changed("table", name)
                self._groups[group] = found
            self._groups.move_to_end(group)
            content = self._groups[group][row - table.starts[group]]
        if content is None:
            raise OSError(errno.EIO, f"row {row + 1} holds no bytes; write it anew", name)
        return content

    def _look(self) -> tuple[Hashable, _Table]:
        identity = self._archive.identify()
        if self._known is None or self._known[0] != identity:
            with open_table(self._archive) as file:
                names = read_names(file)
                sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            rows = {name: row for row, name in enumerate(names)}
            self._groups.clear()
            self._known = identity, _Table(rows, tuple(accumulate(sizes, initial=0))[:-1])
        return self._known


@contextmanager
def open_table(archive: Archive) -> Iterator["ParquetFile"]:
    """Open a Parquet file.

    Raises:
        DatasetError: It is none.
        MissingExtraError: pyarrow is not installed.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError as error:
        raise MissingExtraError("pyarrow", "parquet") from error
    try:
        with archive.open() as stream, ParquetFile(stream) as file:
            yield file
    except (ArrowException, OSError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise DatasetError(
            f"{archive} cannot be read as Parquet ({reason}). Save it anew."
        ) from error


def holds_bytes(schema: "Schema") -> bool:
    """Whether a table has pictures in its rows."""
    if IMAGE not in schema.names:
        return False
    kind = str(schema.field(IMAGE).type)
    return kind.startswith(("binary", "large_binary", "struct<bytes: binary"))


def read_names(file: "ParquetFile") -> list[str]:
    """The names of the pictures in the rows: their paths, with numbers before where two are one.

    Paths are those of the column ``path``; where there is none, of the struct.
    """
    schema = file.schema_arrow
    if "path" in schema.names:
        column = "path"
    elif str(schema.field(IMAGE).type).startswith("struct"):
        column = f"{IMAGE}.path"
    else:
        return _number([""] * file.metadata.num_rows)
    paths: list[str] = []
    for batch in file.iter_batches(_BATCH_ROWS, columns=[column]):
        found: Any = batch.column(0)
        if column != "path":
            found = found.field("path")
        paths += [_make_safe(path) for path in found.to_pylist()]
    return paths if all(paths) and len(set(paths)) == len(paths) else _number(paths)


def _number(paths: Sequence[str]) -> list[str]:
    width = len(str(len(paths)))
    return [f"{row:0{width}}_{posixpath.basename(path)}" for row, path in enumerate(paths, 1)]


def _make_safe(path: object) -> str:
    """A path without ways up or from the root, which could mean no row."""
    parts = str(path or "").strip().replace("\\", "/").split("/")
    return "/".join(filter(is_safe_name, parts))


def _read_group(archive: Archive, group: int) -> list[bytes | None]:
    """The pictures of a row group.

    Raises:
        DatasetError: They are too many bytes for memory.
    """
    with open_table(archive) as file:
        facts = file.metadata.row_group(group)
        columns = (facts.column(i) for i in range(facts.num_columns))
        n_bytes = sum(
            one.total_uncompressed_size
            for one in columns
            if one.path_in_schema.partition(".")[0] == IMAGE
        )
        if n_bytes > _MOST_GROUP_BYTES:
            raise DatasetError(
                f"{archive} has {n_bytes >> 20} MiB of pictures in one row group, but needs "
                f"{_MOST_GROUP_BYTES >> 20} MiB or less. Write it anew with smaller row groups."
            )
        found: Any = file.read_row_group(group, columns=[IMAGE]).column(IMAGE).combine_chunks()
        if str(found.type).startswith("struct"):
            found = found.field("bytes")
        return list(found.to_pylist())
