"""Shapes that annotation tools draw, and the masks that they are."""

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import sub

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from padim.datasets.naming import means_good
from padim.images.masks import MaskImage, find_flaws

Point = tuple[float, float]  # x and y, in pixels
_CORNERS = 64  # of a polygon that stands for an ellipse
_TURNS = [2 * math.pi * i / _CORNERS for i in range(_CORNERS)]
_CIRCLE = np.array([(math.cos(turn), math.sin(turn)) for turn in _TURNS])
_MOST_NS = 5e9  # to draw an image


@dataclass(frozen=True, eq=False)
class Outline:
    """A polygon with what is inside it; or a line, a pixel wide; or points."""

    points: "array[float]"  # x and y in turn
    is_closed: bool = True

    @property
    def draw_ns(self) -> float:
        """How long drawing takes at most, about, as Pillow was measured."""
        xs, ys = self.points[::2], self.points[1::2]
        width, height = max(xs) - min(xs), max(ys) - min(ys)
        across: float = sum(map(abs, map(sub, xs, xs[1:]))) + width
        down: float = sum(map(abs, map(sub, ys, ys[1:]))) + height
        return 10 * across + 150 * down + height * len(xs) + 0.1 * width * height

    def draw(self, canvas: ImageDraw.ImageDraw) -> None:
        """Draw it white."""
        points = self.points.tolist()  # Pillow takes any buffer for one of single precision
        if self.is_closed and len(points) > 4:
            canvas.polygon(points, fill=1, outline=1)
        elif len(points) > 2:
            canvas.line(points, fill=1)
        else:
            canvas.point(points, fill=1)


@dataclass(frozen=True)
class Runs:
    """A bitmap by the lengths of its runs, the first of which is not the defect."""

    size_px: tuple[int, int]  # (height, width)
    lengths: tuple[int, ...]
    place: tuple[int, int] = (0, 0)  # row and column of its corner
    is_by_column: bool = False

    @property
    def draw_ns(self) -> float:
        """How long drawing takes at most, about, as Pillow was measured."""
        return 1000 * len(self.lengths) + 12 * sum(self.lengths[1::2])

    def draw(self, canvas: ImageDraw.ImageDraw) -> None:
        """Draw it white, run by run: in memory and time of what is white alone."""
        top, left = self.place
        n_line = self.size_px[0 if self.is_by_column else 1]
        end = 0
        for i, length in enumerate(self.lengths):
            start, end = end, end + length
            for y, x, bottom, right in _split_run(start, end, n_line) if i % 2 and length else ():
                if self.is_by_column:
                    y, x, bottom, right = x, y, right, bottom
                canvas.rectangle((left + x, top + y, left + right, top + bottom), fill=1)


@dataclass(frozen=True, eq=False)
class Bitmap:
    """A bitmap as it is."""

    mask: NDArray[np.bool_]
    place: tuple[int, int]  # row and column of its corner

    @property
    def draw_ns(self) -> float:
        """How long drawing takes at most, about, as Pillow was measured."""
        return 5 * self.mask.size

    def draw(self, canvas: ImageDraw.ImageDraw) -> None:
        """Draw it white."""
        stencil = Image.fromarray(np.ascontiguousarray(self.mask))
        canvas.bitmap((self.place[1], self.place[0]), stencil, fill=1)


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
        """Raise a ``ValueError`` if there is no such image, or too much of it to draw."""
        height, width = self.size_px
        most = Image.MAX_IMAGE_PIXELS
        if min(height, width) < 1 or (most is not None and height * width > most):
            raise ValueError(f"an image has {height}x{width} px")
        if sum(shape.draw_ns for shape in self.shapes) > _MOST_NS:
            raise ValueError(f"the shapes of {self.name or 'its image'} take too long to draw")

    def draw(self) -> MaskImage:
        """Draw all its defects as one mask."""
        picture = Image.new("1", self.size_px[::-1])
        canvas = ImageDraw.Draw(picture)
        for shape in self.shapes:
            shape.draw(canvas)
        mask = np.array(picture)
        return MaskImage(mask, ("box-mask",) * self.has_boxes + find_flaws(mask))


def is_defect(label: str) -> bool:
    """Whether a shape of a label is a defect: it is, unless the label says good."""
    return not means_good(label)


def make_outline(
    points: Sequence[float], size_px: tuple[int, int], *, is_closed: bool = True
) -> Outline:
    """Make an outline of points, none of which may be further off its image than its size.

    Args:
        points: x and y in turn.
        size_px: (height, width) of the image.
        is_closed: Whether what is inside counts.

    Raises:
        ValueError: One is, or there are none, or a y is missing.
    """
    if not points or len(points) % 2:
        raise ValueError("a shape has an x without a y" if points else "a shape has no points")
    for side, values in zip(size_px[::-1], (points[::2], points[1::2]), strict=True):
        # The sum tells what is not a number, which is neither the least nor the most.
        if not (-side <= min(values) and max(values) <= 2 * side and math.isfinite(sum(values))):
            low, high, (height, width) = min(values), max(values), size_px
            raise ValueError(
                f"a shape goes from {low:g} to {high:g}, far outside {height}x{width} px"
            )
    return Outline(array("d", points), is_closed)


def box_points(left: float, top: float, right: float, bottom: float) -> list[float]:
    """The corners of a box."""
    return [left, top, right, top, right, bottom, left, bottom]


def ellipse_points(centre: Point, radii: Point) -> list[float]:
    """Points along an ellipse."""
    return _flatten(centre + _CIRCLE * radii)


def rotate(points: list[float], centre: Point, degrees: float) -> list[float]:
    """Turn points clockwise, as they are seen."""
    if not degrees:
        return points
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = (np.reshape(points, (-1, 2)) - centre).T
    return _flatten(np.stack((x * cos - y * sin, x * sin + y * cos), axis=1) + centre)


def _flatten(points: NDArray[np.float64]) -> list[float]:
    flat: list[float] = points.ravel().tolist()
    return flat


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
        raise ValueError(f"the runs of a mask do not fill {size_px[0]}x{size_px[1]} px")
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
