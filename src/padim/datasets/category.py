"""What every layout is read into: categories and their test images."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from padim.datasets.annotations import read_truth
from padim.datasets.naming import means_good
from padim.errors import DatasetError, ShapeError, format_count, join_names
from padim.images.decode import read_levels

GOOD = "good"


@dataclass(frozen=True)
class Saturation:
    """How much of a kind of defect needs to be found for it to count as found whole."""

    defect: str  # kind of defect
    pixel_value: int  # what its masks are drawn with
    threshold: float  # pixels, or a share of the defect's pixels
    is_relative: bool  # whether it is a share

    def area_px(self, defect_px: int) -> int:
        """Pixels that are enough, of a defect of so many; never more than it has.

        Source:
            Bergmann et al. 2022 (MVTec LOCO AD), section 4, the saturation of sPRO.
        """
        wanted = self.threshold * defect_px if self.is_relative else self.threshold
        return min(max(int(wanted), 1), defect_px)


@dataclass(frozen=True, eq=False)
class DefectRegion:
    """One annotated defect of an image."""

    mask: NDArray[np.bool_]  # its pixels, shape ``(H, W)``
    saturation_px: int  # how many of them need to be found for it to count as found whole


@dataclass(frozen=True)
class Sample:
    """One test image.

    Attributes:
        path: The file.
        defect: Its kind of defect; ``good`` is normal.
        masks: One for all its defects or for each; none of a normal image. Images, or files of an
            annotation tool that know this one.
        saturations: The kinds of defect that these masks are drawn with.
    """

    path: Path
    defect: str
    masks: tuple[Path, ...] = ()
    saturations: tuple[Saturation, ...] = ()

    @property
    def is_anomalous(self) -> bool:
        """Whether the image shows a defect."""
        return self.defect != GOOD

    def read_mask(
        self, tell: Callable[[Path, str], None] = lambda path, flaw: None
    ) -> NDArray[np.bool_] | None:
        """Read its ground truth, true on any defect, shape ``(H, W)``; None if there is none.

        Args:
            tell: Told of each mask what is doubtful about it: a name of
                ``padim.images.masks.FLAWS``.

        Raises:
            MaskReadError: A mask cannot be read.
            DatasetError: A file of an annotation tool cannot be understood.
            ShapeError: Its masks are of several sizes.
        """
        union: NDArray[np.bool_] | None = None
        for path in self.masks:
            truth = read_truth(path, self.path)
            for flaw in truth.flaws:
                tell(path, flaw)
            mask = truth.mask
            if union is not None and mask.shape != union.shape:
                raise ShapeError(
                    f"{path} has {mask.shape[0]}x{mask.shape[1]} px, but {self.masks[0]} has "
                    f"{union.shape[0]}x{union.shape[1]}; masks of one image need one size."
                )
            union = mask if union is None else union | mask
        return union

    def read_regions(self) -> tuple[DefectRegion, ...]:
        """Read each mask as one defect, whose kind is the value it is drawn with.

        Masks without a pixel are left out.

        Raises:
            MaskReadError: A mask cannot be read.
            DatasetError: A mask is drawn with several values, or with one that is of no kind of
                defect.
        """
        kinds = {kind.pixel_value: kind for kind in self.saturations}
        regions = []
        for path in self.masks:
            levels = read_levels(path)
            mask = levels > 0
            values = np.unique(levels[mask]).tolist()
            if not values:
                continue
            if len(values) > 1:
                raise DatasetError(
                    f"{path} is drawn with {join_names(values)}, but needs one value, that of its "
                    "kind of defect. Make a mask for each defect."
                )
            if values[0] not in kinds:
                raise DatasetError(
                    f"{path} is drawn with {values[0]}, but defects_config.json knows "
                    f"{', '.join(map(str, sorted(kinds)))}. Check both."
                )
            regions.append(DefectRegion(mask, kinds[values[0]].area_px(int(mask.sum()))))
        return tuple(regions)


@dataclass(frozen=True)
class Category:
    """The files of one category.

    Attributes:
        name: Such as ``bottle``.
        root: Its folder.
        train: The normal images to learn from, sorted.
        test: The test images, sorted by defect and name; may be empty.
        unused_masks: Ground truth files that belong to no test image.
        validation: Normal images that are set aside, where the layout has them.
        normal_masks: Normal test images that have a mask all the same, and it: a check of the
            data looks at it.
        layout: A name of ``padim.datasets.LAYOUTS``.
        is_listed: Whether a file names its images one by one, whatever else lies beside them.
        unlabelled: Images beside the folders whose names say what images show; they are left out.
    """

    name: str
    root: Path
    train: tuple[Path, ...]
    test: tuple[Sample, ...]
    unused_masks: tuple[Path, ...] = ()
    validation: tuple[Path, ...] = ()
    normal_masks: tuple[tuple[Path, Path], ...] = ()
    layout: str = "MVTec AD"
    is_listed: bool = False
    unlabelled: tuple[Path, ...] = ()

    @property
    def n_normal(self) -> int:
        """Number of normal test images."""
        return len(self.test) - self.n_anomalous

    @property
    def n_anomalous(self) -> int:
        """Number of anomalous test images."""
        return sum(sample.is_anomalous for sample in self.test)

    @property
    def missing_masks(self) -> tuple[Path, ...]:
        """The anomalous test images that have no mask."""
        return tuple(
            sample.path for sample in self.test if sample.is_anomalous and not sample.masks
        )

    def images(self) -> tuple[Path, ...]:
        """All its images, to fit on and to test on."""
        return (*self.train, *(sample.path for sample in self.test))

    def name_of(self, path: Path) -> str:
        """Name a file of the category: its way from the category's folder, if it is inside."""
        inside = path.is_relative_to(self.root)
        return (path.relative_to(self.root) if inside else path).as_posix()

    def describe_split(self) -> str:
        """Say which images are learned from, and what each folder of test images is taken for."""
        places = {path.parent for path in self.train}
        source = format_count(len(self.train), "image")
        if len(places) == 1:
            source = f"{self.name_of(min(places))} ({source})"
        kinds = Counter(map(_describe_kind, self.test))
        tests = ", ".join(f"{kind} ({count})" for kind, count in kinds.items())
        more = f"; {len(self.validation)} more for validation" if self.validation else ""
        return f"learning from {source}; test: {tests or 'none'}{more}"

    def describe(self) -> str:
        """Say in two lines what is there and what is missing."""
        n_missing = len(self.missing_masks)
        lines = (
            f"{self.name}: {self.describe_split()}.",
            f"Masks: {self.n_anomalous - n_missing} found, {n_missing} missing"
            + (f", {len(self.unused_masks)} of no test image." if self.unused_masks else "."),
        )
        return "\n".join(lines)


def _describe_kind(sample: Sample) -> str:
    folder = sample.path.parent.name
    if sample.is_anomalous or folder == GOOD or not means_good(folder):
        return sample.defect
    return f"{folder} is {GOOD}"
