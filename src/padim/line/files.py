"""Records in a file that grows by a line each."""

import csv
import io
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from padim.files import csv_cell, identify, sync_folder
from padim.line.errors import SinkError
from padim.line.settings import FileSettings
from padim.store.inspection import Inspection
from padim.store.record import Record

_TAIL_BYTES = 4 << 20  # that are looked through for what is there already
_ID_CHARACTERS = 36


class FileSink:
    """Appends records to a CSV or JSON-lines file; what is there already is not written again.

    The file is open only while it is written, so that it may be moved away or opened elsewhere.
    """

    n_together = 100  # far fewer than the rows at the end of a file that are looked through

    def __init__(self, settings: FileSettings) -> None:
        self.name = settings.name
        self._path = settings.path
        self._is_csv = settings.path.suffix.lower() == ".csv"
        self._head = _write_csv(Record.names()) if self._is_csv else b""
        self._left: tuple[Path, tuple[int, ...]] | None = None  # the file as it was left
        self._known: set[str] = set()  # ids at its end

    def open(self) -> None:
        """Forget what is known of the file."""
        self._left = None

    def deliver(self, inspections: Sequence[Inspection]) -> None:
        """Append them, and have the disk keep them."""
        for path, found in groupby(inspections, self._choose_path):
            self._append(path, list(found))

    def check(self) -> None:
        """Nothing is held that could be gone."""

    def close(self) -> None:
        """Nothing is held."""

    def _choose_path(self, inspection: Inspection) -> Path:
        day = datetime.fromtimestamp(inspection.finished_s, UTC).date().isoformat()
        return self._path.with_name(self._path.name.replace("{day}", day))

    def _append(self, path: Path, inspections: Sequence[Inspection]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        with path.open("a+b") as file:
            if self._left != (path, identify(path)):
                self._known = self._recover(file, path)
                if not file.seek(0, os.SEEK_END):
                    file.write(self._head)
            ids = [one.arrival.id for one in inspections]
            new = [one for one in inspections if one.arrival.id not in self._known]
            file.write(b"".join(self._format(Record.of(one)) for one in new))
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            sync_folder(path.parent)
        self._known = set(ids)  # those before are delivered, and do not come again
        self._left = path, identify(path)

    def _recover(self, file: BinaryIO, path: Path) -> set[str]:
        """Cut off half a line that a crash has left, and find which ids are there.

        Raises:
            SinkError: The file is another's.
        """
        file.seek(0)
        # A power failure may leave zeros in the place of what was to be there.
        start = file.read(max(len(self._head), 1)).rstrip(b"\0")
        is_ours = self._head.startswith(start) if self._is_csv else start in (b"", b"{")
        if not is_ours:
            raise SinkError(
                f"{path} does not begin as a file of records does. Move it, or name another.",
                is_lasting=True,
            )
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - _TAIL_BYTES))
        tail = file.read()
        whole = tail[: tail.rstrip(b"\0").rfind(b"\n") + 1]
        if not whole and end > len(tail):
            raise SinkError(
                f"{path} ends in a line of more than {_TAIL_BYTES >> 20} MiB, which is no record. "
                "Move it, or name another.",
                is_lasting=True,
            )
        if len(whole) < len(tail):
            file.truncate(end - len(tail) + len(whole))
        return {_find_id(line) for line in whole.splitlines()}

    def _format(self, record: Record) -> bytes:
        return _format_row(record) if self._is_csv else _format_json(record)


def _find_id(line: bytes) -> str:
    """The id that a line begins with, in both formats."""
    text = line.removeprefix(b'{"id": "')
    return text[:_ID_CHARACTERS].decode("ascii", "replace")


def _format_json(record: Record) -> bytes:
    return json.dumps(record.to_dict()).encode() + b"\n"


def _format_row(record: Record) -> bytes:
    """One line of CSV; what is a list or an object is JSON in its cell, which needs no new line."""
    cells = record.to_cells()
    return _write_csv([csv_cell(_flatten(cell)) for cell in cells])


def _flatten(cell: object) -> object:
    return " ".join(cell.splitlines()) if isinstance(cell, str) else cell


def _write_csv(cells: Sequence[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "backslashreplace")
