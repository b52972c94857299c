"""Categories from rows that name each image, its split, its kind and its mask."""

import csv
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from padim.datasets.category import GOOD, Category, Sample
from padim.datasets.naming import means_good
from padim.errors import DatasetError, join_names
from padim.files import can_be_named
from padim.places import join

_SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
_NORMAL = frozenset({"0", "0.0", "false"})  # and any name of good
_ONLY_ANOMALOUS = frozenset({"1", "1.0", "true"})  # say that it is, not what


@dataclass(frozen=True)
class Row:
    """An image that a list names."""

    path: Path
    split: str  # ``train``, ``validation`` or ``test``
    defect: str  # its kind of defect; ``good`` is normal
    mask_path: Path | None
    place: str  # where the list names it, in words


def read_csv(file: Path, needed: Collection[str], advice: str) -> list[dict[str, str]]:
    """Read the lines of a CSV file in UTF-8; what a short line lacks is empty.

    Raises:
        DatasetError: It is no such file, or a column is missing.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, restkey="", restval="")
            check_columns(file, reader.fieldnames or (), needed, advice)
            return list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{file} is no CSV file in UTF-8 ({error}). Save it anew.") from error


def check_columns(file: Path, names: Collection[str], needed: Collection[str], advice: str) -> None:
    """Make sure that a table has the columns that it must have.

    Raises:
        DatasetError: One is missing.
    """
    if not set(needed) <= set(names):
        raise DatasetError(
            f"{file} has the columns {', '.join(names) or '(none)'}, but needs "
            f"{', '.join(needed)}. {advice}"
        )


def rows_of(
    lines: Iterable[Mapping[str, object]], file: Path, root: Path, category: str = ""
) -> dict[str, list[Row]]:
    """Make rows of the lines of a table, by category.

    The columns are ``path``, from the root, ``split`` and ``label``, and where there are such
    ``mask``, ``defect`` and ``category``, else the one that is given.

    Raises:
        DatasetError: A line is not as it must be.
    """
    rows: dict[str, list[Row]] = {}
    for number, line in enumerate(lines, 1):
        cells = {key: "" if cell is None else str(cell).strip() for key, cell in line.items()}
        row = _make_row(cells, f"row {number} of {file}", root)
        rows.setdefault(cells.get("category") or category, []).append(row)
    return rows


def category_of(
    rows: Iterable[Row], name: str, root: Path, layout: str, unused_masks: tuple[Path, ...] = ()
) -> Category:
    """Make a category of rows.

    Anomalous images outside ``test`` are left out: nothing here learns from them.

    Raises:
        DatasetError: Its name or that of a defect cannot name a folder, or a file that is not left
            out is there twice.
    """
    split: dict[str, list[Path]] = {"train": [], "validation": []}
    samples: list[Sample] = []
    normal_masks: list[tuple[Path, Path]] = []
    first: dict[Path, Row] = {}
    for row in rows:
        # Results lie in folders and files of these names.
        for kind, text in (("category", name), ("defect", row.defect)):
            if text in ("", ".", "..") or set("/\\\0") & set(text):
                needed = "a name without slashes, neither . nor .. nor empty"
                raise _wrong(row.place, f"the {kind} {text!r}", needed)
        for image in filter(None, (row.path, row.mask_path)):
            if not can_be_named(image):
                raise _wrong(row.place, f"the file {image.name!r}", "a name that a file can have")
        is_good = row.defect == GOOD
        if row.split != "test" and not is_good:
            continue
        earlier = first.setdefault(Path(os.path.normpath(row.path.absolute())), row)
        if earlier is not row:
            raise _wrong(row.place, f"the image of {earlier.place}", "one of its own")
        if row.split != "test":
            split[row.split].append(row.path)
            continue
        masks = () if row.mask_path is None else (row.mask_path,)
        samples.append(Sample(row.path, row.defect, () if is_good else masks))
        normal_masks += [(row.path, mask) for mask in masks if is_good]
    return Category(
        name,
        root,
        tuple(sorted(split["train"])),
        tuple(sorted(samples, key=lambda sample: (sample.defect, sample.path))),
        unused_masks,
        validation=tuple(sorted(split["validation"])),
        normal_masks=tuple(normal_masks),
        layout=layout,
        is_listed=True,
    )


def _make_row(cells: Mapping[str, str], place: str, root: Path) -> Row:
    path, label, mask = cells["path"], cells["label"], cells.get("mask")
    split = _SPLITS.get(cells["split"].lower())
    if split is None:
        raise _wrong(place, f"the split {cells['split']!r}", join_names(_SPLITS))
    if not label or not path:
        raise _wrong(place, "an empty cell", "a path and a label")
    if label.lower() in _NORMAL or means_good(label):
        defect = GOOD
    elif split == "train":
        raise _wrong(place, f"the label {label!r} in train", "good there, or split test")
    else:
        named = "defective" if label.lower() in _ONLY_ANOMALOUS else label
        if _is_number(named):
            raise _wrong(place, f"the label {label!r}", "0, 1 or a word")
        defect = cells.get("defect") or named
        if means_good(defect):
            raise _wrong(place, f"the defect {defect!r}", f"another for the label {label!r}")
    return Row(join(root, path), split, defect, join(root, mask) if mask else None, place)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _wrong(place: str, what: str, needed: str) -> DatasetError:
    start = place[:1].upper() + place[1:]
    return DatasetError(f"{start} has {what}, but needs {needed}. Correct it.")
