"""VisA as it is published: a CSV file says which image is for what."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from padim.datasets.category import Category
from padim.datasets.folder import folder_name, list_images
from padim.datasets.table import Row, category_of, read_csv, rows_of
from padim.errors import DatasetError

_SPLIT = Path("split_csv") / "1cls.csv"
_COLUMNS = ("object", "split", "label", "image", "mask")


def is_visa(folder: Path) -> bool:
    """Whether a folder is a category of VisA: it has ``Data``, and the CSV file lies beside it."""
    return (folder / "Data").is_dir() and (folder.absolute().parent / _SPLIT).is_file()


def read_visa(folder: Path) -> Category:
    """Read one category of VisA, from within the dataset's folder.

    Raises:
        DatasetError: The CSV file is not as it must be, or does not name the category.
    """
    root = folder.parent if folder.name not in ("", "..") else folder.absolute().parent
    found = find_visa(root)
    name = folder_name(folder)
    if name not in found:
        raise DatasetError(f"{root / _SPLIT} has no rows of {name!r}. Check the folder's name.")
    return found[name]()


def find_visa(folder: Path) -> dict[str, Callable[[], Category]]:
    """Find the categories of VisA.

    Args:
        folder: The dataset's folder, with ``split_csv/1cls.csv`` (columns object, split, label,
            image and mask; paths from this folder), the split of one class, and the categories.

    Returns:
        How to read each; empty if there is no such file.

    Raises:
        DatasetError: The file or a row of it is not as it must be.

    Source:
        Zou et al. 2022 (SPot-the-Difference), and ``utils/prepare_data.py`` of its repository.
    """
    path = folder / _SPLIT
    if not path.is_file():
        return {}
    lines = read_csv(path, _COLUMNS, "Fetch it anew.")
    rows = rows_of(
        ({**line, "category": line["object"], "path": line["image"]} for line in lines),
        path,
        folder,
    )
    return {name: partial(_read_rows, folder, name, rows[name]) for name in sorted(rows)}


def _read_rows(root: Path, name: str, rows: list[Row]) -> Category:
    folder = root / name
    known = {row.mask_path for row in rows}
    masks = folder / "Data" / "Masks"
    unused = list_images(masks, recursive=True) if masks.is_dir() else ()
    return category_of(
        rows, name, folder, "VisA", tuple(path for path in unused if path not in known)
    )
