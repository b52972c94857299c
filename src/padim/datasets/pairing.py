"""Test images in a folder per defect, and the masks that their names say are theirs."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from padim.datasets.category import GOOD, Sample
from padim.datasets.folder import list_images, visible
from padim.errors import DatasetError, listed


@dataclass(frozen=True)
class TestImages:
    """What a test folder and its ground truth hold.

    Attributes:
        samples: The test images, sorted by defect and name.
        unused_masks: Masks that belong to none of them.
        normal_masks: Normal images that have a mask, and that mask.
    """

    __test__ = False  # no test case, whatever pytest makes of its name

    samples: tuple[Sample, ...]
    unused_masks: tuple[Path, ...]
    normal_masks: tuple[tuple[Path, Path], ...]


def read_test(
    test: Path, truth: Path, *, normal: str = GOOD, skip: Collection[str] = ()
) -> TestImages:
    """Read a test folder of defects, and its ground truth.

    Args:
        test: The folder of ``<defect>/<stem>.*``; may be missing.
        truth: The folder of ``<defect>/<stem>_mask.*`` or, if there is none, ``<defect>/<stem>.*``;
            may be missing.
        normal: Name of the folder of normal images.
        skip: Folders inside ``test`` that are no defects.

    Raises:
        DatasetError: Masks fit twice.
    """
    samples: list[Sample] = []
    unused: list[Path] = []
    normal_masks: list[tuple[Path, Path]] = []
    for defect in sorted((folder_names(test) | folder_names(truth)) - set(skip)):
        images, masks = images_in(test / defect), images_in(truth / defect)
        if defect == normal:
            # A normal image has no defect to mark, whatever lies beside it.
            samples.extend(Sample(image, GOOD, None) for image in images)
            by_stem = {mask.stem: mask for mask in masks}
            for image in images:
                mask = by_stem.get(f"{image.stem}_mask") or by_stem.get(image.stem)
                if mask is not None:
                    normal_masks.append((image, mask))
            continue
        paired = _pair(images, masks)
        samples.extend(Sample(image, defect, paired.get(image)) for image in images)
        used = set(paired.values())
        unused.extend(mask for mask in masks if mask not in used)
    return TestImages(tuple(samples), tuple(unused), tuple(normal_masks))


def folder_names(folder: Path) -> set[str]:
    """Names of the folders in a folder that may be missing."""
    return {path.name for path in visible(folder) if path.is_dir()} if folder.is_dir() else set()


def images_in(folder: Path) -> tuple[Path, ...]:
    """The images of a folder that may be missing."""
    return list_images(folder) if folder.is_dir() else ()


def _pair(images: Sequence[Path], masks: Sequence[Path]) -> dict[Path, Path]:
    by_stem: dict[str, list[Path]] = {}
    for mask in masks:
        by_stem.setdefault(mask.stem, []).append(mask)
    paired: dict[Path, Path] = {}
    owners: dict[Path, Path] = {}
    for image in images:
        candidates = by_stem.get(f"{image.stem}_mask") or by_stem.get(image.stem) or []
        if len(candidates) > 1:
            raise DatasetError(
                f"{image} has {len(candidates)} masks ({listed(candidates)}), but needs one. "
                "Remove or rename the others."
            )
        for mask in candidates:
            if mask in owners:
                raise DatasetError(
                    f"{mask} is the mask of both {owners[mask]} and {image}, but needs to be of "
                    "one. Rename the images and their masks."
                )
            paired[image] = mask
            owners[mask] = image
    return paired
