"""MVTec AD, MVTec AD 2, BTAD and plain folders: a folder per defect, masks by name."""

from pathlib import Path

from padim.datasets.category import Category
from padim.datasets.pairing import Folders, folder_names, images_in

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

MVTEC = Folders("MVTec AD")  # and what was converted to its layout, as VisA often is
# The private test images have no labels and are not read. Heckler-Kram et al. 2025 (MVTec AD 2) and
# the utilities that come with the dataset.
MVTEC_2 = Folders(
    "MVTec AD 2",
    test="test_public",
    truth="test_public/ground_truth",
    validation="validation/good",
    marks=("test_public",),
)
# Mishra et al. 2021 (VT-ADL), whose archive has the categories 01, 02 and 03.
BTAD = Folders("BTAD", train="train/ok", normal="ok")

_PLAIN_TRAIN = ("train", "good")


def is_plain(folder: Path) -> bool:
    """Whether a folder has images in ``train`` or ``good``, and folders in ``test``."""
    return bool(folder_names(folder / "test")) and _find_train(folder) is not None


def read_plain(folder: Path) -> Category:
    """Read good images to fit on, and test images in folders by what they show.

    Masks are where MVTec AD has them, and may be missing.

    Raises:
        DatasetError: Masks fit twice, or there are no images to fit on.
    """
    return Folders("plain folders", train=_find_train(folder) or _PLAIN_TRAIN[0]).read(folder)


def _find_train(folder: Path) -> str | None:
    return next((name for name in _PLAIN_TRAIN if images_in(folder / name)), None)
