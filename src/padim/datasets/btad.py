"""BTAD, of beanTech: MVTec AD with other words."""

from pathlib import Path

from padim.datasets.category import Category
from padim.datasets.folder import folder_name, some_images
from padim.datasets.pairing import read_test


def is_btad(folder: Path) -> bool:
    """Whether a folder has ``train/ok``."""
    return (folder / "train" / "ok").is_dir()


def read_btad(folder: Path) -> Category:
    """Read a category of BTAD.

    Args:
        folder: A folder with ``train/ok`` and ``test/<ok or ko>``. The mask of ``test/ko/<stem>.*``
            is ``ground_truth/ko/<stem>.*``, PNG or BMP.

    Raises:
        DatasetError: There are no images in ``train/ok``, or masks that fit twice.

    Source:
        Mishra et al. 2021 (VT-ADL), whose archive has the categories 01, 02 and 03.
    """
    found = read_test(folder / "test", folder / "ground_truth", normal="ok")
    return Category(
        folder_name(folder),
        folder,
        some_images(folder / "train" / "ok"),
        found.samples,
        found.unused_masks,
        normal_masks=found.normal_masks,
        layout="BTAD",
    )
