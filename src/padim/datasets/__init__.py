"""Where images come from: folders, and datasets in the layouts that are common."""

from padim.datasets.category import Category, DefectRegion, Sample, Saturation
from padim.datasets.folder import expand, list_images
from padim.datasets.layouts import LAYOUTS, describe, layout_of, read_category, read_dataset
from padim.datasets.mvtec import MVTEC_OBJECTS, MVTEC_TEXTURES
from padim.datasets.normal import (
    NormalImages,
    expand_defects,
    expand_good,
    find_normal,
    normal_images,
)

__all__ = [
    "LAYOUTS",
    "MVTEC_OBJECTS",
    "MVTEC_TEXTURES",
    "Category",
    "DefectRegion",
    "NormalImages",
    "Sample",
    "Saturation",
    "describe",
    "expand",
    "expand_defects",
    "expand_good",
    "find_normal",
    "layout_of",
    "list_images",
    "normal_images",
    "read_category",
    "read_dataset",
]
