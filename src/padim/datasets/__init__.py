"""Where images come from: folders, and datasets laid out as MVTec AD."""

from padim.datasets.folder import expand, list_images, normal_images
from padim.datasets.mvtec import (
    MVTEC_OBJECTS,
    MVTEC_TEXTURES,
    Category,
    Sample,
    read_category,
    read_root,
)

__all__ = [
    "MVTEC_OBJECTS",
    "MVTEC_TEXTURES",
    "Category",
    "Sample",
    "expand",
    "list_images",
    "normal_images",
    "read_category",
    "read_root",
]
