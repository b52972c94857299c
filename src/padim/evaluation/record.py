"""What is kept of a category that was done: typed, and read and written here alone."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import (
    Any,
    Literal,
    NamedTuple,
    NotRequired,
    TypedDict,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import numpy as np

from padim.datasets import Saturation
from padim.files import safe_name, write_text, write_whole
from padim.metrics.curves import Floats
from padim.metrics.resamples import Values
from padim.metrics.table import METRICS

SCHEMA_VERSION = 2  # raised when an older reader would misread a newer file

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None
Resampled = dict[str, Floats]  # each metric of bootstrap samples of the test images, shape ``(B,)``


class Settings(TypedDict):
    """Everything that decides the numbers of a benchmark, and what is read of it by name."""

    recipe: str
    backbone: str
    size_px: list[int]
    crop_fraction: float
    resample: Literal["bilinear", "lanczos"]
    n_dims: int
    versions: dict[str, str]
    n_seeds: NotRequired[int]


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
    n_train: int
    n_test: int
    metrics: Values = field(metadata={"columns": tuple(METRICS)})
    fit_s: float | None
    score_s: float
    fit_peak_bytes: int | None
    model_bytes: int


@dataclass(frozen=True)
class ImageResult:
    """A test image, as it stands in ``images.jsonl``; its path is that from the category's folder.

    A label is ``normal`` or ``anomalous``; what is predicted is None without a threshold, as is the
    share of good images that score as high. Levels are coarse to fine.
    """

    category: str
    seed: int
    path: str
    label: str
    defect: str
    score: float
    level_scores: tuple[float, ...]
    predicted: str | None
    p_value: float | None


Axes = tuple[tuple[float, ...], tuple[float, ...]]  # a rate, and what rises with it


@dataclass(frozen=True)
class Curves:
    """Curves to be drawn, empty where a class is missing: two of ROC, and the overlap."""

    image: Axes
    pixel: Axes
    pro: Axes


@dataclass(frozen=True, eq=False, kw_only=True)
class Record:
    """What is kept of a category that was done once."""

    name: str  # of its files, as ``record_name`` gives it
    resampled: Resampled
    root: str  # folder of the category
    masks: tuple[tuple[str, ...], ...]  # of each image, their ways from there
    threshold: float | None  # of the model; None when it has none
    row: Row
    by_defect: dict[str, Values]  # every metric of each kind of defect against all normal images
    images: tuple[ImageResult, ...]
    curves: Curves
    unreadable: tuple[str, ...]
    fingerprint: Fingerprint

    def __post_init__(self) -> None:
        """Raise a ``ValueError`` if there is not one entry of masks for each image."""
        if len(self.masks) != len(self.images):
            raise ValueError(f"{len(self.masks)} entries of masks, but {len(self.images)} images")


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
    """A record of before; None where there is none that can be read."""
    document, arrays = record_files(out, name)
    try:
        data = json.loads(document.read_text(encoding="utf-8"))
        if data["schema_version"] != SCHEMA_VERSION:
            return None
        with arrays.open("rb") as file:
            resampled = dict(np.load(file, allow_pickle=False))
        record: Record = restore(Record, data | {"name": name, "resampled": resampled})
    except (OSError, ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    return record


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


def restore(kind: Any, data: Any) -> Any:
    """What ``to_plain`` wrote, as the type it was; what the type does not know is left out.

    Raises:
        ValueError: A tuple has another length, or a name is none of those that there are.
        TypeError: It is of another type.
        LookupError: Something is missing.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if hasattr(origin, "__value__"):  # an alias of a type statement: NDArray on Python 3.12
        origin = get_origin(origin.__value__)
    if isinstance(kind, type) and is_dataclass(kind):
        hints, given = get_type_hints(kind), {}
        for one in fields(kind):
            if "columns" in one.metadata:
                given[one.name] = {
                    name: restore(get_args(hints[one.name])[1], data.get(name))
                    for name in one.metadata["columns"]
                }
            elif one.name in data or one.default is MISSING:
                given[one.name] = restore(hints[one.name], data[one.name])
        return kind(**given)
    if hasattr(kind, "_fields"):
        items = zip(get_type_hints(kind).values(), data, strict=True)
        return kind(*(restore(one, item) for one, item in items))
    if origin is tuple and inner[-1] is Ellipsis:
        return tuple(restore(inner[0], item) for item in data)
    if origin is tuple:
        return tuple(restore(one, item) for one, item in zip(inner, data, strict=True))
    if origin is dict:
        return {key: restore(inner[1], item) for key, item in data.items()}
    if origin in (UnionType, Union):
        return None if data is None else restore(inner[0], data)
    if is_typeddict(kind):
        if missing := kind.__required_keys__ - data.keys():
            raise LookupError(missing)
        return data
    if not isinstance(data, float | int if kind is float else origin or kind):
        raise TypeError(f"{data!r} is no {kind}.")
    return data
