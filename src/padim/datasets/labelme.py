"""Labelme: a JSON file for each image."""

import base64
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from msgspec import Meta

from padim.datasets.shapes import (
    AnnotatedImage,
    Bitmap,
    Outline,
    Point,
    box_points,
    ellipse_points,
    is_defect,
    make_outline,
)
from padim.documents import Finite, Side
from padim.images.decode import decode

Corner = Annotated[list[Finite], Meta(min_length=2, max_length=2)]
_MOST_BITMAPS_PX = 1 << 28  # of all masks of a file
_BY_POINTS = {"polygon": True, "rotation": True, "line": False, "linestrip": False}


@dataclass(frozen=True)
class LabelmeShape:
    """A shape, as Labelme writes it."""

    label: str
    points: list[Corner]
    shape_type: str | None = None  # a polygon, as in files of old versions
    mask: str | None = None  # a PNG in base64, of a mask from its first point to its second


@dataclass(frozen=True)
class LabelmeFile:
    """An image, as Labelme writes it."""

    shapes: list[LabelmeShape]
    imageHeight: Side  # noqa: N815  # the names of Labelme
    imageWidth: Side  # noqa: N815  # the names of Labelme
    imagePath: str | None = None  # noqa: N815  # the names of Labelme

    def list_images(self) -> list[AnnotatedImage]:
        """The image, with what is a defect.

        Raises:
            ValueError: A shape is not as it must be.
            ImageReadError: A mask in it cannot be read.

        Source:
            ``labelme/label_file.py`` and ``labelme/utils/shape.py`` of its repository.
        """
        size_px = self.imageHeight, self.imageWidth
        shapes: list[Outline | Bitmap] = []
        n_left_px = _MOST_BITMAPS_PX
        for shape in self.shapes:
            drawn = _convert(shape, size_px) if is_defect(shape.label) else []
            n_left_px -= sum(one.mask.size for one in drawn if isinstance(one, Bitmap))
            if n_left_px < 0:
                raise ValueError("its masks have more pixels than one file may have")
            shapes += drawn
        return [AnnotatedImage(self.imagePath or "", size_px, tuple(shapes))]


def _convert(shape: LabelmeShape, size_px: tuple[int, int]) -> list[Outline | Bitmap]:
    kind = shape.shape_type or "polygon"
    points: list[Point] = [(x, y) for x, y in shape.points]
    flat = [number for point in points for number in point]
    if kind in ("point", "points"):
        return [make_outline(point, size_px) for point in points]
    if kind in _BY_POINTS or (kind == "rectangle" and len(points) == 4):
        return [make_outline(flat, size_px, is_closed=_BY_POINTS.get(kind, True))]
    if len(points) != 2 or kind not in ("rectangle", "circle", "mask"):
        raise ValueError(f"a shape is a {kind} with {len(points)} points, which is not known")
    first, second = points
    if kind == "rectangle":
        return [make_outline(box_points(*first, *second), size_px)]
    if kind == "circle":
        radius = float(np.hypot(second[0] - first[0], second[1] - first[1]))
        return [make_outline(ellipse_points(first, (radius, radius)), size_px)]
    picture = decode(base64.b64decode(shape.mask or "", validate=True))
    make_outline(flat, size_px)  # which refuses what is far outside
    return [Bitmap(np.asarray(picture.convert("L")) > 0, (round(first[1]), round(first[0])))]
