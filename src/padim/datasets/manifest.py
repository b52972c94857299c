"""A manifest: one CSV or Parquet file that names every image of a dataset."""

import csv
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from padim.datasets.category import Category
from padim.datasets.folder import folder_name
from padim.datasets.table import category_of, check_columns, read_csv, rows_of
from padim.errors import DatasetError, join_names
from padim.places.archives import find_archive
from padim.places.rows import holds_bytes, open_table, read_names

_NAMES = ("manifest.csv", "manifest.parquet")
_SUFFIXES = frozenset({".csv", ".parquet"})
_NEEDED = ("path", "split", "label")
_BATCH_ROWS = 1024
_MOST_BYTES = 256 << 20  # of what is wanted of a Parquet file, which may be packed very small
_ADVICE = "Name them so; mask, category and defect may be there as well."


def is_manifest(path: Path) -> bool:
    """Whether a path is a ``.csv`` or ``.parquet`` file, or a folder with such a ``manifest.*``."""
    return _find_file(path) is not None


def read_manifest(path: Path) -> Category:
    """Read a manifest of one category, as ``find_manifest`` takes it.

    Raises:
        DatasetError: It names several categories, lacks a column or has a row that is not as it
            must be.
        MissingExtraError: It is a Parquet file, and pyarrow is not installed.
    """
    found = find_manifest(path)
    if len(found) > 1:
        raise DatasetError(
            f"{path} has several categories ({join_names(found)}), but needs to be of one thing. "
            "Name one with --category, or use padim benchmark, which takes all."
        )
    (read,) = found.values()
    return read()


def find_manifest(path: Path) -> dict[str, Callable[[], Category]]:
    """Find the categories that a manifest names.

    Args:
        path: The file, or a folder with ``manifest.csv`` or ``manifest.parquet``. Columns: ``path``
            of the image; ``split``, which is train, validation (or val) or test; ``label``, which
            is good (or normal, ok, 0, false), 1, true or a word; and, where wanted, ``mask`` (a
            path), ``category`` (the manifest's folder otherwise) and ``defect`` (the label
            otherwise). Paths are relative to the manifest's folder, or URLs. In Parquet, a column
            ``image`` may hold the bytes of the pictures; their ``path`` is a name then.

    Returns:
        How to read each; empty if there is no manifest.

    Raises:
        DatasetError: A column is missing, or a row is not as it must be.
        MissingExtraError: It is a Parquet file, and pyarrow is not installed.
    """
    file = _find_file(path)
    if file is None:
        return {}
    is_parquet = file.suffix.lower() == ".parquet"
    lines: Sequence[Mapping[str, object]]
    lines = _read_parquet(file) if is_parquet else read_csv(file, _NEEDED, _ADVICE)
    rows = rows_of(lines, file, file.parent, folder_name(file.parent))
    if not rows:
        raise DatasetError(f"{file} has no rows, but needs one for each image. Check the path.")
    return {
        name: partial(category_of, rows[name], name, file.parent, "manifest")
        for name in sorted(rows)
    }


def _find_file(path: Path) -> Path | None:
    if path.is_file():
        return path if path.suffix.lower() in _SUFFIXES else None
    found = [path / name for name in _NAMES if _is_meant(path / name)]
    if len(found) > 1:
        raise DatasetError(f"{path} has {join_names(_NAMES)}, but one is needed. Name the one.")
    return found[0] if found else None


def _is_meant(file: Path) -> bool:
    """Whether a file found in a folder is a manifest; anyone may call a table so."""
    if not file.is_file() or file.suffix != ".csv":
        return file.is_file()
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        return set(_NEEDED) <= set(next(csv.reader(stream), ()))


def _read_parquet(file: Path) -> list[dict[str, object]]:
    wanted = {*_NEEDED, "mask", "category", "defect"}
    rows: list[dict[str, object]] = []
    n_bytes = 0
    with open_table(find_archive(str(file))) as opened:
        names = opened.schema_arrow.names
        has_bytes = holds_bytes(opened.schema_arrow)
        needed = [name for name in _NEEDED if name != "path" or not has_bytes]
        check_columns(file, names, needed, _ADVICE)
        chosen = [name for name in names if name in wanted]
        for batch in opened.iter_batches(_BATCH_ROWS, columns=chosen):
            n_bytes += batch.nbytes
            if n_bytes > _MOST_BYTES:
                raise ValueError(f"its rows have more than {_MOST_BYTES >> 20} MiB")
            rows += batch.to_pylist()
        if has_bytes:  # a picture is a file in this one
            rows = [
                line | {"path": f"{file.name}/{name}"}
                for line, name in zip(rows, read_names(opened), strict=True)
            ]
    return rows
