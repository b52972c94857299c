"""MVTec AD, MVTec AD 2, BTAD and plain folders: a folder per defect, masks by name."""

from dataclasses import replace
from pathlib import Path

from padim.datasets.category import Category
from padim.datasets.naming import find_folder, find_good
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
BTAD = Folders("BTAD", train="train/ok")
_PLAIN = Folders("plain folders", train="train")


def is_plain(folder: Path) -> bool:
    """Whether a folder has good images as ``read_plain`` finds them, and folders to test on.

    Raises:
        DatasetError: Two of its folders could be meant.
    """
    return find_train(folder) is not None


def read_plain(folder: Path) -> Category:
    """Read good images to fit on, and test images in folders by what they show.

    Args:
        folder: A folder with ``test/<good or defect>``, and images in ``train`` or in a folder of
            any name of good; or with ``train/<any name of good>``. Masks are where MVTec AD has
            them, and may be missing. Names are taken in any case.

    Raises:
        DatasetError: Masks fit twice, or there are no images to fit on.
    """
    train = find_train(folder)
    return replace(_PLAIN, train=_PLAIN.train if train is None else train).read(folder)


def find_train(folder: Path) -> str | None:
    """Find the folder of good images of plain folders: its way from there, or None.

    Raises:
        DatasetError: Two of its folders could be meant.
    """
    train, test = find_folder(folder, _PLAIN.train), find_folder(folder, _PLAIN.test)
    inside = None if train is None or images_in(train) else find_good(train)
    if inside is not None:
        return f"{inside.parent.name}/{inside.name}"
    if not folder_names(test):
        return None
    if train is not None and images_in(train):
        return train.name
    good = find_good(folder)
    return good.name if good is not None and images_in(good) else None
