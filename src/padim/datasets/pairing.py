"""Test images in a folder per defect, and the masks that their names say are theirs."""

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from padim.datasets.category import GOOD, Category, Sample
from padim.datasets.exports import add_annotations
from padim.datasets.folder import folder_name, list_folders, list_images, some_images
from padim.datasets.naming import find_folder, find_good, means_good, means_truth
from padim.errors import DatasetError, ImageReadError, join_names
from padim.images.masks import read_mask

_LOOKED_AT = 3  # images, to tell photographs from masks


@dataclass(frozen=True)
class Folders:
    """A layout with a folder for each defect in ``test``; all but ``train`` may be missing."""

    title: str
    train: str = "train/good"  # of the normal images to learn from
    test: str = "test"  # of ``<defect>/<stem>.*``; any name of good is normal
    # Of ``<defect>/<stem>_mask.*`` or, if there is none, ``<defect>/<stem>.*``; any one folder that
    # is named as ground truth, where there is none of this name. The former may lie beside its
    # image as well, with any name of ground truth for ``mask``.
    truth: str = "ground_truth"
    validation: str = ""  # of normal images that are set aside; none when empty
    marks: tuple[str, ...] = ()  # what else must be there for a category to be laid out so

    def fits(self, folder: Path) -> bool:
        """Whether a folder is laid out so, whatever the case of its names.

        Raises:
            DatasetError: Two of its folders differ in their case alone.
        """
        return all(find_folder(folder, name) is not None for name in (self.train, *self.marks))

    def list_train(self, folder: Path, *, recursive: bool = False) -> tuple[Path, ...]:
        """List the images to learn from, of which there must be at least one.

        Raises:
            DatasetError: There are none, or another folder beside them is of good images as well.
        """
        train = find_folder(folder, self.train) or folder / self.train
        if means_good(train.name) and train.parent != folder:
            find_good(train.parent)
        return some_images(train, recursive=recursive)

    def find_truth(self, folder: Path) -> Path | None:
        """Find the folder of masks of a category; None without one, or where it may be several.

        Raises:
            DatasetError: Two folders differ in their case alone.
        """
        test = find_folder(folder, self.test)
        inside = None if test is None else find_folder(test, "ground_truth")
        named = find_folder(folder, self.truth) or inside
        others = [path for path in list_folders(folder) if means_truth(path.name)]
        return named or (others[0] if len(others) == 1 else None)

    def read(self, folder: Path) -> Category:
        """Read a category that is laid out so.

        A test folder that is named as ground truth is a kind of defect, such as a damaged label,
        if its images are photographs.

        Raises:
            DatasetError: Masks fit twice, a folder of masks is among the tests, or there are no
                images to learn from.
        """
        test_folder = find_folder(folder, self.test)
        truth_folder = self.find_truth(folder)
        tests, truths = _by_defect(test_folder, truth_folder), _by_defect(truth_folder)
        samples: list[Sample] = []
        unused: list[Path] = []
        normal_masks: list[tuple[Path, Path]] = []
        places = truths | tests
        for defect in sorted(places, key=lambda defect: places[defect].name):
            images, masks = part_masks(images_in(tests[defect])) if defect in tests else ((), ())
            masks = (*masks, *(images_in(truths[defect]) if defect in truths else ()))
            name = places[defect].name
            if means_good(name):
                # A normal image has no defect to mark, whatever lies beside it.
                samples.extend(Sample(image, GOOD) for image in images)
                by_stem = _by_stem(images, masks)
                for image in images:
                    normal_masks.extend((image, mask) for mask in _candidates(image, by_stem)[-1:])
                continue
            if means_truth(name) and images and not _are_photographs(images):
                raise DatasetError(
                    f"{tests[defect]} is named as ground truth, but would be taken for images of "
                    f"a defect. Move it to {folder / self.truth}, or rename it."
                )
            paired = _pair(images, masks)
            samples.extend(Sample(image, name, paired[image]) for image in images)
            used = set().union(*paired.values())
            unused.extend(mask for mask in masks if mask not in used)
        train, beside = part_masks(self.list_train(folder))
        unused.extend(beside)
        validation = find_folder(folder, self.validation) if self.validation else None
        category = Category(
            folder_name(folder),
            folder,
            train,
            tuple(samples),
            tuple(unused),
            validation=() if validation is None else images_in(validation),
            normal_masks=tuple(normal_masks),
            layout=self.title,
            unlabelled=self._list_unlabelled(folder),
        )
        return add_annotations(category)

    def _list_unlabelled(self, folder: Path) -> tuple[Path, ...]:
        """List the images that lie beside the folders whose names say what images show."""
        outer, _, inner = self.train.partition("/")
        found = (find_folder(folder, way) for way in (outer if inner else "", self.test) if way)
        return tuple(image for place in found if place is not None for image in images_in(place))


