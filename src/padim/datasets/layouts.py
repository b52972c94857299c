"""Which layouts are known, which one a folder has, and what it holds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from padim.datasets.category import Category
from padim.datasets.folder import (
    folder_name,
    is_folder,
    list_folders,
    list_images,
    list_visible,
)
from padim.datasets.kolektor import is_kolektor, read_kolektor
from padim.datasets.loco import is_loco, read_loco
from padim.datasets.manifest import find_manifest, is_manifest, read_manifest
from padim.datasets.mvtec import BTAD, MVTEC, MVTEC_2, is_plain, read_plain
from padim.datasets.naming import means_good, means_not_good, means_not_to_learn
from padim.datasets.real_iad import find_real_iad, is_real_iad, read_real_iad
from padim.datasets.visa import find_visa, is_visa, read_visa
from padim.errors import DatasetError, UnknownNameError, format_count, join_names
from padim.places import find_place

Found = dict[str, Callable[[], Category]]


@dataclass(frozen=True)
class Layout:
    """One way in which datasets are laid out."""

    title: str
    shape: str  # what it looks like, in a few words
    is_category: Callable[[Path], bool]  # whether a path is one, which ``read`` reads
    read: Callable[[Path], Category]
    # Finds the categories of a dataset that is more than a folder of such.
    search: Callable[[Path], Found] | None = None
    refines: str | None = None  # the layout that such categories have as well

    def find(self, folder: Path) -> Found:
        """Find the categories laid out so: the folder itself, or those inside; maybe none."""
        if self.search is not None and (found := self.search(folder)):
            return found
        if self.is_category(folder):
            return {folder_name(folder): partial(self.read, folder)}
        if self.search is not None or not folder.is_dir():
            return {}
        return {
            path.name: partial(self.read, path)
            for path in list_visible(folder)
            if path.is_dir() and self.is_category(path)
        }


LAYOUTS: dict[str, Layout] = {
    "mvtec": Layout(
        "MVTec AD",
        "train/good, test/<defect>, ground_truth/<defect>/<stem>_mask.png",
        MVTEC.fits,
        MVTEC.read,
        refines="folders",
    ),
    "mvtec-loco": Layout(
        "MVTec LOCO AD",
        "train/good, test/logical_anomalies, defects_config.json",
        is_loco,
        read_loco,
        refines="mvtec",
    ),
    "mvtec-2": Layout(
        "MVTec AD 2",
        "train/good, test_public/<good or bad>",
        MVTEC_2.fits,
        MVTEC_2.read,
        refines="mvtec",
    ),
    "visa": Layout(
        "VisA", "split_csv/1cls.csv beside the categories", is_visa, read_visa, find_visa
    ),
    "btad": Layout("BTAD", "train/ok, test/<ok or ko>", BTAD.fits, BTAD.read, refines="folders"),
    "kolektor": Layout(
        "Kolektor SDD2", "train/<id>.png with train/<id>_GT.png", is_kolektor, read_kolektor
    ),
    "real-iad": Layout(
        "Real-IAD",
        "realiad_jsons/<category>.json, realiad_1024/<category>",
        is_real_iad,
        read_real_iad,
        find_real_iad,
    ),
    "folders": Layout(
        "plain folders",
        "images in train or train/<good>, test/<good or defect>",
        is_plain,
        read_plain,
    ),
    "manifest": Layout(
        "manifest",
        "manifest.csv or .parquet with path, split, label",
        is_manifest,
        read_manifest,
        find_manifest,
    ),
}


def read_dataset(
    folder: str | Path, names: Sequence[str] = (), layout: str | None = None
) -> tuple[Category, ...]:
    """Read the categories of a dataset, whose layout is recognised.

    Args:
        folder: A folder of categories, one category, or a manifest.
        names: Which categories to read; all if empty.
        layout: A name in `LAYOUTS`, to take the folder for that.

    Returns:
        Categories, sorted by name, all of one layout.

    Raises:
        PathMissingError: There is no such folder.
        UnknownNameError: A name is of no category in the folder, or of no layout.
        DatasetError: There is no category, or there are categories of several layouts, or one is
            not as it must be.

    Examples:
        >>> (category,) = padim.read_dataset("part")
        >>> category.layout, len(category.train), len(category.test)
        ('MVTec AD', 6, 6)
    """
    return tuple(read() for read in find_categories(find_place(folder), names, layout).values())


def find_categories(folder: Path, names: Sequence[str] = (), layout: str | None = None) -> Found:
    """Find how to read the categories of a dataset, sorted by name; see ``read_dataset``.

    Raises:
        PathMissingError: There is no such folder.
        UnknownNameError: A name is of no category in the folder, or of no layout.
        DatasetError: There is no category, or there are categories of several layouts.
    """
    known = _choose_layouts(layout)
    is_folder(folder, "a dataset")  # or there is nothing, which it says
    found = _find_all(folder, known)
    if not found:
        raise _no_layout(folder, "to be a category or to hold some", layout)
    there = sorted({name for categories in found.values() for name in categories})
    for name in names:
        if name not in there:
            raise UnknownNameError("category", name, there)
    chosen = {
        key: {name: read for name, read in sorted(one.items()) if not names or name in names}
        for key, one in found.items()
    }
    chosen = {key: one for key, one in chosen.items() if one}
    if len(chosen) > 1:
        titles = " and ".join(f"{LAYOUTS[key].title} ({join_names(chosen[key])})" for key in chosen)
        raise DatasetError(
            f"{folder} can be taken for {titles}, but needs one layout. Say which with --layout: "
            f"{', '.join(chosen)}. Or name categories of one layout with --category."
        )
    (categories,) = chosen.values()
    return categories


def read_category(folder: Path, layout: str | None = None) -> Category:
    """Read one category, whose layout is recognised, or named as in `LAYOUTS`.

    Raises:
        PathMissingError: There is no such folder.
        UnknownNameError: There is no such layout.
        DatasetError: It is no category, or not as it must be.
    """
    is_folder(folder, "a category")  # or there is nothing, which it says
    if (one := layout_of(folder, _choose_layouts(layout))) is not None:
        return one.read(folder)
    raise _no_layout(folder, "to be a category", layout)


def describe(categories: Sequence[Category]) -> str:
    """Say which layout was recognised, and how much it holds."""
    count = format_count(len(categories), "category", "categories")
    names = join_names((one.name for one in categories), 20)
    return f"Layout: {categories[0].layout}, {count} ({names})"


def layout_of(folder: Path, known: Mapping[str, Layout] | None = None) -> Layout | None:
    """Find the layout, of all or of those known, of which a path is a category, if it is one."""
    layouts = sorted((known or LAYOUTS).values(), key=_count_refined, reverse=True)
    return next((one for one in layouts if one.is_category(folder)), None)


def _count_refined(layout: Layout) -> int:
    """How many layouts a category of this one has as well, so that it is looked for first."""
    return 0 if layout.refines is None else 1 + _count_refined(LAYOUTS[layout.refines])


def _find_all(folder: Path, known: Mapping[str, Layout]) -> dict[str, Found]:
    found = {key: one.find(folder) for key, one in known.items()}
    for key, one in known.items():
        if one.refines in found:
            for name in found[key]:
                found[one.refines].pop(name, None)
    return {key: there for key, there in found.items() if there}


def _choose_layouts(layout: str | None) -> dict[str, Layout]:
    if layout is None:
        return LAYOUTS
    if layout not in LAYOUTS:
        raise UnknownNameError("layout", layout, list(LAYOUTS))
    return {layout: LAYOUTS[layout]}


def _no_layout(folder: Path, needed: str, layout: str | None) -> DatasetError:
    if layout is not None and (actual := _find_all(folder, LAYOUTS)):
        titles = " and ".join(f"{LAYOUTS[key].title} ({LAYOUTS[key].shape})" for key in actual)
        return DatasetError(
            f"{folder} has the layout of {titles}, but --layout {layout} needs "
            f"{LAYOUTS[layout].shape}. Leave out --layout, or give {' or '.join(actual)}."
        )
    if layout in (None, "folders") and (advice := _advise_split(folder)) is not None:
        return DatasetError(advice)
    inside = join_names(path.name for path in list_visible(folder)) or "nothing"
    known = _choose_layouts(layout)
    shapes = "; ".join(f"{one.title} ({key}): {one.shape}" for key, one in known.items())
    what = "The layout is" if layout else "The known layouts are"
    return DatasetError(f"{folder} has {inside} inside, but needs {needed}. {what} {shapes}.")


def _advise_split(folder: Path) -> str | None:
    """Say what to move where if folders of good and of other images lie beside each other."""
    inside = [path for path in list_folders(folder) if list_images(path)]
    good = [path for path in inside if means_good(path.name)]
    others = [path for path in inside if path not in good and not _is_other(path.name)]
    if len(good) != 1 or not others:
        return None
    kinds = join_names(path.name for path in others)
    moves = ", ".join(f"{path} to {folder / 'test' / path.name}" for path in others[:5])
    return (
        f"{folder} has {good[0].name} and {kinds} beside each other, but needs test images apart "
        f"from those to learn from. Move {moves}, some of {good[0]} to {folder / 'test/good'}, "
        f"and the rest to {folder / 'train/good'}."
    )


def _is_other(name: str) -> bool:
    """Whether a folder is named as masks, as tests or as images to learn from."""
    return name.casefold() == "train" or (means_not_to_learn(name) and not means_not_good(name))
