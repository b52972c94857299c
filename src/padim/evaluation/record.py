"""What is kept of a category that was done: typed, and read and written here alone."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict

import numpy as np
from msgspec import Meta

from padim.datasets import Saturation
from padim.documents import Count, Document, Fraction, Index, Side
from padim.errors import DatasetError
from padim.files import can_be_named, safe_name, write_text, write_whole
from padim.images.reading import FULL_WHITE
from padim.metrics.curves import Floats
from padim.metrics.resamples import Values
from padim.metrics.table import METRICS

SCHEMA_VERSION = 2  # raised when an older reader would misread a newer file

MOST_SEEDS = 1000
_MOST_ARRAY_BYTES = 1 << 26

Score = Annotated[float, Meta(ge=-1e9, le=1e9)]
_Seconds = Annotated[float, Meta(ge=0, le=1e9)]
_Share = Annotated[float, Meta(ge=-1e-6, le=1 + 1e-6)]  # a rate with what rounding adds
_Label = Annotated[str, Meta(pattern="^(normal|anomalous)$")]

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None
Resampled = dict[str, Floats]  # each metric of bootstrap samples of the test images, shape ``(B,)``


class Settings(TypedDict):
    """Everything that decides the numbers of a benchmark, and what is read of it by name."""

    recipe: str
    backbone: str
    size_px: Annotated[list[Side], Meta(min_length=2, max_length=2)]
    crop_fraction: Annotated[float, Meta(ge=0.1, le=1)]
    resample: Literal["bilinear", "lanczos"]
    n_dims: Count
    versions: dict[str, str]
    coarse_scale: NotRequired[float]
    n_seeds: NotRequired[Annotated[int, Meta(ge=1, le=MOST_SEEDS)]]
    white: NotRequired[Annotated[int, Meta(ge=1, le=FULL_WHITE)]]
    page: NotRequired[Annotated[int, Meta(ge=1)]]


class FileStamp(NamedTuple):
    """A file of a dataset; both numbers are -1 where it is not there."""

    name: str
    n_bytes: int
    mtime_ns: int


class SampleStamp(NamedTuple):
    """What is known of a test image; its saturations by their place in the fingerprint's."""

    path: str
    defect: str
    masks: tuple[str, ...]
    saturations: int


@dataclass(frozen=True)
class Fingerprint:
    """Everything a result rests on: settings, files, and what each of them is."""

    settings: Settings
    images: tuple[FileStamp, ...]
    samples: tuple[SampleStamp, ...]
    saturations: tuple[tuple[Saturation, ...], ...]
    layout: str
    colormap: str

    def list_changes(self, before: "Fingerprint") -> list[str]:
        """What differs from one of before, in words."""
        ours: Mapping[str, object] = self.settings
        theirs: Mapping[str, object] = before.settings
        changed = [key for key in {**theirs, **ours} if ours.get(key) != theirs.get(key)]
        parts = {
            "images": "its images",
            "samples": "its test images and what is known of them",
            "saturations": "the saturations of its defects",
            "layout": "its layout",
            "colormap": "the colours of its pictures",
        }
        return changed + [
            words for part, words in parts.items() if getattr(self, part) != getattr(before, part)
        ]


@dataclass(frozen=True)
class Row:
    """A category in numbers.

    What is of the fit is None where it was not fitted, or cannot be measured.
    """

    category: str
    n_train: Count
    n_test: Count
    metrics: Values = field(metadata={"columns": tuple(METRICS)})
    fit_s: _Seconds | None
    score_s: _Seconds
    fit_peak_bytes: Count | None
    model_bytes: Count

    def __post_init__(self) -> None:
        """Raise a ``ValueError`` if no file can be called as the category."""
        if not can_be_named(Path(self.category)):
            raise ValueError(f"no file can be called {self.category!r}")


@dataclass(frozen=True)
class ImageResult:
    """A test image, as it stands in ``images.jsonl``; its path is that from the category's folder.

    A label is ``normal`` or ``anomalous``; what is predicted is None without a threshold, as is the
    share of good images that score as high. Levels are coarse to fine.
    """

    category: str
    seed: Index
    path: str
    label: _Label
    defect: str
    score: Score
    level_scores: tuple[Score, ...]
    predicted: _Label | None
    p_value: Fraction | None


_Rates = Annotated[tuple[_Share, ...], Meta(max_length=10_000)]
Axes = tuple[_Rates, _Rates]  # a rate, and what rises with it


@dataclass(frozen=True)
class Curves:
    """Curves to be drawn, empty where a class is missing: two of ROC, and the overlap."""

    image: Axes
    pixel: Axes
    pro: Axes

    def __post_init__(self) -> None:
        """Raise a ``ValueError`` if the axes of a curve do not fit together."""
        for x, y in (self.image, self.pixel, self.pro):
            if len(x) != len(y) or list(x) != sorted(x):
                raise ValueError("a curve needs a value for each of its ascending rates")


