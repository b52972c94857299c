"""Which annotation files are the ground truth of which test images."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from padim.datasets.annotations import (
    SUFFIXES,
    Annotations,
    may_know_images,
    read_annotations,
)
from padim.datasets.category import Category, Sample
from padim.datasets.folder import folders_in, list_images, list_visible
from padim.datasets.naming import find_folder, means_truth
from padim.errors import DatasetError

_PLACES = ("annotations", "ground_truth")  # of exports and of files for each image


def add_annotations(category: Category) -> Category:
    """Give test images that have no mask what an annotation tool knows of them.

    That is ``<stem>.json`` (Labelme) beside an image, or in ``ground_truth`` or ``annotations``,
    where it may be in a folder of the defect; else one file of COCO or CVAT in the category's
    folder or in one of these two. An image without a shape in such a file has no ground truth.

    Raises:
        DatasetError: A file cannot be understood, or an image could be meant twice.
    """
    if not any(sample.is_anomalous and not sample.masks for sample in category.test):
        return category
    places = [find_folder(category.root, name) for name in _PLACES]
    roots = [category.root, *(place for place in places if place is not None)]
    beside = _find_beside(category.test, roots[1:])
    known = set(beside.values())
    exports = [
        export
        for root in roots
        for path in _list_annotations(root).values()
        if path not in known
        and may_know_images(path)
        and (export := read_annotations(path)) is not None
        and not export.is_of_one
    ]
    found = _match(category.test, exports) | beside
    has_mask = {image for image, _ in category.normal_masks}
    test = tuple(
        replace(sample, masks=(found[sample.path],))
        if sample.is_anomalous and not sample.masks and sample.path in found
        else sample
        for sample in category.test
    )
    more = tuple(
        (sample.path, found[sample.path])
        for sample in category.test
        if not sample.is_anomalous and sample.path in found and sample.path not in has_mask
    )
    return replace(category, test=test, normal_masks=(*category.normal_masks, *more))


def find_seeming_truth(category: Category) -> Path | None:
    """Find a folder of images that is named as ground truth, or for one image that has a mask.

    A folder ``<stem>`` is for the test image of that name; in it, ``mask`` begins a mask's name.
    """
    tests = {sample.path.parent for sample in category.test}
    inside = [path for path in folders_in(category.root, recursive=True) if path not in tests]
    for folder in inside:
        if means_truth(folder.name) and list_images(folder, recursive=True):
            return folder
    stems = {sample.path.stem for sample in category.test if sample.is_anomalous}
    for folder in inside:
        if folder.name in stems and any(map(_is_mask, list_images(folder))):
            return folder
    return None


def _is_mask(path: Path) -> bool:
    return bool({"mask", "masks", "gt"}.intersection(re.split(r"[^a-z]+", path.stem.lower())))


def _find_beside(samples: Sequence[Sample], places: Sequence[Path]) -> dict[Path, Path]:
    """The annotation file of each image that has one of its own."""
    files: dict[Path, list[dict[str, Path]]] = {}  # of the nearest place first
    for folder in {sample.path.parent for sample in samples}:
        inner = (find_folder(place, folder.name) for place in places)
        listed = [folder, *(place for place in inner if place is not None), *places]
        files[folder] = [_list_annotations(place) for place in listed]
    found = {}
    owners: dict[Path, Path] = {}
    for sample in samples:
        named = (files_there.get(sample.path.stem) for files_there in files[sample.path.parent])
        path = next((one for one in named if one is not None and may_know_images(one)), None)
        if path is None:
            continue
        if (owner := owners.setdefault(path, sample.path)) != sample.path:
            raise _meant_twice(path, path.name, owner, sample.path)
        found[sample.path] = path
    return found


def _match(samples: Sequence[Sample], exports: Sequence[Annotations]) -> dict[Path, Path]:
    """The export that knows each image; of images of one name, the one whose folders fit best."""
    best: dict[tuple[Path, str], tuple[int, Path | None]] = {}
    found: dict[Path, Path] = {}
    for sample in samples:
        for export in exports:
            one, n_shared = export.find(sample.path)
            if one is None or not one.shapes:
                continue
            n_before, before = best.get((export.path, one.name), (0, None))
            if n_shared < n_before:
                continue
            if before is not None:
                if n_shared == n_before:
                    raise _meant_twice(export.path, one.name, before, sample.path)
                del found[before]
            if (other := found.setdefault(sample.path, export.path)) != export.path:
                raise DatasetError(
                    f"{sample.path} is in both {other} and {export.path}, but needs to be in one. "
                    "Remove the other."
                )
            best[export.path, one.name] = n_shared, sample.path
    return found


def _meant_twice(path: Path, name: str, one: Path, other: Path) -> DatasetError:
    return DatasetError(
        f"{path} has {name}, which could be {one} or {other}, but needs to be one. Export it with "
        "the folders of the images, or rename them."
    )


def _list_annotations(folder: Path) -> dict[str, Path]:
    """The annotation files in a folder, by stem."""
    return {
        path.stem: path
        for path in list_visible(folder)
        if path.suffix.lower() in SUFFIXES and path.is_file()
    }
