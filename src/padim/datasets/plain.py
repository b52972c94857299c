"""Plain folders: good images to fit on, and test images in folders by what they show."""

from pathlib import Path

from padim.datasets.category import Category
from padim.datasets.pairing import Folders, folder_names, images_in

_TRAIN = ("train", "good")


def is_plain(folder: Path) -> bool:
    """Whether a folder has images in ``train`` or ``good``, and folders in ``test``."""
    return bool(folder_names(folder / "test")) and _find_train(folder) is not None


def read_plain(folder: Path) -> Category:
    """Read good images to fit on, and test images in folders by what they show.

    Masks are where MVTec AD has them, and may be missing.

    Raises:
        DatasetError: Masks fit twice, or there are no images to fit on.
    """
    return Folders("plain folders", train=_find_train(folder) or _TRAIN[0]).read(folder)


def _find_train(folder: Path) -> str | None:
    return next((name for name in _TRAIN if images_in(folder / name)), None)
