"""Records in a file that grows by a line each."""

import csv
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import BinaryIO

from padim.files import csv_cell
from padim.line.settings import FileSettings
from padim.store.inspection import Inspection
from padim.store.record import Record

_TAIL_BYTES = 1 << 22  # that are looked through for what is there already
COLUMNS = [one.name for one in fields(Record)]


class FileSink:
    """Appends records to a CSV or JSON-lines file; what is there already is not written again."""

    def __init__(self, settings: FileSettings) -> None:
        self.name = settings.name
        self._path = settings.path
        is_csv = settings.path.suffix.lower() == ".csv"
        self._format: Callable[[Record], bytes] = _format_row if is_csv else _format_json
        self._head = _write_csv(COLUMNS) if is_csv else b""
        self._file: BinaryIO | None = None
        self._known: set[str] = set()

    def open(self) -> None:
        """Open the file, cut off half a line that a crash has left, and see what is there."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = file = self._path.open("a+b")
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - _TAIL_BYTES))
        tail = file.read()
        n_half = len(tail) - (tail.rfind(b"\n") + 1)
        if n_half:
            file.truncate(end - n_half)
        lines = tail[: len(tail) - n_half].splitlines()
        self._known = {_find_id(line) for line in lines}
        if not file.seek(0, os.SEEK_END):
            file.write(self._head)

    def deliver(self, inspections: Sequence[Inspection]) -> None:
        """Append them, and have the disk keep them."""
        assert self._file is not None
        new = [one for one in inspections if one.arrival.id not in self._known]
        self._file.write(b"".join(self._format(Record.of(one)) for one in new))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._known = {one.arrival.id for one in inspections}

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _find_id(line: bytes) -> str:
    """The id that a line begins with, in both formats."""
    text = line.removeprefix(b'{"id": "')
    return text[:36].decode("ascii", "replace")


def _format_json(record: Record) -> bytes:
    return json.dumps(record.to_dict()).encode() + b"\n"


def _format_row(record: Record) -> bytes:
    """One line of CSV; what is a list or an object is JSON in its cell, which needs no new line."""
    cells = [
        json.dumps(value) if isinstance(value, list | dict | tuple) else value
        for value in record.to_dict().values()
    ]
    return _write_csv([csv_cell(_flatten(cell)) for cell in cells])


def _flatten(cell: object) -> object:
    return " ".join(cell.splitlines()) if isinstance(cell, str) else cell


def _write_csv(cells: Sequence[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "backslashreplace")
