"""Plain folders: good images to fit on, and test images in folders by what they show."""

from pathlib import Path

from padim.datasets.category import Category
from padim.datasets.folder import folder_name, some_images
from padim.datasets.pairing import folder_names, images_in, read_test

_TRAIN = ("train", "good")


def is_plain(folder: Path) -> bool:
    """Whether a folder has images in ``train`` or ``good``, and folders in ``test``."""
    return bool(folder_names(folder / "test")) and _train(folder) is not None


def read_plain(folder: Path) -> Category:
    """Read good images to fit on, and test images in folders by what they show.

    Args:
        folder: A folder whose ``train`` (or ``good``) holds good images, and whose ``test`` holds
            folders: ``good``, and whatever else is a kind of defect. Masks are where MVTec AD has
            them, and may be missing.

    Raises:
        DatasetError: Masks fit twice, or there are no images to fit on.
    """
    found = read_test(folder / "test", folder / "ground_truth")
    return Category(
        folder_name(folder),
        folder,
        some_images(_train(folder) or folder / _TRAIN[0]),
        found.samples,
        found.unused_masks,
        normal_masks=found.normal_masks,
        layout="plain folders",
    )


def _train(folder: Path) -> Path | None:
    return next((folder / name for name in _TRAIN if images_in(folder / name)), None)
