"""Real-IAD: a JSON file for each category, and its images in a folder for each resolution."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from padim.datasets.category import GOOD, Category
from padim.datasets.folder import folder_name, list_visible
from padim.datasets.table import Row, category_of
from padim.documents import Document
from padim.errors import DatasetError, join_names

_LISTS = "realiad_jsons"  # the lists of all five views; others add _sv or _fuiad_0.4
_IMAGES = "realiad_"  # and 256, 512, 1024 or raw


@dataclass(frozen=True)
class _Entry:
    anomaly_class: str
    image_path: str
    mask_path: str | None = None


@dataclass(frozen=True)
class _Meta:
    normal_class: str = "OK"
    prefix: str | None = None


@dataclass(frozen=True)
class _List:
    """A list, as ``find_real_iad`` describes it."""

    meta: _Meta
    train: tuple[_Entry, ...] = ()
    test: tuple[_Entry, ...] = ()


def is_real_iad(folder: Path) -> bool:
    """Whether a folder is a category of Real-IAD, for which there is a list."""
    folder = folder.absolute()
    return folder.parent.name.startswith(_IMAGES) and bool(_find_lists(folder))


def read_real_iad(folder: Path) -> Category:
    """Read one category of Real-IAD, a folder in that of a resolution.

    Raises:
        DatasetError: Its list is not as it must be.
    """
    path = _choose(folder, _find_lists(folder.absolute())) / f"{folder_name(folder)}.json"
    return _read(path, folder.parent if folder.name else folder.absolute().parent)


def find_real_iad(folder: Path) -> dict[str, Callable[[], Category]]:
    """Find the categories of Real-IAD.

    Args:
        folder: The dataset's folder, with ``realiad_jsons*`` (lists of all views: ``realiad_jsons``
            is taken where there are several) and one of ``realiad_256``, ``_512``, ``_1024`` and
            ``_raw``; or the folder of one resolution, or of one kind of lists.

    Returns:
        How to read each; empty if it is no such folder.

    Raises:
        DatasetError: There are several resolutions, or several kinds of lists.

    Source:
        Wang et al. 2024 (Real-IAD), and its readers in public repositories. A list is an object
        with ``meta`` (``normal_class`` and ``prefix``), ``train`` and ``test``; their entries have
        ``anomaly_class``, ``image_path`` and ``mask_path``, below the folder of the resolution and
        the prefix.
    """
    place = folder.absolute()
    if place.name.startswith(_LISTS):
        chosen = folder
        roots = [parent for parent in place.parents[:2] if _resolutions(parent)]
        if not roots or not _lists(folder):
            return {}
        images = _choose_resolution(folder, roots[0])
    elif place.name.startswith(_IMAGES) and _find_list_folders(place.parent):
        chosen, images = _choose(folder, _find_list_folders(place.parent)), folder
    elif lists := _find_list_folders(folder):
        chosen, images = _choose(folder, lists), _choose_resolution(folder, folder)
    else:
        return {}
    return {path.stem: partial(_read, path, images) for path in _lists(chosen)}


def _read(path: Path, images: Path) -> Category:
    document = Document(path, DatasetError, "Fetch it anew.")
    found = document.restore(document.read(path), _List)
    folder = images / (found.meta.prefix or path.stem)
    rows = [
        Row(
            folder / entry.image_path,
            split,
            GOOD if entry.anomaly_class == found.meta.normal_class else entry.anomaly_class,
            folder / entry.mask_path if entry.mask_path else None,
            f"entry {number} of {split} in {path}",
        )
        for split, entries in (("train", found.train), ("test", found.test))
        for number, entry in enumerate(entries, 1)
    ]
    return category_of(rows, path.stem, folder, "Real-IAD")


def _find_lists(category: Path) -> list[Path]:
    """The folders with a list of a category, which is given as an absolute path."""
    folders = _find_list_folders(category.parent.parent)
    return [folder for folder in folders if (folder / f"{category.name}.json").is_file()]


def _find_list_folders(root: Path) -> list[Path]:
    """The folders with lists, at most two deep."""
    if not root.is_dir():
        return []
    outer = _folders(root, _LISTS)
    inner = [path for folder in outer for path in _folders(folder, _LISTS)]
    return [folder for folder in (*outer, *inner) if _lists(folder)]


def _folders(root: Path, start: str) -> list[Path]:
    return [path for path in list_visible(root) if path.name.startswith(start) and path.is_dir()]


def _lists(folder: Path) -> list[Path]:
    return [path for path in list_visible(folder) if path.suffix == ".json" and path.is_file()]


def _choose(folder: Path, lists: list[Path]) -> Path:
    usual = [path for path in lists if path.name == _LISTS] or lists
    if len(usual) > 1:
        raise DatasetError(
            f"{folder} has several kinds of lists ({join_names(usual)}), but one is needed. Name "
            f"one of these folders instead."
        )
    return usual[0]


def _resolutions(root: Path) -> list[Path]:
    return [path for path in _folders(root, _IMAGES) if not path.name.startswith(_LISTS)]


def _choose_resolution(folder: Path, root: Path) -> Path:
    resolutions = _resolutions(root)
    if len(resolutions) > 1:
        raise DatasetError(
            f"{folder} has several resolutions ({join_names(path.name for path in resolutions)}), "
            f"but one is needed. Name it: {resolutions[0]}."
        )
    return resolutions[0] if resolutions else root
