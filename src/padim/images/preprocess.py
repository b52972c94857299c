"""From a picture of any size to what the network sees, and back to source pixels."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from PIL import Image

from padim.documents import Finite, Positive, Side
from padim.errors import ShapeError
from padim.images.decode import rgb_pixels
from padim.images.reading import AS_IT_IS, Reading
from padim.images.roi import Roi

_SUPPORT = {"bilinear": 1.0, "lanczos": 3.0}
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "lanczos": Image.Resampling.LANCZOS}


@dataclass(frozen=True)
class Preprocess:
    """The one contract between a source image and the network; stored in the model file.

    Attributes:
        size_px: (height, width) of what the network sees.
        crop_fraction: 1: the whole image is resized to ``size_px``. Below 1: the short side is
            resized to ``size_px / crop_fraction`` and the centre is cut out.
        resample: Pillow filter, antialiased when shrinking.
        mean: Per-channel mean of values in [0, 1], subtracted in the network's graph.
        std: Per-channel deviation, divided by in the network's graph.
        roi: Where to look; everywhere when None.
        reading: How image files are read.
    """

    size_px: tuple[Side, Side]
    crop_fraction: Annotated[float, Meta(ge=0.1, le=1)]
    resample: Literal["bilinear", "lanczos"]
    mean: tuple[Finite, Finite, Finite]
    std: tuple[Positive, Positive, Positive]
    roi: Roi | None = None
    reading: Reading = AS_IT_IS

    def __post_init__(self) -> None:
        """Raise a ``ValueError`` if the region of interest is of another size."""
        if self.roi is not None and self.roi.mask.shape != self.size_px:
            raise ValueError("roi needs to be a mask at size_px")

    def __call__(self, image: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bring an array, or a Pillow image of mode ``L`` or ``RGB``, to network size.

        It becomes RGB, shape ``(H, W, 3)``, not yet normalised. One of another size than the region
        of interest fits is a `ShapeError`.
        """
        if isinstance(image, Image.Image):
            self._require_fitting((image.height, image.width))
            # Grey becomes three channels last: a third of the work.
            return np.array(self._resize_and_crop(image, _FILTERS[self.resample]).convert("RGB"))
        pixels = rgb_pixels(image)
        self._require_fitting((pixels.shape[0], pixels.shape[1]))
        return np.array(self._resize_and_crop(Image.fromarray(pixels), _FILTERS[self.resample]))

    def matrices(
        self, source_px: tuple[int, int]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
        """The way from images of one size to the network as two matrices.

        Returns:
            Rows ``(H, H0)``, columns ``(W, W0)``, and whether rows come first: then
            ``round(round(rows @ image) @ columns.T)`` of each channel, halves up and within 0 to
            255, is what ``__call__`` gives, else ``round(rows @ round(image @ columns.T))``.
        """
        matrices = []
        for n_in, n_resized, n_out in zip(
            source_px, self._scale_px(source_px), self.size_px, strict=True
        ):
            start = _crop_start(n_resized, n_out)
            matrix = resize_matrix(n_resized, n_in, self.resample)
            matrices.append(matrix[start : start + n_out])
        rows, columns = matrices
        # Releases of Pillow differ in which they do first, so this one is asked.
        probe = np.random.default_rng(0).integers(0, 256, source_px, dtype=np.uint8)
        asked = np.asarray(self._resize_and_crop(Image.fromarray(probe), _FILTERS[self.resample]))
        rows_first = _round_to_8_bit(_round_to_8_bit(rows @ probe) @ columns.T)
        columns_first = _round_to_8_bit(rows @ _round_to_8_bit(probe @ columns.T))
        differing = [np.count_nonzero(found != asked) for found in (rows_first, columns_first)]
        return rows, columns, bool(differing[0] < differing[1])

    def mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Bring a ground-truth mask ``(H0, W0)`` to network size by nearest neighbour."""
        grey = Image.fromarray(mask.astype(np.uint8) * 255)
        return np.asarray(self._resize_and_crop(grey, Image.Resampling.NEAREST)) > 0

    def labels(self, labels: NDArray[np.int32]) -> NDArray[np.int32]:
        """Bring numbered regions of a ground truth to network size by nearest neighbour.

        They are 0 outside and from 1 inside. What is so small or thin that no neighbour is of it
        keeps the middle one of the pixels it touches and no other region has.
        """
        brought = np.array(self._resize_and_crop(Image.fromarray(labels), Image.Resampling.NEAREST))
        is_lost = np.bincount(brought.ravel(), minlength=int(labels.max()) + 1) == 0
        is_lost[0] = False
        top, left, height, width = self.window((labels.shape[0], labels.shape[1]))
        seen = labels[top : top + height, left : left + width]
        y, x = np.nonzero(is_lost[seen])
        order = np.argsort(seen[y, x], kind="stable")
        y, x = y[order], x[order]
        rows, columns = y * self.size_px[0] // height, x * self.size_px[1] // width
        ends = np.flatnonzero(np.diff(seen[y, x])) + 1
        for region in np.split(np.arange(y.size), ends) if y.size else ():
            free = region[brought[rows[region], columns[region]] == 0]
            if free.size:
                middle = free[free.size // 2]
                brought[rows[middle], columns[middle]] = seen[y[middle], x[middle]]
        return brought

    def blank_outside(self, anomaly_map: NDArray[np.float32]) -> NDArray[np.float32]:
        """Set maps ``(N, H, W)`` to NaN outside the region of interest."""
        if self.roi is None:
            return anomaly_map
        return np.where(self.roi.mask, anomaly_map, np.float32(np.nan))

    def to_source(
        self, anomaly_map: NDArray[np.float32], source_px: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Bring a map to the pixels of its source image, shape ``source_px``.

        It is NaN where the network did not look, outside a centre crop or the region of interest.
        """
        top, left, height, width = self.window(source_px)
        known = ~np.isnan(anomaly_map)
        size, bilinear = (width, height), Image.Resampling.BILINEAR
        filled = np.where(known, anomaly_map, np.float32(0))
        resized = np.array(Image.fromarray(filled).resize(size, bilinear))
        if not known.all():
            share = np.asarray(Image.fromarray(known.astype(np.float32)).resize(size, bilinear))
            inside = np.asarray(Image.fromarray(known).resize(size, Image.Resampling.NEAREST))
            resized = np.divide(resized, share, out=np.full_like(share, np.nan), where=inside)
        if (height, width) == source_px:
            return resized
        full = np.full(source_px, np.nan, np.float32)
        full[top : top + height, left : left + width] = resized
        return full

    def window(self, source_px: tuple[int, int]) -> tuple[int, int, int, int]:
        """The top, left, height and width of what the network sees, in whole source pixels."""
        if self.crop_fraction == 1:
            return 0, 0, *source_px
        resized = self._scale_px(source_px)
        edges = []
        for crop, whole, source in zip(self.size_px, resized, source_px, strict=True):
            start = _crop_start(whole, crop)
            low = max(0, round(start * source / whole))
            high = min(source, round((start + crop) * source / whole))
            edges.append((low, max(1, high - low)))
        (top, height), (left, width) = edges
        return top, left, height, width

    def to_json(self) -> dict[str, Any]:
        """The contract as plain data."""
        data = asdict(self) | {"roi": self.roi and self.roi.to_json()}
        if self.reading == AS_IT_IS:  # which readers of version 1 of the file take for granted
            del data["reading"]
        return data

    def _require_fitting(self, source_px: tuple[int, int]) -> None:
        if self.roi is not None and source_px != self.roi.source_px:
            raise ShapeError(
                f"The image is {source_px[0]}x{source_px[1]} px, but the region of interest is for "
                f"{self.roi.source_px[0]}x{self.roi.source_px[1]} px. Give images of that size, or "
                "fit anew with a region for these."
            )

    def _scale_px(self, source_px: tuple[int, int]) -> tuple[int, int]:
        if self.crop_fraction == 1:
            return self.size_px
        short = round(self.size_px[0] / self.crop_fraction)
        # torchvision's Resize cuts the long side off to whole pixels.
        height, width = source_px
        if height <= width:
            return short, int(short * width / height)
        return int(short * height / width), short

    def _resize_and_crop(self, picture: Image.Image, resample: Image.Resampling) -> Image.Image:
        height, width = self._scale_px((picture.height, picture.width))
        if picture.size != (width, height):
            picture = picture.resize((width, height), resample)
        if (height, width) != self.size_px:
            top, left = map(_crop_start, (height, width), self.size_px)
            picture = picture.crop((left, top, left + self.size_px[1], top + self.size_px[0]))
        return picture


def resize_matrix(
    n_out: int, n_in: int, resample: Literal["bilinear", "lanczos"]
) -> NDArray[np.float64]:
    """Resize along one axis, antialiased, as a matrix ``(n_out, n_in)`` in whole 2^-22.

    Source:
        Pillow, ``src/libImaging/Resample.c``, for pixels of 8 bits.
    """
    scale = n_in / n_out
    stretch = max(scale, 1.0)
    support = _SUPPORT[resample] * stretch
    matrix = np.zeros((n_out, n_in))
    for i in range(n_out):
        centre = (i + 0.5) * scale
        first = max(int(centre - support + 0.5), 0)
        last = min(int(centre + support + 0.5), n_in)
        distance = np.abs((np.arange(first, last) - centre + 0.5) / stretch)
        if resample == "bilinear":
            weights = np.maximum(1 - distance, 0)
        else:
            weights = np.where(distance < 3, np.sinc(distance) * np.sinc(distance / 3), 0)
        matrix[i, first:last] = weights / weights.sum()
    return np.round(matrix * 2**22) / 2**22


def _round_to_8_bit(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.floor(pixels + 0.5).clip(0, 255)


def _crop_start(whole: int, crop: int) -> int:
    return round((whole - crop) / 2)  # torchvision's CenterCrop rounds half to even
