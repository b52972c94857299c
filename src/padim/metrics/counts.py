"""Anomaly maps as counts: how many pixels of an image, a region, a defect have which score.

Enough for every metric of pixels, at a few kilobytes an image instead of megabytes.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from padim.errors import PathMissingError, ShapeError, UsageError
from padim.files import write_whole
from padim.images.regions import label_regions, require_two_axes
from padim.metrics.bins import N_FLOAT16, Rows, bins_of

_FORMAT = 1  # raised when an older reader would misread a newer file
_PARTS = ("normal", "regions", "defects")

Map = NDArray[np.float32]
Mask = NDArray[np.bool_]


class MapCounts:
    """Counts over the scores of the pixels of N images; what was not looked at is left out.

    Scores are rounded to float16, which moves each by at most a 2048th of itself, or 2^-25 below
    2^-14; those beyond ±65504 share the last bin. Order is kept, so every metric of the counts is
    that of scores of which some became equal. With ``levels`` nothing is rounded.

    Attributes:
        levels: The scores that may occur, ascending, float32; None for those of float16.
        normal: Normal pixels of each image, N rows.
        regions: Anomalous pixels of each region of the ground truth, R rows.
        region_image: The image of each region, ascending, R of them.
        defects: Pixels of each defect with a saturation, S rows.
        defect_image: The image of each, ascending, S of them.
        saturation_px: How many pixels of each have to be found, S of them.
        is_anomalous: Whether each image is, N of them.

    Examples:
        >>> counts = padim.MapCounts()
        >>> counts.add(np.array([[0.5, 1.0, 2.0]], np.float32))
        >>> counts.add(np.array([[0.5, 3.0, 4.0]], np.float32), np.array([[0, 1, 1]], np.int32))
        >>> counts.is_anomalous
        [False, True]
    """

    def __init__(self, levels: Map | None = None) -> None:
        self.levels = levels
        self.normal, self.regions, self.defects = Rows(), Rows(), Rows()
        self.region_image: list[int] = []
        self.defect_image: list[int] = []
        self.saturation_px: list[float] = []
        self.is_anomalous: list[bool] = []

    @classmethod
    def exact(
        cls,
        maps: Sequence[Map],
        masks: Sequence[Mask | NDArray[np.int32] | None],
        defects: Sequence[Sequence[tuple[Mask, float]]] | None = None,
    ) -> Self:
        """Counts of maps that are all there, without rounding; 8 bytes a pixel and more.

        Args:
            maps: N maps, as for ``add``.
            masks: N masks, as for ``add``.
            defects: N lists of defects, as for ``add``.

        Raises:
            ShapeError: They are not as many; or as ``add``.
            UsageError: As ``add``.
        """
        if len(masks) != len(maps) or (defects is not None and len(defects) != len(maps)):
            n_defects = "" if defects is None else f" and {len(defects)} lists of defects"
            raise ShapeError(
                f"There are {len(maps)} maps, {len(masks)} masks{n_defects}, but one of each is "
                "needed for each image."
            )
        whole = [np.asarray(anomaly_map, np.float32).ravel() for anomaly_map in maps]
        levels = np.unique(np.concatenate((np.empty(0, np.float32), *whole)))
        counts = cls(levels[~np.isnan(levels)])
        for i, (anomaly_map, mask) in enumerate(zip(maps, masks, strict=True)):
            counts.add(anomaly_map, mask, defects=defects[i] if defects is not None else ())
        return counts

    @property
    def n_levels(self) -> int:
        """Scores that may occur, from the lowest to the highest."""
        return N_FLOAT16 if self.levels is None else self.levels.size

    @property
    def count(self) -> int:
        """Images N."""
        return len(self.is_anomalous)

    def add(
        self,
        anomaly_map: Map,
        mask: Mask | NDArray[np.int32] | None = None,
        *,
        defects: Sequence[tuple[Mask, float]] = (),
        is_anomalous: bool | None = None,
    ) -> None:
        """Add an image.

        One whose ground truth is not known keeps its place, and matters to no metric, when it is
        added as a map of NaN alone.

        Args:
            anomaly_map: Shape ``(H, W)``; NaN where it was not looked at.
            mask: Ground truth, shape ``(H, W)``: True where anomalous, or the labels that
                ``label_regions`` gives; None for a normal image.
            defects: Mask, shape ``(H, W)``, and saturation in pixels of each defect. They may
                overlap. All of them are the ground truth when no mask is given.
            is_anomalous: Whether the image is; None for what its mask says. It matters where
                nothing is left of a mask at this size: such an image is not normal.

        Raises:
            ShapeError: The map has not two axes, or a mask has another shape.
            UsageError: A mask is neither bool nor int32, a saturation is not above 0, or a score is
                not one of the levels.
        """
        anomaly_map = np.asarray(anomaly_map, np.float32)
        for part in (mask, *(part for part, _ in defects)):
            _check(anomaly_map, part)
        defects = [(part != 0, saturation_px) for part, saturation_px in defects]
        for _, saturation_px in defects:
            if not saturation_px > 0:
                raise UsageError(
                    f"A saturation is {saturation_px:g} pixels, but needs to be above 0. "
                    "Give the pixels that have to be found."
                )
        if mask is None and defects:
            mask = np.logical_or.reduce([part for part, _ in defects])
        if mask is None:
            labels = np.zeros(anomaly_map.shape, np.int32)
        elif mask.dtype == np.bool_:
            labels, _ = label_regions(mask.view(np.bool_))
        else:
            labels = mask.view(np.int32)
        bins, seen = bins_of(anomaly_map, self.levels), ~np.isnan(anomaly_map)
        image = self.count
        self.normal.add(bins[seen & (labels == 0)], self.n_levels)
        inside = seen & (labels != 0)
        of_region, bins_inside = labels[inside], bins[inside]
        order = np.argsort(of_region, kind="stable")
        ends = np.flatnonzero(np.diff(of_region[order])) + 1
        for chosen in np.split(order, ends) if order.size else ():
            self.regions.add(bins_inside[chosen], self.n_levels)
            self.region_image.append(image)
        for part, saturation_px in defects:
            found = bins[seen & part]
            if found.size:
                self.defects.add(found, self.n_levels)
                self.defect_image.append(image)
                self.saturation_px.append(float(min(saturation_px, found.size)))
        self.is_anomalous.append(bool(labels.any()) if is_anomalous is None else is_anomalous)

    def merge(self, other: "MapCounts") -> "MapCounts":
        """These images and then those of another.

        Raises:
            UsageError: Their levels differ.
        """
        ours, theirs = self.levels, other.levels
        if (ours is None) != (theirs is None) or (
            ours is not None and not np.array_equal(ours, np.asarray(theirs))
        ):
            raise UsageError(
                "Counts over other levels cannot be merged, but need the same. "
                "Count both without levels."
            )
        merged = MapCounts(ours)
        merged.normal = self.normal + other.normal
        merged.regions = self.regions + other.regions
        merged.defects = self.defects + other.defects
        merged.region_image = [*self.region_image, *(i + self.count for i in other.region_image)]
        merged.defect_image = [*self.defect_image, *(i + self.count for i in other.defect_image)]
        merged.saturation_px = [*self.saturation_px, *other.saturation_px]
        merged.is_anomalous = [*self.is_anomalous, *other.is_anomalous]
        return merged

    def save(self, path: str | Path) -> None:
        """Write everything into one ``.npz``, whole or not at all; equal counts, equal bytes."""
        dtype = np.dtype(np.uint16 if self.levels is None else np.uint32)
        arrays: dict[str, NDArray[Any]] = {
            "format": np.array(_FORMAT),
            "region_image": np.array(self.region_image, np.uint32),
            "defect_image": np.array(self.defect_image, np.uint32),
            "saturation_px": np.array(self.saturation_px, np.float64),
            "is_anomalous": np.array(self.is_anomalous, np.bool_),
        }
        if self.levels is not None:
            arrays["levels"] = self.levels
        for part in _PARTS:
            rows: Rows = getattr(self, part)
            arrays |= {f"{part}_{name}": array for name, array in rows.flat(dtype).items()}
        with write_whole(Path(path)) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # NumPy before 2.1 has arrays alone

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what ``save`` wrote.

        Raises:
            PathMissingError: There is no such file.
            UsageError: It was not written by ``save``, or by a newer version.
        """
        path = Path(path)
        if not path.is_file():
            raise PathMissingError(path)
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            if int(arrays["format"]) != _FORMAT:
                raise ValueError(arrays["format"])
            counts = cls(arrays.get("levels"))
            for part in _PARTS:
                flat = (arrays[f"{part}_{name}"] for name in ("bins", "counts", "n_bins"))
                setattr(counts, part, Rows.of_flat(*flat))
            counts.region_image = arrays["region_image"].tolist()
            counts.defect_image = arrays["defect_image"].tolist()
            counts.saturation_px = arrays["saturation_px"].tolist()
            counts.is_anomalous = arrays["is_anomalous"].tolist()
        except (KeyError, OSError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise UsageError(
                f"{path} is not a file of counts that this version can read. Count the maps again."
            ) from error
        return counts


def _check(anomaly_map: Map, mask: NDArray[Any] | None) -> None:
    """Make sure that a map is one, and a mask is one of it."""
    require_two_axes("anomaly map", anomaly_map)
    if mask is None:
        return
    if mask.shape != anomaly_map.shape:
        raise ShapeError(
            f"The mask has shape {mask.shape}, but needs that of the anomaly map, "
            f"{anomaly_map.shape}. Resize it."
        )
    if mask.dtype not in (np.bool_, np.int32):
        raise UsageError(
            f"The mask has type {mask.dtype}, but needs bool, or int32 for labels. "
            "Compare or threshold it first."
        )
