"""MVTec AD, MVTec AD 2 and BTAD: a folder per category, a folder per defect, masks by name."""

from padim.datasets.pairing import Folders

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