def folder_names(folder: Path | None) -> set[str]:
    """Names of the folders in a folder that may be missing."""
    return set() if folder is None else {path.name for path in list_folders(folder)}


def images_in(folder: Path) -> tuple[Path, ...]:
    """The images of a folder that may be missing."""
    return list_images(folder) if folder.is_dir() else ()


def part_masks(paths: Sequence[Path]) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Part images from the masks that lie beside them: ``x_mask.png``, ``x-GT.png``."""
    places = {(path.parent, path.stem) for path in paths}
    masks = {path for path in paths if _find_owner(path, places) is not None}
    return (
        tuple(path for path in paths if path not in masks),
        tuple(path for path in paths if path in masks),
    )


def _are_photographs(images: Sequence[Path]) -> bool:
    """Whether the first images are grey all over, as masks are not."""
    try:
        return all("grey-mask" in read_mask(image).flaws for image in images[:_LOOKED_AT])
    except ImageReadError:  # the folder is refused by its name
        return False


def _find_owner(mask: Path, places: Container[tuple[Path, str]]) -> str | None:
    """Find the stem of the image beside a mask, which goes on with a name of ground truth."""
    for sign in re.finditer(r"[\W_]", mask.stem):
        stem, rest = mask.stem[: sign.start()], mask.stem[sign.start() :]
        if means_truth(rest) and (mask.parent, stem) in places:
            return stem
    return None


def _by_defect(folder: Path | None, apart: Path | None = None) -> dict[str, Path]:
    """The folders in a folder but one, by their name in small letters."""
    found: dict[str, Path] = {}
    for path in list_folders(folder) if folder is not None else ():
        if path != apart:
            find_folder(path.parent, path.name)  # or it refuses two
            found[path.name.casefold()] = path
    return found


def _pair(images: Sequence[Path], masks: Sequence[Path]) -> dict[Path, tuple[Path, ...]]:
    by_stem = _by_stem(images, masks)
    paired: dict[Path, tuple[Path, ...]] = {}
    owners: dict[Path, Path] = {}
    for image in images:
        candidates = _candidates(image, by_stem)
        if len(candidates) > 1:
            raise DatasetError(
                f"{image} has {len(candidates)} masks ({join_names(candidates)}), but needs one. "
                "Remove or rename the others."
            )
        for mask in candidates:
            if (owner := owners.setdefault(mask, image)) != image:
                raise DatasetError(
                    f"{mask} is the mask of both {owner} and {image}, but needs to be of one. "
                    "Rename the images and their masks."
                )
        paired[image] = tuple(candidates)
    return paired


def _by_stem(images: Sequence[Path], masks: Sequence[Path]) -> dict[str, list[Path]]:
    """Masks by their stem, which is ``<stem>_mask`` of all that lie beside images."""
    places = {(image.parent, image.stem) for image in images}
    found: dict[str, list[Path]] = {}
    for mask in masks:
        owner = _find_owner(mask, places)
        found.setdefault(f"{owner}_mask" if owner else mask.stem, []).append(mask)
    return found


def _candidates(image: Path, by_stem: dict[str, list[Path]]) -> list[Path]:
    return by_stem.get(f"{image.stem}_mask") or by_stem.get(image.stem, [])
