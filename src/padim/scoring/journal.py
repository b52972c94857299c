"""The rows of a run that writes into a folder, kept as they come: one that is stopped goes on.

They are in a hidden file, whose first line says what run it is, and become the tables of the folder
once all are there. Another hidden file names the pictures that belong to those tables.
"""

import csv
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from padim.files import csv_cell, naming, write_text, write_whole
from padim.scoring.prediction import Decision, PredictionRecord

COLUMNS = (
    *("path", "score", "label", "p_value", "peak_x", "peak_y"),
    *("x", "y", "width", "height", "area_px"),
    *("threshold", "false_alarm_rate", "pixel_threshold"),
    *("image_sha256", "model_sha256", "padim", "engine"),
)


@dataclass(frozen=True)
class Run:
    """What the rows of a run rest on, apart from the images."""

    model_sha256: str | None
    padim: str  # version of this package
    engine: str  # with its version
    threshold: float | None
    false_alarm_rate: float | None
    pixel_threshold: float | None
    overlays: bool
    maps: str | None
    min_region_px: int


class Entry(NamedTuple):
    """A row of a run, and the pictures of its image below the folder; no row before they are."""

    record: PredictionRecord | None
    files: tuple[str, ...]


class Journal:
    """The rows of a run into a folder, in a ``with`` block.

    Args:
        folder: Where the tables are to be.
        run: Which run it is; rows of another that was stopped there are not taken over.
        decision: Where normal ends, in the records of rows that are.

    Attributes:
        replaced: Whether another run was stopped there.
    """

    def __init__(self, folder: Path, run: Run, decision: Decision | None) -> None:
        self.folder = folder
        self.run = run
        self.decision = decision
        self.replaced = False
        self._path = folder / ".predictions.jsonl"
        self._pictures = folder / ".pictures.json"
        # Where the row of an image begins, by its path; None for one that is no file.
        self._places: dict[str | None, int] = {}
        self._order: list[int] = []
        self._drawn: set[str] = set()
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        header = _encode({"run": asdict(self.run)})
        self._file = self._path.open("a+b")
        self._file.seek(0)
        first = self._file.readline()
        place = self._file.tell()
        for line in self._file:
            if (entry := self._read_line(line)) is None:
                break  # torn, where the process was killed
            self._note(place, entry)
            place += len(line)
        if first == header:
            self._file.truncate(place)
            return self
        self.replaced = first.endswith(b"\n")
        if self._drawn:
            self._write_pictures(self._list_pictures() | self._drawn)
        self._places, self._order, self._drawn = {}, [], set()
        self._file.truncate(0)
        self._append(header)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        self._file.close()
        if not self._order:
            self._path.unlink(missing_ok=True)

    def find(self, path: str) -> Entry | None:
        """The row of an image, if there is one already."""
        place = self._places.get(path)
        return None if place is None else self._read(place)

    def promise(self, files: Iterable[str]) -> None:
        """Say which pictures are about to be drawn, so that they are known if no row comes."""
        self._add(Entry(None, tuple(files)))

    def add(self, record: PredictionRecord, files: Iterable[str]) -> None:
        """Add a row, which is kept whatever happens to this process."""
        self._add(Entry(record, tuple(files)))

    def finish(self, paths: Iterable[str | None] | None = None) -> None:
        """Write the tables, of the rows of these images or of all, in that order.

        Pictures of the tables of before that are none of these go.
        """
        places = self._order
        if paths is not None:
            places = [self._places[path] for path in paths if path in self._places]
        pictures: set[str] = set()
        with (
            write_whole(self.folder / "predictions.jsonl") as lines,
            write_whole(self.folder / "predictions.csv") as values,
            lines.open("w", encoding="utf-8", newline="\n") as jsonl,
            # Names of files need not be text.
            values.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
        ):
            table = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
            table.writeheader()
            for place in places:
                entry = self._read(place)
                assert entry is not None
                assert entry.record is not None
                row = entry.record.to_dict()
                jsonl.write(json.dumps(row) + "\n")
                table.writerow({name: csv_cell(value) for name, value in row.items()})
                pictures.update(entry.files)
        for name in (self._list_pictures() | self._drawn) - pictures:
            if (self.folder / name).is_file():
                (self.folder / name).unlink()
        self._write_pictures(pictures)
        assert self._file is not None
        self._file.close()
        self._path.unlink()

    def _add(self, entry: Entry) -> None:
        row = entry.record and entry.record.to_dict()
        self._note(self._append(_encode({"row": row, "files": entry.files})), entry)

    def _note(self, place: int, entry: Entry) -> None:
        self._drawn.update(entry.files)
        if entry.record is not None:
            self._order.append(place)
            self._places[entry.record.path] = place

    def _append(self, line: bytes) -> int:
        assert self._file is not None
        with naming(self._path):
            place = self._file.seek(0, os.SEEK_END)
            self._file.write(line)
            self._file.flush()
        return place

    def _read(self, place: int) -> Entry | None:
        assert self._file is not None
        self._file.seek(place)
        return self._read_line(self._file.readline())

    def _read_line(self, line: bytes) -> Entry | None:
        """The row in a line; None where it is none, or cut short, or names files of others."""
        try:
            data, record = json.loads(line), None
            if data["row"] is not None:
                record = PredictionRecord.from_dict(data["row"], self.decision)
            is_whole = line.endswith(b"\n") and all(map(_is_ours, data["files"]))
            return Entry(record, tuple(data["files"])) if is_whole else None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None

    def _write_pictures(self, names: Iterable[str]) -> None:
        write_text(self._pictures, json.dumps(sorted(names)))

    def _list_pictures(self) -> set[str]:
        """The pictures of before; the file may come from elsewhere and name others."""
        try:
            names = json.loads(self._pictures.read_text(encoding="utf-8"))
            return {name for name in names if _is_ours(name)}
        except (OSError, ValueError, TypeError, RecursionError):
            return set()


def _is_ours(name: str) -> bool:
    """Whether a name can be that of a picture that a run writes below its folder."""
    parts = Path(name).parts
    return len(parts) > 1 and parts[0] in ("overlays", "maps") and ".." not in parts


def _encode(data: object) -> bytes:
    return json.dumps(data).encode("ascii") + b"\n"
