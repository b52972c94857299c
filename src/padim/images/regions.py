"""Connected parts of a mask, and the hottest part of an anomaly map."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from padim.errors import ShapeError


@dataclass(frozen=True)
class Region:
    """A connected part of an anomaly map, in whole pixels from the top left corner.

    Attributes:
        x: Left edge of the box.
        y: Top edge of the box.
        width: Width of the box: it covers x to x + width - 1.
        height: Height of the box: it covers y to y + height - 1.
        area_px: How many pixels of the box belong to the part.
        peak_x: Column of the highest pixel.
        peak_y: Row of the highest pixel.
        peak: Score of the highest pixel.
        mean: Mean score of the part's pixels.

    Examples:
        >>> region = padim.load("part.safetensors").predict("spot.png").region()
        >>> region.x <= region.peak_x < region.x + region.width
        True
    """

    x: int
    y: int
    width: int
    height: int
    area_px: int
    peak_x: int
    peak_y: int
    peak: float = field(default=math.nan, compare=False)
    mean: float = field(default=math.nan, compare=False)

    def in_source(self, size_px: tuple[int, int], window: tuple[int, int, int, int]) -> "Region":
        """The same part in the pixels of the source image.

        Args:
            size_px: (height, width) of the map it is a part of.
            window: Top, left, height and width of what the map shows, in source pixels.
        """
        top, left, height, width = window
        down, across = height / size_px[0], width / size_px[1]
        x, y = left + int(self.x * across), top + int(self.y * down)
        return Region(
            x=x,
            y=y,
            width=left + math.ceil((self.x + self.width) * across) - x,
            height=top + math.ceil((self.y + self.height) * down) - y,
            area_px=max(1, round(self.area_px * across * down)),
            peak_x=left + int((self.peak_x + 0.5) * across),
            peak_y=top + int((self.peak_y + 0.5) * down),
            peak=self.peak,
            mean=self.mean,
        )


def label_regions(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Number the parts of a mask ``(H, W)`` that hang together over edges or corners.

    Returns:
        Labels, 0 outside and 1 to n inside, in the order in which reading line by line meets the
        parts; and n.

    Source:
        Runs joined as in He et al. 2008; minimum label hooking with pointer jumping as in
        Shiloach and Vishkin 1982. In two rounds every part merges, so rounds are logarithmic.
    """
    require_two_axes("mask", mask)
    height, width = mask.shape
    # A false column on either side keeps the runs of neighbouring rows apart in the flat mask.
    stride = width + 2
    padded = np.zeros((height, stride), dtype=np.bool_)
    padded[:, 1:-1] = mask
    flat = padded.ravel()
    borders = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts, ends = borders[::2], borders[1::2]  # (runs,), half-open

    # The runs below that touch a run, also by a corner, follow one another: first to last - 1.
    first = ends.searchsorted(starts + stride, "left")
    last = starts.searchsorted(ends + stride, "right")
    n_below = np.maximum(last - first, 0)
    upper = np.repeat(np.arange(starts.size), n_below)
    rank = np.arange(upper.size) - np.repeat(np.cumsum(n_below) - n_below, n_below)
    lower = np.repeat(first, n_below) + rank

    root = np.arange(starts.size)
    while upper.size:
        np.minimum.at(root, np.maximum(upper, lower), np.minimum(upper, lower))
        while not np.array_equal(jumped := root[root], root):
            root = jumped
        upper, lower = root[upper], root[lower]
        apart = upper != lower
        upper, lower = upper[apart], lower[apart]

    is_first = root == np.arange(starts.size)
    label = np.cumsum(is_first, dtype=np.int32)[root]
    labels = np.zeros((height, width), dtype=np.int32)
    labels[padded[:, 1:-1]] = np.repeat(label, ends - starts)
    return labels, int(np.count_nonzero(is_first))


def peak_region(
    anomaly_map: NDArray[np.float32], fraction: float = 0.01
) -> tuple[Region, NDArray[np.bool_]]:
    """Box the part of the hottest pixels that holds the highest one.

    Hot are the pixels at or above the k-th largest value, k = max(1, round(fraction n)) of the n
    pixels that are not NaN; equal values may make them more than k. Where the map is constant,
    everything is hot.

    Returns:
        The part that hangs together over edges or corners, and its pixels, shape ``(H, W)``. Its
        peak is the first of the highest pixels, line by line.
    """
    values = anomaly_map[~np.isnan(anomaly_map)]
    n_hot = max(1, round(fraction * values.size))
    values.partition(values.size - n_hot)
    hot = anomaly_map >= values[values.size - n_hot]
    peak_y, peak_x = divmod(int((anomaly_map == values.max()).argmax()), anomaly_map.shape[1])
    labels, _ = label_regions(hot)
    inside = labels == labels[peak_y, peak_x]
    return _region(anomaly_map, *_pixels(inside)), inside


def regions_above(
    anomaly_map: NDArray[np.float32], threshold: float, least_px: float = 1
) -> tuple[list[Region], NDArray[np.bool_]]:
    """Box the parts of a map that lie above a threshold; those below ``least_px`` are left out.

    Returns:
        The parts that hang together over edges or corners, the highest peak first, and their
        pixels, shape ``(H, W)``.
    """
    labels, n_parts = label_regions(anomaly_map > threshold)
    rows, columns = _pixels(labels > 0)
    label = labels[rows, columns]
    order = np.argsort(label, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(label, minlength=n_parts + 1)[1:-1]))
    kept = [part for part in parts if part.size >= max(least_px, 1)]
    inside = np.zeros(anomaly_map.shape, np.bool_)
    for part in kept:
        inside[rows[part], columns[part]] = True
    found = [_region(anomaly_map, rows[part], columns[part]) for part in kept]
    return sorted(found, key=lambda region: -region.peak), inside


def _pixels(mask: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of what is true, as ``np.nonzero``, which takes ten times as long."""
    rows, columns = np.divmod(np.flatnonzero(mask), mask.shape[1])
    return rows, columns


def _region(
    anomaly_map: NDArray[np.float32], rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> Region:
    """The part of a map that consists of these pixels, given line by line."""
    values = anomaly_map[rows, columns]
    peak = int(values.argmax())
    x, y = int(columns.min()), int(rows.min())
    return Region(
        x=x,
        y=y,
        width=int(columns.max()) - x + 1,
        height=int(rows.max()) - y + 1,
        area_px=rows.size,
        peak_x=int(columns[peak]),
        peak_y=int(rows[peak]),
        peak=float(values[peak]),
        mean=float(values.mean(dtype=np.float64)),
    )


def require_two_axes(name: str, array: NDArray[Any]) -> None:
    """Raise a `ShapeError` if a map or a mask has not two axes."""
    if array.ndim != 2:
        raise ShapeError(
            f"The {name} has shape {array.shape}, but needs two axes, (H, W). Give one at a time."
        )