@dataclass(frozen=True, eq=False, kw_only=True)
class RecordFacts:
    """What the document of a record says."""

    root: str  # folder of the category
    masks: tuple[tuple[str, ...], ...]  # of each image, their ways from there
    threshold: Score | None  # of the model; None when it has none
    row: Row
    by_defect: dict[str, Values]  # every metric of each kind of defect against all normal images
    images: tuple[ImageResult, ...]
    curves: Curves
    unreadable: tuple[str, ...]
    fingerprint: Fingerprint
    threshold_warning: str = ""  # what to know before the threshold is relied on

    def __post_init__(self) -> None:
        """Raise a ``ValueError`` if fields are not of one number of images and of levels."""
        if len(self.masks) != len(self.images):
            raise ValueError(f"{len(self.masks)} entries of masks, but {len(self.images)} images")
        if len({len(image.level_scores) for image in self.images}) > 1:
            raise ValueError("images have scores of different numbers of levels")


@dataclass(frozen=True, eq=False, kw_only=True)
class Record(RecordFacts):
    """What is kept of a category that was done once."""

    name: str  # of its files, as ``record_name`` gives it
    resampled: Resampled

    @property
    def n_resamples(self) -> int:
        """Bootstrap samples of the test images; 0 where no metric could be had."""
        return max((array.size for array in self.resampled.values()), default=0)


@dataclass(frozen=True)
class Version:
    """What a file of results says first."""

    schema_version: Count


def record_name(category: str, seed: int) -> str:
    """Name of the files of a record; later seeds are in a folder, since any name can be taken."""
    name = safe_name(category)
    return name if seed == 0 else f"seed{seed}/{name}"


def record_files(out: Path, name: str) -> tuple[Path, Path]:
    """The files of a record: what says that it is there, and its arrays."""
    folder = out / "records"
    return folder / f"{name}.json", folder / f"{name}.npz"


def write_record(record: Record, out: Path) -> None:
    """Write a record; the part that says that it is there comes last."""
    document, arrays = record_files(out, record.name)
    with write_whole(arrays) as partial, partial.open("wb") as file:
        np.savez(file, **record.resampled)  # type: ignore[arg-type]  # NumPy before 2.1 has arrays alone
    data = to_plain(record)
    del data["name"], data["resampled"]
    write_text(document, json.dumps({"schema_version": SCHEMA_VERSION, **data}))


def read_record(out: Path, name: str) -> Record | None:
    """A record of before; None where there is none that this release wrote.

    Raises:
        DatasetError: It is damaged.
    """
    path, arrays = record_files(out, name)
    document = Document(path, DatasetError, "Run padim benchmark again.")
    try:
        data = document.read(path)
        if document.restore(data, Version).schema_version != SCHEMA_VERSION:
            return None
    except (FileNotFoundError, NotADirectoryError):
        return None
    facts = document.restore(data | {"row": nest_metrics(data.get("row"))}, RecordFacts)
    try:
        resampled = _read_arrays(arrays)
    except Exception as error:  # zipfile lets out almost anything on damaged archives
        raise document.refuse(f"{arrays.name} is not as it was written") from error
    # What no table names counts as well where settings are compared.
    fingerprint = replace(facts.fingerprint, settings=data["fingerprint"]["settings"])
    return Record(**{**vars(facts), "fingerprint": fingerprint}, name=name, resampled=resampled)


def nest_metrics(row: object) -> object:
    """A row of a file, with its metrics as one field, as a table has them."""
    if not isinstance(row, dict):
        return row
    return {**row, "metrics": {name: row.get(name) for name in METRICS}}


def _read_arrays(path: Path) -> Resampled:
    with zipfile.ZipFile(path) as archive:
        if sum(one.file_size for one in archive.infolist()) > _MOST_ARRAY_BYTES:
            raise ValueError(path)
    with path.open("rb") as file:
        resampled = dict(np.load(file, allow_pickle=False))
    if any(array.ndim != 1 or array.dtype != np.float64 for array in resampled.values()):
        raise ValueError(path)
    if len({array.size for array in resampled.values()}) > 1:
        raise ValueError(path)
    return resampled


def to_plain(value: Any) -> Any:
    """A value of any of the types of this module, or plain data, as what JSON has.

    Of a dataclass, a field whose metadata names columns is spread out, and one that is None by
    default is left out.
    """
    if is_dataclass(value):
        found: dict[str, Json] = {}
        for one in fields(value):
            item = getattr(value, one.name)
            if "columns" in one.metadata:
                found |= item
            elif item is not None or one.default is MISSING:
                found[one.name] = to_plain(item)
        return found
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return value
