"""A region of interest: the part of a picture, always taken alike, that a model looks at."""

import base64
import io
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from PIL import Image

from padim.documents import Document, Finite, Side
from padim.errors import PathMissingError, UsageError
from padim.images.decode import read_levels
from padim.images.masks import judge_levels
from padim.recipes import MOST_PX

_EXAMPLE = "[[10, 10], [90, 10], [50, 80]]"
_Polygon = Annotated[list[tuple[Finite, Finite]], Meta(min_length=3)]
_Polygons = Annotated[list[_Polygon], Meta(min_length=1)]


@dataclass(frozen=True)
class Roi:
    """Where a model looks."""

    source_px: tuple[Side, Side]  # (height, width) of the only images that it fits
    # The mask at network size, in base64; the same bytes for the same mask.
    png: Annotated[str, Meta(max_length=1 << 24)]

    @classmethod
    def of(
        cls, mask: NDArray[np.bool_], bring: Callable[[NDArray[np.bool_]], NDArray[np.bool_]]
    ) -> "Roi":
        """Take a region of the source images to network size, as ``bring`` does with masks.

        Raises:
            UsageError: Nothing of it is left there.
        """
        at_network = bring(mask)
        if not at_network.any():
            raise UsageError(
                "The region of interest covers no pixel of what the network sees. Draw it larger, "
                "or raise --size-px."
            )
        buffer = io.BytesIO()
        Image.fromarray(at_network).save(buffer, "PNG", optimize=True)
        png = base64.b64encode(buffer.getvalue()).decode("ascii")
        return cls((mask.shape[0], mask.shape[1]), png)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """True where it looks, shape ``(H, W)`` at network size.

        Raises:
            ValueError: The PNG is none, or no mask.
        """
        mask = read_png(self.png)
        if mask.dtype != np.bool_ or not mask.any():
            raise ValueError("png needs to be of black and white, and not all black")
        return mask

    def find_cells(self, grid: tuple[int, int]) -> NDArray[np.bool_]:
        """Whether each cell of a grid over the whole picture has a pixel of it."""
        height, width = self.mask.shape
        blocks = self.mask.reshape(grid[0], height // grid[0], grid[1], width // grid[1])
        return np.asarray(blocks.any(axis=(1, 3)))

    def to_json(self) -> dict[str, Any]:
        """The region as plain data."""
        return asdict(self)


def read_png(text: str) -> NDArray[Any]:
    """Read a PNG in base64 of one of our files, of no more pixels than a network may see.

    Raises:
        ValueError: It is none, or larger.
    """
    try:
        with Image.open(io.BytesIO(base64.b64decode(text)), formats=["PNG"]) as picture:
            if picture.width * picture.height <= MOST_PX:
                return np.array(picture)
    except Exception as error:  # Pillow lets out almost anything on damaged pictures
        raise ValueError("a picture in it is no PNG") from error
    raise ValueError("a picture in it is too large")


def read_roi(path: Path, source_px: tuple[int, int]) -> NDArray[np.bool_]:
    """Read a region of interest.

    Args:
        path: A mask image, which marks where to look as ``judge_levels`` has it; or a ``.json``
            with the corners of a polygon as ``[x, y]`` in source pixels, or a list of such
            polygons.
        source_px: (height, width) of the images it is for.

    Returns:
        True where to look, shape ``source_px``.

    Raises:
        UsageError: It is not there, or neither, of another size than the images, or covers none.
        MaskReadError: The mask cannot be read.
    """
    if not path.is_file():
        raise PathMissingError(path)
    mask = (
        _draw(_read_polygons(path), source_px)
        if path.suffix.lower() == ".json"
        else _read_marked(path)
    )
    if mask.shape != source_px:
        raise UsageError(
            f"{path} is a region of interest of {mask.shape[0]}x{mask.shape[1]} px, but the images "
            f"are {source_px[0]}x{source_px[1]} px. Draw it on one of them."
        )
    if not mask.any():
        raise UsageError(f"{path} covers no pixel of the images. Draw it where to look.")
    return mask


def _read_marked(path: Path) -> NDArray[np.bool_]:
    levels = read_levels(path)
    if np.isnan(levels).any():
        raise UsageError(f"{path} has pixels that are NaN, but needs numbers. Draw it anew.")
    return judge_levels(levels).mask


def _read_polygons(path: Path) -> list[list[tuple[float, float]]]:
    advice = (
        f"Give the corners of a polygon as [x, y] in source pixels, such as {_EXAMPLE}, or a list "
        "of such polygons."
    )
    document = Document(path, UsageError, advice)
    data = document.read(path)
    is_list = isinstance(data, list) and data and isinstance(data[0], list) and data[0]
    is_one = is_list and not isinstance(data[0][0], list)
    return document.restore([data] if is_one else data, _Polygons)


def _draw(
    polygons: list[list[tuple[float, float]]], source_px: tuple[int, int]
) -> NDArray[np.bool_]:
    from PIL import ImageDraw

    picture = Image.new("1", source_px[::-1])
    draw = ImageDraw.Draw(picture)
    for polygon in polygons:
        draw.polygon(polygon, fill=1)
    return np.array(picture)
