"""What is kept of an image to compare it with others: a thumbnail, brightness and size."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from padim.images.decode import PLAIN, Depth
from padim.images.reading import FULL_WHITE, smallest_white

_THUMBNAIL_PX = 32
_DUPLICATE_RMS = 1.0  # grey levels between thumbnails
_FAR_FACTOR = 2  # of size
_BLOCK = 1024  # thumbnails compared at once, with those near them
_STEPS = 5  # towards the direction of the largest spread
_ROUNDING = 1e-3  # of float32, in sums of a thousand
_NOTHING = 1e-12


@dataclass(frozen=True)
class Look:
    """What is kept of an image to compare it with the rest."""

    source_px: tuple[int, int]
    brightness: float  # mean grey level, 0 to 255
    thumbnail: NDArray[np.float32]  # grey levels, (32, 32)
    depth: Depth = PLAIN  # what the image was before it had 8 bits

    @classmethod
    def of(
        cls,
        pixels: NDArray[np.uint8],
        source_px: tuple[int, int],
        depth: Depth = PLAIN,
    ) -> "Look":
        """Look at RGB pixels ``(H, W, 3)``, for instance at network size, at least 32x32."""
        grey = pixels[..., 0].astype(np.float32)  # numpy is slow over an axis as short as this
        grey += pixels[..., 1]
        grey += pixels[..., 2]
        grey /= 3
        edges = [np.arange(_THUMBNAIL_PX) * side // _THUMBNAIL_PX for side in grey.shape]
        sums = np.add.reduceat(np.add.reduceat(grey, edges[0], axis=0), edges[1], axis=1)
        counts = [np.diff(edge, append=side) for edge, side in zip(edges, grey.shape, strict=True)]
        n_pixels = np.maximum(np.outer(*counts), 1).astype(np.float32)  # below 32 px some have none
        return cls(source_px, float(grey.mean()), sums / n_pixels, depth)


def near_duplicates(looks: Sequence[Look]) -> Iterator[tuple[int, int]]:
    """Find images that look as an earlier one does; those of 16 bits in the range that they share.

    Yields:
        The index of such an image, ascending, and that of the first that it looks like.
    """
    if not looks:
        return
    depths = [look.depth for look in looks]
    highest = max((depth.highest for depth in depths if depth.is_deep), default=FULL_WHITE)
    white = smallest_white(highest)
    scales = [depth.white / white if depth.is_deep else 1 for depth in depths]
    flat = np.stack([look.thumbnail.ravel() for look in looks])
    flat *= np.array(scales, "f4")[:, None]
    flat -= flat.mean(axis=0)
    squares = np.einsum("ij,ij->i", flat, flat)
    limit = _DUPLICATE_RMS**2 * flat.shape[1]
    # Two that are near are near along every direction: along one that tells most apart, few are.
    places = flat @ _find_spread(flat, squares)
    order = np.argsort(places, kind="stable")
    places, flat, squares = places[order], flat[order], squares[order]
    reach = (1 + _ROUNDING) * math.sqrt(limit)
    first = np.arange(len(flat))
    for start in range(0, len(flat), _BLOCK):
        stop = min(start + _BLOCK, len(flat))
        begin = int(np.searchsorted(places, places[start] - reach))
        end = int(np.searchsorted(places, places[stop - 1] + reach, "right"))
        apart_sq = squares[start:stop, None] + squares[begin:end]
        apart_sq -= 2 * flat[start:stop] @ flat[begin:end].T
        own, other = np.nonzero(apart_sq <= limit)
        np.minimum.at(first, order[start + own], order[begin + other])
    for i in np.flatnonzero(first < np.arange(len(flat))):
        yield int(i), int(first[i])


def _find_spread(flat: NDArray[np.float32], squares: NDArray[np.float32]) -> NDArray[np.float32]:
    """A direction along which rows ``(n, d)`` differ much, of length one; zeros if they do not."""
    direction = _normalise(flat[squares.argmax()])
    for _ in range(_STEPS):
        direction = _normalise((flat @ direction) @ flat)
    return direction


def _normalise(vector: NDArray[np.floating]) -> NDArray[np.float32]:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), _NOTHING), np.float32)


def far_sizes(looks: Sequence[Look]) -> Iterator[tuple[int, str]]:
    """Find images whose height or width is less than half or more than twice the median.

    Yields:
        The index of such an image, ascending, and its size and the usual one in words.
    """
    if not looks:
        return
    sizes = np.array([look.source_px for look in looks], np.float64)
    usual = np.median(sizes, axis=0)
    for i in np.flatnonzero((np.abs(np.log(sizes / usual)) > math.log(_FAR_FACTOR)).any(axis=1)):
        height, width = looks[int(i)].source_px
        yield int(i), f"{height}x{width} px; {usual[0]:.0f}x{usual[1]:.0f} is usual (HxW)"
