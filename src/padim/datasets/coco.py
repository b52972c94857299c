"""COCO: one JSON file of instances for many images."""

from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta

from padim.datasets.shapes import (
    AnnotatedImage,
    Outline,
    Runs,
    box_points,
    is_defect,
    make_outline,
    make_runs,
)
from padim.documents import Finite, Side

_MOST_PACKED = 8 << 20  # characters, or numbers, of the runs of all masks of a file

Box = Annotated[list[Finite], Meta(min_length=4, max_length=4)]  # left, top, width, height


@dataclass(frozen=True)
class CocoImage:
    """An image, as COCO has it."""

    id: int | str
    file_name: str
    height: Side
    width: Side


@dataclass(frozen=True)
class CocoCategory:
    """A kind of object, as COCO has it."""

    id: int
    name: str


@dataclass(frozen=True)
class CocoRuns:
    """A mask by the lengths of its runs, column by column; compressed ones are a string."""

    size: Annotated[list[Side], Meta(min_length=2, max_length=2)]
    counts: list[int] | str


Polygons = list[Annotated[list[Finite], Meta(min_length=6)]]  # x and y in turn


@dataclass(frozen=True)
class CocoAnnotation:
    """An object in an image, as COCO has it."""

    image_id: int | str
    category_id: int | None = None
    segmentation: CocoRuns | Polygons | None = None
    bbox: Box | None = None


@dataclass(frozen=True)
class CocoFile:
    """Objects in images, as COCO has them."""

    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory] = field(default_factory=list)

    def list_images(self) -> list[AnnotatedImage]:
        """The images, with what is a defect in them.

        Raises:
            ValueError: An object is not as it must be.

        Source:
            https://cocodataset.org/#format-data, and ``common/maskApi.c`` of its API.
        """
        packed = (
            len(one.segmentation.counts)
            for one in self.annotations
            if isinstance(one.segmentation, CocoRuns)
        )
        if sum(packed) > _MOST_PACKED:
            raise ValueError("its masks have more runs than one file may have")
        good = {one.id for one in self.categories if not is_defect(one.name)}
        by_image: dict[int | str, list[CocoAnnotation]] = {}
        for annotation in self.annotations:
            if annotation.category_id not in good:
                by_image.setdefault(annotation.image_id, []).append(annotation)
        return [_convert(image, by_image.get(image.id, [])) for image in self.images]


def _convert(image: CocoImage, annotations: list[CocoAnnotation]) -> AnnotatedImage:
    size_px = image.height, image.width
    shapes: list[Outline | Runs] = []
    has_boxes = False
    for one in annotations:
        if isinstance(one.segmentation, CocoRuns):
            if tuple(one.segmentation.size) != size_px:
                raise ValueError(f"a mask of {image.file_name} is not of the size of its image")
            counts = one.segmentation.counts
            lengths = unpack(counts) if isinstance(counts, str) else counts
            shapes.append(make_runs(size_px, lengths, is_by_column=True))
        elif one.segmentation:
            for polygon in one.segmentation:
                if len(polygon) % 2:
                    raise ValueError(f"a polygon of {image.file_name} has an x without a y")
                shapes.append(make_outline(polygon, size_px))
        elif one.bbox is not None:
            left, top, width, height = one.bbox
            corners = box_points(left, top, left + width - 1, top + height - 1)
            shapes.append(make_outline(corners, size_px))
            has_boxes = True
    return AnnotatedImage(image.file_name, size_px, tuple(shapes), has_boxes)


def unpack(counts: str) -> list[int]:
    """Unpack the lengths of runs: five bits a character, and from the third on as differences.

    Raises:
        ValueError: The string ends inside a number.

    Source:
        ``rleFrString`` in ``common/maskApi.c`` of the COCO API.
    """
    lengths: list[int] = []
    value = shift = 0
    for char in counts:
        code = ord(char) - 48
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            if shift > 60:
                raise ValueError("a number in the runs of a mask has no end")
            continue
        if code & 16:
            value -= 1 << shift
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("the runs of a mask end inside a number")
    return lengths
