"""Shapes that annotation tools draw, and the masks that they are."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from padim.datasets.naming import means_good
from padim.images.masks import MaskImage, find_flaws

Point = tuple[float, float]  # x and y, in pixels
_CORNERS = 64  # of a polygon that stands for an ellipse


@dataclass(frozen=True)
class Outline:
    """A polygon with what is inside it; or a line, a pixel wide; or points."""

    points: tuple[Point, ...]
    is_closed: bool = True

    def draw(self, picture: Image.Image) -> None:
        """Draw it white."""
        draw = ImageDraw.Draw(picture)
        if self.is_closed and len(self.points) > 2:
            draw.polygon(self.points, fill=1, outline=1)
        elif len(self.points) > 1:
            draw.line(self.points, fill=1)
        else:
            draw.point(self.points, fill=1)


@dataclass(frozen=True)
class Runs:
    """A bitmap by the lengths of its runs, the first of which is not the defect."""

    size_px: tuple[int, int]  # (height, width)
    lengths: tuple[int, ...]
    place: tuple[int, int] = (0, 0)  # row and column of its corner
    is_by_column: bool = False

    def draw(self, picture: Image.Image) -> None:
        """Draw it white, run by run: in memory and time of what is white alone."""
        draw = ImageDraw.Draw(picture)
        top, left = self.place
        n_line = self.size_px[0 if self.is_by_column else 1]
        end = 0
        for i, length in enumerate(self.lengths):
            start, end = end, end + length
            for y, x, bottom, right in _split_run(start, end, n_line) if i % 2 and length else ():
                if self.is_by_column:
                    y, x, bottom, right = x, y, right, bottom
                draw.rectangle((left + x, top + y, left + right, top + bottom), fill=1)


@dataclass(frozen=True, eq=False)
class Bitmap:
    """A bitmap as it is."""

    mask: NDArray[np.bool_]
    place: tuple[int, int]  # row and column of its corner

    def draw(self, picture: Image.Image) -> None:
        """Draw it white."""
        stencil = Image.fromarray(np.ascontiguousarray(self.mask))
        picture.paste(1, (self.place[1], self.place[0]), stencil)


@dataclass(frozen=True)
class AnnotatedImage:
    """What an annotation tool knows of an image.

    Attributes:
        name: Its file, as the tool names it.
        size_px: (height, width).
        shapes: Its defects.
        has_boxes: Whether some defects have no shape but their box.
    """

    name: str
    size_px: tuple[int, int]
    shapes: tuple[Outline | Runs | Bitmap, ...]
    has_boxes: bool = False

    def __post_init__(self) -> None:
        """Raise a ``ValueError`` if there is no such image, or none so large is read."""
        height, width = self.size_px
        most = Image.MAX_IMAGE_PIXELS
        if min(height, width) < 1 or (most is not None and height * width > most):
            raise ValueError(f"an image has {width} x {height} px")

    def draw(self) -> MaskImage:
        """Draw all its defects as one mask."""
        picture = Image.new("1", self.size_px[::-1])
        for shape in self.shapes:
            shape.draw(picture)
        mask = np.array(picture)
        return MaskImage(mask, ("box-mask",) * self.has_boxes + find_flaws(mask))


def is_defect(label: str) -> bool:
    """Whether a shape of a label is a defect: it is, unless the label says good."""
    return not means_good(label)


def make_outline(
    points: Sequence[Point], size_px: tuple[int, int], *, is_closed: bool = True
) -> Outline:
    """Make an outline of points, none of which may be further off its image than its size.

    Raises:
        ValueError: One is.
    """
    height, width = size_px
    for x, y in points:
        if not (-width <= x <= 2 * width and -height <= y <= 2 * height):
            raise ValueError(f"a point ({x:g}, {y:g}) is far outside {width} x {height} px")
    if not points:
        raise ValueError("a shape has no points")
    return Outline(tuple(points), is_closed)


def box_points(left: float, top: float, right: float, bottom: float) -> list[Point]:
    """The corners of a box."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def ellipse_points(centre: Point, radii: Point) -> list[Point]:
    """Points along an ellipse."""
    turns = [2 * math.pi * i / _CORNERS for i in range(_CORNERS)]
    return [
        (centre[0] + radii[0] * math.cos(turn), centre[1] + radii[1] * math.sin(turn))
        for turn in turns
    ]


def rotate(points: Sequence[Point], centre: Point, degrees: float) -> list[Point]:
    """Turn points clockwise, as they are seen."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [
        (
            centre[0] + (x - centre[0]) * cos - (y - centre[1]) * sin,
            centre[1] + (x - centre[0]) * sin + (y - centre[1]) * cos,
        )
        for x, y in points
    ]


def make_runs(
    size_px: tuple[int, int],
    lengths: Sequence[int],
    place: tuple[int, int] = (0, 0),
    *,
    is_by_column: bool = False,
) -> Runs:
    """Make a bitmap of the lengths of its runs.

    Raises:
        ValueError: They do not fill it.
    """
    if min(*size_px, *lengths) < 0 or sum(lengths) != size_px[0] * size_px[1] or not sum(lengths):
        raise ValueError(f"the runs of a mask do not fill {size_px[1]} x {size_px[0]} px")
    return Runs(size_px, tuple(lengths), place, is_by_column)


def _split_run(start: int, end: int, n_line: int) -> Iterator[tuple[int, int, int, int]]:
    """Split a run over lines of pixels into boxes: line and place of the first and last pixel."""
    (first, start), (last, end) = divmod(start, n_line), divmod(end - 1, n_line)
    if first == last:
        yield first, start, first, end
        return
    yield first, start, first, n_line - 1
    if last - first > 1:
        yield first + 1, 0, last - 1, n_line - 1
    yield last, 0, last, end
