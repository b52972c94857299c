"""MVTec AD, MVTec AD 2 and BTAD: a folder per category, a folder per defect, masks by name."""

from pathlib import Path

from padim.datasets.category import Category
from padim.datasets.pairing import read_folders

# Bergmann et al. 2019, "MVTec AD: a comprehensive real-world dataset", table 1.
MVTEC_TEXTURES: tuple[str, ...] = ("carpet", "grid", "leather", "tile", "wood")
MVTEC_OBJECTS: tuple[str, ...] = (
    "bottle",
    "cable",
    "capsule",
    "hazelnut",
    "metal_nut",
    "pill",
    "screw",
    "toothbrush",
    "transistor",
    "zipper",
)


def is_mvtec(folder: Path) -> bool:
    """Whether a folder has ``train/good``."""
    return (folder / "train" / "good").is_dir()


def read_mvtec(folder: Path) -> Category:
    """Read a category of MVTec AD, or of what was converted to its layout, as VisA often is.

    Args:
        folder: A folder with ``train/good``. ``test`` and ``ground_truth`` may be missing. The
            mask of ``test/<defect>/<stem>.*`` is ``ground_truth/<defect>/<stem>_mask.*`` or, if
            there is none, ``ground_truth/<defect>/<stem>.*``.

    Raises:
        DatasetError: There are no images in ``train/good``, or masks that fit twice.
    """
    return read_folders(folder, "MVTec AD")


def is_mvtec_2(folder: Path) -> bool:
    """Whether a folder has ``train/good`` and ``test_public``."""
    return is_mvtec(folder) and (folder / "test_public").is_dir()


def read_mvtec_2(folder: Path) -> Category:
    """Read the public part of a category of MVTec AD 2.

    Args:
        folder: A folder with ``train/good``, ``validation/good`` and ``test_public/<good or bad>``.
            The mask of ``test_public/bad/<stem>.png`` is
            ``test_public/ground_truth/bad/<stem>_mask.png``. The private test images have no
            labels and are not read.

    Raises:
        DatasetError: There are no images in ``train/good``, or masks that fit twice.

    Source:
        Heckler-Kram et al. 2025 (MVTec AD 2) and the utilities that come with the dataset.
    """
    return read_folders(
        folder,
        "MVTec AD 2",
        test="test_public",
        truth="test_public/ground_truth",
        validation="validation/good",
    )


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
    return read_folders(folder, "BTAD", "train/ok", normal="ok")
