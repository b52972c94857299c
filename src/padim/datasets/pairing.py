"""Test images in a folder per defect, and the masks that their names say are theirs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from padim.datasets.category import GOOD, Category, Sample
from padim.datasets.folder import folder_name, list_images, list_visible, some_images
from padim.errors import DatasetError, join_names


@dataclass(frozen=True)
class Folders:
    """A layout with a folder for each defect in ``test``; all but ``train`` may be missing."""

    title: str
    train: str = "train/good"  # of the normal images to learn from
    test: str = "test"  # of ``<defect>/<stem>.*``
    # Of ``<defect>/<stem>_mask.*`` or, if there is none, ``<defect>/<stem>.*``.
    truth: str = "ground_truth"
    normal: str = GOOD  # name of the folder of normal images in ``test``
    validation: str = ""  # of normal images that are set aside; none when empty
    marks: tuple[str, ...] = ()  # what else must be there for a category to be laid out so

    def fits(self, folder: Path) -> bool:
        """Whether a folder is laid out so."""
        return all((folder / name).is_dir() for name in (self.train, *self.marks))

    def read(self, folder: Path) -> Category:
        """Read a category that is laid out so.

        Raises:
            DatasetError: Masks fit twice, or there are no images to learn from.
        """
        test_folder, truth_folder = folder / self.test, folder / self.truth
        samples: list[Sample] = []
        unused: list[Path] = []
        normal_masks: list[tuple[Path, Path]] = []
        for defect in sorted(folder_names(test_folder) | folder_names(truth_folder)):
            if test_folder / defect == truth_folder:
                continue
            images, masks = images_in(test_folder / defect), images_in(truth_folder / defect)
            if defect == self.normal:
                # A normal image has no defect to mark, whatever lies beside it.
                samples.extend(Sample(image, GOOD) for image in images)
                by_stem = {mask.stem: mask for mask in masks}
                for image in images:
                    mask = by_stem.get(f"{image.stem}_mask") or by_stem.get(image.stem)
                    if mask is not None:
                        normal_masks.append((image, mask))
                continue
            paired = _pair(images, masks)
            samples.extend(Sample(image, defect, paired[image]) for image in images)
            used = set().union(*paired.values())
            unused.extend(mask for mask in masks if mask not in used)
        return Category(
            folder_name(folder),
            folder,
            some_images(folder / self.train),
            tuple(samples),
            tuple(unused),
            validation=images_in(folder / self.validation) if self.validation else (),
            normal_masks=tuple(normal_masks),
            layout=self.title,
        )


def folder_names(folder: Path) -> set[str]:
    """Names of the folders in a folder that may be missing."""
    return (
        {path.name for path in list_visible(folder) if path.is_dir()} if folder.is_dir() else set()
    )


def images_in(folder: Path) -> tuple[Path, ...]:
    """The images of a folder that may be missing."""
    return list_images(folder) if folder.is_dir() else ()


def _pair(images: Sequence[Path], masks: Sequence[Path]) -> dict[Path, tuple[Path, ...]]:
    by_stem: dict[str, list[Path]] = {}
    for mask in masks:
        by_stem.setdefault(mask.stem, []).append(mask)
    paired: dict[Path, tuple[Path, ...]] = {}
    owners: dict[Path, Path] = {}
    for image in images:
        candidates = by_stem.get(f"{image.stem}_mask") or by_stem.get(image.stem, [])
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
