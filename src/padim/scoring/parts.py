"""Rows of many images: Parquet files of so many images each, every one whole or not there."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgspec

from padim.errors import DatasetError, MissingExtraError
from padim.files import plain_text, write_whole
from padim.scoring.journal import Run
from padim.scoring.prediction import Decision, PredictionRecord

FOLDER = "predictions.parquet"
DONE = "predictions.json"  # beside it: written last, removed first
_KEY = b"padim"  # in the metadata of a file's schema
_NAME = re.compile(r"part-(\d{6,})\.parquet")
# What reading a file may raise that came from elsewhere, or lies on a bad disk
_NOT_AS_WRITTEN = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError),
    *(NotImplementedError, RecursionError),
)


@dataclass(frozen=True)
class LeftOut:
    """An image without a row, since it could not be read."""

    index: int  # in the list of images
    path: str
    image_sha256: str | None  # None where not even its bytes could be read
    reason: str


@dataclass(frozen=True)
class Facts:
    """What a file says beside its rows."""

    run: Run
    left_out: tuple[LeftOut, ...]
    maps_sha256: str | None = None  # of the file of its maps; None where there is none


@dataclass(frozen=True)
class Part:
    """What became of the images of a part, in their order."""

    number: int
    rows: tuple[tuple[int, PredictionRecord], ...]  # each with its index in the list of images
    left_out: tuple[LeftOut, ...]
    maps_sha256: str | None = None  # of the file of its maps; None where there is none

    def describe_images(self) -> dict[int, tuple[str | None, str | None]]:
        """The path and the sha256 of each image, by its index."""
        found: dict[int, tuple[str | None, str | None]] = {
            index: (record.path, record.origin.image_sha256 if record.origin else None)
            for index, record in self.rows
        }
        return found | {one.index: (one.path, one.image_sha256) for one in self.left_out}


class PartFolder:
    """The parts of a run in a folder.

    Args:
        folder: Of the files.
        run: Which run it is; what is of another is not read.
        decision: Where normal ends, in records that are read.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """

    def __init__(self, folder: Path, run: Run, decision: Decision | None) -> None:
        self.folder = folder
        self.run = run
        self.decision = decision
        self._parquet = _import_parquet()

    def name(self, number: int) -> Path:
        """The file of a part."""
        return self.folder / f"part-{number:06d}.parquet"

    def list_files(self) -> dict[Path, int]:
        """The files of parts that are there, of whatever run, and their numbers."""
        return _list_parts(self.folder)

    def is_of_another(self, file: Path) -> bool:
        """Whether a file is that of another run, as of a model that is in no file it may be."""
        try:
            run = self._read_facts(self._parquet.read_schema(file)).run
            return run != self.run or run.model_sha256 is None
        except _NOT_AS_WRITTEN:
            return False

    def write(self, part: Part) -> None:
        """Write the rows of a part."""
        import pyarrow

        facts = Facts(self.run, part.left_out, part.maps_sha256)
        schema = make_schema().with_metadata({_KEY: json.dumps(asdict(facts)).encode("ascii")})
        rows = [
            {"index": index, **record.to_dict(), "path": _name(record.path)}
            for index, record in part.rows
        ]
        encoded = pyarrow.BufferOutputStream()  # of a full disk pyarrow says less than the system
        self._parquet.write_table(
            pyarrow.Table.from_pylist(rows, schema), encoded, compression="zstd"
        )
        with write_whole(self.name(part.number), is_one_of_many=True) as partial:
            partial.write_bytes(encoded.getvalue())

    def read(self, number: int) -> Part | None:
        """A part of this run; None where it is not there, or not as it was written."""
        try:
            table = self._parquet.read_table(self.name(number), partitioning=None)
            facts = self._read_facts(table.schema)
            if facts.run != self.run:
                return None
            rows = tuple(
                (msgspec.convert(row["index"], int), PredictionRecord.from_dict(row, self.decision))
                for row in table.to_pylist()
            )
        except _NOT_AS_WRITTEN:
            return None
        return Part(number, rows, facts.left_out, facts.maps_sha256)

    def _read_facts(self, schema: Any) -> Facts:
        return msgspec.json.decode((schema.metadata or {})[_KEY], type=Facts)


@dataclass(frozen=True)
class _Left:
    """What is read here of an image without a row."""

    index: int


@dataclass(frozen=True)
class Summary:
    """What is read here of what is written last."""

    n_images: int
    n_images_of_a_part: int
    unreadable: tuple[_Left, ...]


def read_summary(path: Path) -> Summary:
    """Read what says that all parts are there; what cannot be is a `ValueError` or `OSError`."""
    return msgspec.json.decode(path.read_bytes(), type=Summary)


def is_summary(path: Path) -> bool:
    """Whether a file says that all parts of a run are there."""
    try:
        read_summary(path)
    except (OSError, ValueError, RecursionError):
        return False
    return True


def make_schema() -> Any:
    """The columns of a row: the keys of a line of ``predictions.jsonl``, and ``index``."""
    import pyarrow

    whole, real, text = pyarrow.int64(), pyarrow.float64(), pyarrow.string()
    repeated = pyarrow.dictionary(pyarrow.int32(), text)
    region = [
        *((name, whole) for name in ("x", "y", "width", "height", "area_px", "peak_x", "peak_y")),
        *((name, real) for name in ("peak", "mean")),
    ]
    camera = [(name, real) for name in ("grey", "contrast", "sharpness", "shift_px")]
    return pyarrow.schema(
        [
            *(("index", whole), ("path", text)),
            *(("score", real), ("label", repeated), ("p_value", real)),
            *region,
            ("regions", pyarrow.list_(pyarrow.struct(region))),
            ("level_scores", pyarrow.list_(real)),
            ("camera", pyarrow.struct(camera)),
            ("coarse_map", pyarrow.list_(pyarrow.list_(pyarrow.float32()))),
            *((name, real) for name in ("threshold", "false_alarm_rate", "pixel_threshold")),
            ("image_sha256", text),
            *((name, repeated) for name in ("model_sha256", "padim", "engine")),
        ]
    )


def read_rows(folder: Path) -> Iterator[Mapping[str, object]]:
    """The rows of all parts in a folder, in order, with the columns as they are there.

    Raises:
        DatasetError: The run is not finished, or a part is missing or cannot be read.
        MissingExtraError: pyarrow is not installed.
    """
    parquet = _import_parquet()
    if not (folder.parent / DONE).is_file():
        raise DatasetError(f"{folder} is not finished. Run padim predict again.")
    for expected, (path, number) in enumerate(_list_parts(folder).items()):
        if number != expected:
            raise DatasetError(
                f"{folder} has {path.name}, but not part {expected}. Run padim predict again."
            )
        try:
            rows = parquet.read_table(path, partitioning=None).to_pylist()
        except _NOT_AS_WRITTEN as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise DatasetError(
                f"{path} cannot be read as Parquet ({reason}). Run padim predict again."
            ) from error
        yield from rows


def _list_parts(folder: Path) -> dict[Path, int]:
    """The files of parts by their numbers, which may have more digits than others."""
    found = {path: _NAME.fullmatch(path.name) for path in folder.glob("part-*")}
    numbers = {path: int(match[1]) for path, match in found.items() if match}
    return dict(sorted(numbers.items(), key=itemgetter(1)))


def _import_parquet() -> Any:
    try:
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise MissingExtraError("pyarrow", "parquet") from error
    return parquet


def _name(path: str | None) -> str | None:
    return None if path is None else plain_text(path)
