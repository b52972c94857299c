"""What a picture says of the camera that took it: light, contrast, focus and place of the part."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from PIL import Image

from padim.images.roi import read_png

_SAMPLED_PX = 96  # of a side, about; pairs of these are one cell of the small picture
_LAPLACE_STEP = 4  # of sampled rows to the next row of the Laplacian
_FINEST = 0.4  # part of the frequencies of the small picture that its place is read from
_TOGETHER = 256  # pictures whose transforms are held
_LARGEST = 1 << 10  # cells of a side of a small picture
_Grey = Annotated[float, Meta(ge=0, le=255)]
_Positive = Annotated[float, Meta(ge=0, le=1e9)]


@dataclass(frozen=True)
class CameraFacts:
    """What a picture at network size says of the camera.

    Attributes:
        grey: Mean grey level, 0 to 255.
        contrast: Standard deviation of the grey levels.
        sharpness: Variance of the Laplacian; lower is more blurred.
        shift_px: How far the picture is moved against the mean good image; None without one.
    """

    grey: _Grey
    contrast: _Positive
    sharpness: _Positive
    shift_px: _Positive | None = None


@dataclass(frozen=True)
class Snapshot:
    """What is kept of a picture until it is known what to compare it with.

    Attributes:
        facts: All but the shift.
        small: Grey levels in a few cells, shape ``(h, w)``, uint8.
        cell_px: (height, width) of a cell.
    """

    facts: CameraFacts
    small: NDArray[np.uint8]
    cell_px: tuple[float, float]

    @classmethod
    def of(cls, pixels: NDArray[np.uint8]) -> "Snapshot":
        """Take one of RGB pixels at network size, ``(H, W, 3)``.

        It looks at a part of the pixels, so that it takes a hundredth of a prediction.
        """
        height, width = pixels.shape[:2]
        tall, wide = (max(1, round(side / _SAMPLED_PX)) for side in (height, width))
        high, broad = max(1, height // tall // 2), max(1, width // wide // 2)
        few = pixels[: 2 * high * tall : tall, : 2 * broad * wide : wide]
        grey = few[..., 0].astype(np.uint16)
        grey += few[..., 1]
        grey += few[..., 2]
        rows = grey[::2] + grey[1::2] if len(grey) > 1 else 2 * grey
        cells = rows[:, ::2] + rows[:, 1::2] if rows.shape[1] > 1 else 2 * rows
        mean, deviation = _describe(cells)
        facts = CameraFacts(mean / 12, deviation / 12, _find_sharpness(pixels[..., 1], tall))
        small = ((cells + 6) // 12).astype(np.uint8)
        return cls(facts, small, (height / high, width / broad))

    def compare(self, mean_image: "MeanImage | None") -> CameraFacts:
        """The facts, with the shift against a mean image of the same size, if there is one."""
        facts, shape = self.facts, self.small.shape
        if mean_image is None or mean_image.small.shape != shape or min(shape) < 4:
            return facts
        return self.moved(*mean_image.find_shift(self.small))

    def moved(self, down: float, right: float) -> CameraFacts:
        """The facts, of a picture that is moved by so many cells."""
        shift_px = math.hypot(down * self.cell_px[0], right * self.cell_px[1])
        return replace(self.facts, shift_px=shift_px)


@dataclass(frozen=True)
class MeanImage:
    """The mean of small pictures of good images, shape ``(h, w)``, uint8."""

    small: NDArray[np.uint8]

    def __post_init__(self) -> None:
        """Raise a ``ValueError`` if it is no small picture."""
        small = self.small
        if small.dtype != np.uint8 or small.ndim != 2 or not 0 < max(small.shape) <= _LARGEST:
            raise ValueError("the mean image needs to be a small one of grey levels")

    @classmethod
    def of(cls, snapshots: Sequence[Snapshot]) -> "MeanImage | None":
        """The mean of these; None where there are none, or of several sizes."""
        if len({one.small.shape for one in snapshots}) != 1:
            return None
        return cls(_divide(_add_up(snapshots), len(snapshots)))

    @classmethod
    def compare_each(cls, snapshots: Sequence[Snapshot]) -> list[CameraFacts]:
        """The facts of each, with its shift against the mean of the others, if there are any."""
        facts = [one.facts for one in snapshots]
        if len(snapshots) < 2 or cls.of(snapshots) is None or min(snapshots[0].small.shape) < 4:
            return facts
        total, n_others = _add_up(snapshots), len(snapshots) - 1
        moved: list[CameraFacts] = []
        for start in range(0, len(snapshots), _TOGETHER):
            some = snapshots[start : start + _TOGETHER]
            small = np.stack([one.small for one in some])
            shifts = _find_shifts(small, _match(_divide(total - small, n_others)))
            moved += [one.moved(*shift) for one, shift in zip(some, shifts, strict=True)]
        return moved

    def find_shift(self, small: NDArray[np.uint8]) -> tuple[float, float]:
        """How many cells down and to the right a picture of the same shape is moved.

        The peak of the phase correlation, its place refined by a parabola along each axis; (0, 0)
        where a picture is of one grey level.

        Source:
            Kuglin & Hines 1975, The phase correlation image alignment method.
        """
        return _find_shifts(small[None], self._matched)[0]

    @cached_property
    def _matched(self) -> NDArray[np.complex64]:
        return _match(self.small[None])

    def to_png(self) -> str:
        """As a PNG in base64."""
        png = io.BytesIO()
        Image.fromarray(self.small).save(png, "PNG", optimize=True)
        return base64.b64encode(png.getvalue()).decode("ascii")

    @classmethod
    def from_png(cls, text: str) -> "MeanImage":
        """What ``to_png`` made; a ``ValueError`` of other text."""
        return cls(read_png(text))


def _describe(values: NDArray[np.uint16]) -> tuple[float, float]:
    """Mean and standard deviation, with sums in whole numbers."""
    wide = values.astype(np.int64).ravel()
    mean = int(wide.sum()) / wide.size
    return mean, math.sqrt(max(0.0, int(wide @ wide) / wide.size - mean * mean))


def _find_sharpness(green: NDArray[np.uint8], step: int) -> float:
    """The variance of the Laplacian in some rows."""
    height, width = green.shape
    if min(height, width) < 3:
        return 0.0
    every = _LAPLACE_STEP * step
    above, here, below = (green[i : height - 2 + i : every].astype(np.int16) for i in range(3))
    laplacian = above[:, 1:-1] + below[:, 1:-1]
    laplacian += here[:, :-2]
    laplacian += here[:, 2:]
    laplacian -= 4 * here[:, 1:-1]
    values = laplacian.astype(np.float64).ravel()  # whole numbers: sums are exact
    mean = float(values.sum()) / values.size
    return max(0.0, float(values @ values) / values.size - mean * mean)


def _add_up(snapshots: Sequence[Snapshot]) -> NDArray[np.int64]:
    total = np.zeros(snapshots[0].small.shape, np.int64)
    for one in snapshots:
        total += one.small
    return total


def _divide(total: NDArray[np.int64], n: int) -> NDArray[np.uint8]:
    return ((total + n // 2) // n).astype(np.uint8)


def _find_shifts(
    small: NDArray[np.uint8], matched: NDArray[np.complex64]
) -> list[tuple[float, float]]:
    """As ``MeanImage.find_shift``, of pictures ``(n, h, w)`` against what ``_match`` gave."""
    product = _transform(small) * matched
    product /= np.abs(product) + np.float32(1e-6)
    surfaces = np.fft.irfft(np.fft.ifft(product, axis=1), n=small.shape[2], axis=2)
    peaks = surfaces.reshape(len(small), -1).argmax(axis=1)
    found = []
    for surface, peak in zip(surfaces, peaks.tolist(), strict=True):
        row, column = divmod(peak, surface.shape[1])
        found.append((_refine(surface[:, column], row), _refine(surface[row], column)))
    return found


def _match(means: NDArray[np.uint8]) -> NDArray[np.complex64]:
    """The conjugate transforms of mean images, without what is too fine to be there twice."""
    is_coarse = np.abs(np.fft.fftfreq(means.shape[1])) <= _FINEST / 2
    return np.asarray(np.conj(_transform(means)) * is_coarse[:, None], np.complex64)


def _transform(small: NDArray[np.uint8]) -> NDArray[np.complex128]:
    """The transforms of ``(n, h, w)``, of the coarse frequencies to the right alone."""
    _, height, width = small.shape
    mean = small.sum(axis=(1, 2), dtype=np.int64) / (height * width)
    levels = small - mean.astype(np.float32)[:, None, None]
    levels *= _make_window(height, width)
    n_coarse = int(_FINEST / 2 * width) + 1
    return np.fft.fft(np.fft.rfft(levels, axis=2)[..., :n_coarse], axis=1)


@lru_cache(4)
def _make_window(height: int, width: int) -> NDArray[np.float32]:
    # Opposite edges differ, and would be the strongest edge of all.
    down, right = (np.hanning(side + 2)[1:-1] for side in (height, width))
    return np.asarray(np.outer(down, right), np.float32)


def _refine(line: NDArray[np.float64], peak: int) -> float:
    """The place of a peak of values along a circle, from minus a half of it to a half."""
    n = len(line)
    before, top, after = (float(line[(peak + i) % n]) for i in (-1, 0, 1))
    curvature = before - 2 * top + after
    place = peak + (0.5 * (before - after) / curvature if curvature < 0 else 0.0)
    return place - n if place > n / 2 else place
