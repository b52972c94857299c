"""The good images that a path stands for, whatever it is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from padim.datasets.category import Category
from padim.datasets.folder import (
    drop_repeats,
    expand,
    folders_in,
    is_folder,
    list_images,
    some_images,
)
from padim.datasets.layouts import layout_of
from padim.datasets.manifest import is_manifest, read_manifest
from padim.datasets.mvtec import MVTEC
from padim.datasets.naming import means_good, means_not_to_learn
from padim.datasets.pairing import part_masks
from padim.errors import DatasetError, join_names


@dataclass(frozen=True)
class NormalImages:
    """Images to learn from.

    Attributes:
        paths: The images.
        category: What they are of, if it is one.
        masks: What lies beside images of no category, and is left out.
    """

    paths: tuple[Path, ...]
    category: Category | None = None
    masks: tuple[Path, ...] = ()


def normal_images(path: Path | Sequence[Path], *, recursive: bool = False) -> tuple[Path, ...]:
    """List the normal images to learn from, each once.

    Args:
        path: A category of any layout, of which only what is to be fitted on is taken; any other
            folder, whose own images are taken without the masks beside them; an image; or several
            of these.
        recursive: Look into the folders inside as well, if no name there says that its images are
            not good.

    Raises:
        PathMissingError: A path does not exist.
        DatasetError: A folder has no images, holds several categories, or has folders inside whose
            names say that not all is good.
    """
    paths = [path] if isinstance(path, Path) else path
    return drop_repeats(file for one in paths for file in find_normal(one, recursive).paths)


def find_normal(path: Path, recursive: bool = False) -> NormalImages:
    """Find the normal images of one path, as ``normal_images`` does, and their category."""
    if not is_folder(path):
        if not is_manifest(path):
            return NormalImages((path,))
        category = read_manifest(path)
        return NormalImages(category.train, category)
    if (layout := layout_of(path)) is not None:
        category = layout.read(path)
        if recursive and MVTEC.fits(path):
            train, masks = part_masks(MVTEC.list_train(path, recursive=True))
            unused = drop_repeats((*category.unused_masks, *masks))
            category = replace(category, train=train, unused_masks=unused)
        return NormalImages(category.train, category)
    categories = [folder for folder in folders_in(path, recursive) if layout_of(folder)]
    if categories:
        names = join_names(folder.relative_to(path).as_posix() for folder in categories)
        raise DatasetError(
            f"{path} has categories inside ({names}), but needs to be of one thing. "
            f"Name one category, such as {categories[0]}."
        )
    if recursive or not list_images(path):
        require_good(path)
    images, masks = part_masks(some_images(path, recursive=recursive))
    return NormalImages(images, masks=masks)


def expand_good(paths: Sequence[Path], *, recursive: bool) -> tuple[Path, ...]:
    """List the images of ``find_good_images``."""
    return find_good_images(paths, recursive=recursive).paths


def find_good_images(paths: Sequence[Path], *, recursive: bool) -> NormalImages:
    """Replace every folder by its images as ``expand`` does, where all are to be learned from.

    Masks beside images are told apart.

    Raises:
        PathMissingError: A path does not exist.
        DatasetError: A folder has no images, or folders inside whose names say that not all is
            good.
    """
    for path in paths:
        if is_folder(path) and (recursive or not list_images(path)):
            require_good(path)
    images, masks = part_masks(expand(paths, recursive=recursive))
    return NormalImages(images, masks=masks)


def require_good(folder: Path) -> None:
    """Make sure that no folder inside a folder of good images says by its name that it is not.

    Raises:
        DatasetError: One does, or one is named as good and its neighbours are not.
    """
    inside = list(folders_in(folder, recursive=True))
    good = [path for path in inside if means_good(path.name) and list_images(path, recursive=True)]
    others = [path for path in inside if _is_doubtful(path, folder, good) and list_images(path)]
    if not others:
        return
    names = join_names(path.relative_to(folder).as_posix() for path in others)
    advice = f": {' or '.join(map(str, good[:3]))}" if good else " alone"
    raise DatasetError(
        f"{folder} has folders whose names do not say good ({names}), but all images to learn from "
        f"need to be good. Name the folder of good images{advice}."
    )


def expand_defects(folder: Path) -> tuple[Path, ...]:
    """List the images of known defects of a folder and of those inside it, without masks.

    Raises:
        PathMissingError: It does not exist.
        DatasetError: It has no images, or the name of a folder inside says that it is good.
    """
    inside = folders_in(folder, recursive=True) if is_folder(folder) else ()
    good = [path for path in inside if means_good(path.name) and list_images(path, recursive=True)]
    if good:
        raise DatasetError(
            f"{folder} has folders whose names say good ({join_names(good)}), but needs to be of "
            "images with defects alone. Name the folder of these."
        )
    return part_masks(expand([folder], recursive=True))[0]


def _is_doubtful(path: Path, root: Path, good: Sequence[Path]) -> bool:
    """Whether a name on the way to a folder says not good, or it is beside one that says good."""
    ways = [path, *path.parents]
    ways = ways[: ways.index(root)]
    beside = {one.parent for one in good}
    return any(
        means_not_to_learn(way.name) or (way.parent in beside and not means_good(way.name))
        for way in ways
    )
