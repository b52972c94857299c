"""Datasets laid out as MVTec AD: a folder per category, a folder per defect, masks by name."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from padim.datasets.folder import is_category, list_images, normal_images, visible
from padim.errors import DatasetError, UnknownNameError, listed

__all__ = [
    "MVTEC_OBJECTS",
    "MVTEC_TEXTURES",
    "Category",
    "Sample",
    "read_category",
    "read_root",
]

# Bergmann et al. 2019, "MVTec AD: a comprehensive real-world dataset", table 1.
MVTEC_TEXTURES: tuple[str, ...] = ("carpet", "grid", "leather", "tile", "wood")
MVTEC_OBJECTS: tuple[str, ...] = (
    "bottle",
    "cable",
    "capsule",
    "hazelnut",
    "metal_nut",
    "pill",
    "screw",
    "toothbrush",
    "transistor",
    "zipper",
)

_LAYOUT = (
    "The layout is <category>/train/good/*, <category>/test/<defect>/* and, where there are masks, "
    "<category>/ground_truth/<defect>/<name of the image>_mask.png."
)


@dataclass(frozen=True)
class Sample:
    """One test image.

    Attributes:
        path: The image.
        defect: Its kind of defect; ``good`` is normal.
        mask_path: Its ground truth mask, if there is one; a normal image has none.
    """

    path: Path
    defect: str
    mask_path: Path | None

    @property
    def is_anomalous(self) -> bool:
        """Whether the image shows a defect."""
        return self.defect != "good"


@dataclass(frozen=True)
class Category:
    """The files of one category.

    Attributes:
        name: Name of its folder.
        root: Its folder.
        train: The normal images to learn from, sorted.
        test: The test images, sorted by defect and name; may be empty.
        unused_masks: Files in ``ground_truth`` that belong to no test image.
    """

    name: str
    root: Path
    train: tuple[Path, ...]
    test: tuple[Sample, ...]
    unused_masks: tuple[Path, ...] = ()

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
            sample.path for sample in self.test if sample.is_anomalous and sample.mask_path is None
        )

    def images(self) -> tuple[Path, ...]:
        """All its images, to fit on and to test on."""
        return (*self.train, *(sample.path for sample in self.test))

    def describe(self) -> str:
        """Say in two lines what is there and what is missing."""
        defects = Counter(sample.defect for sample in self.test)
        test = ", ".join(f"{count} {defect}" for defect, count in defects.items())
        n_missing = len(self.missing_masks)
        lines = (
            f"{self.name}: {len(self.train)} train and {len(self.test)} test images"
            + (f" ({test})." if test else "."),
            f"Masks: {self.n_anomalous - n_missing} found, {n_missing} missing"
            + (f", {len(self.unused_masks)} of no test image." if self.unused_masks else "."),
        )
        return "\n".join(lines)


def read_category(folder: Path) -> Category:
    """Read which files a category has.

    Args:
        folder: A folder with ``train/good``. ``test`` and ``ground_truth`` may be missing. The
            mask of ``test/<defect>/<stem>.*`` is ``ground_truth/<defect>/<stem>_mask.*`` or, if
            there is none, ``ground_truth/<defect>/<stem>.*``.

    Returns:
        The category, named as its folder.

    Raises:
        PathMissingError: There is no such folder.
        DatasetError: It has no ``train/good``, no images in there, or masks that fit twice.
    """
    inside = visible(folder)
    if not is_category(folder):
        found = listed(path.name for path in inside) or "nothing"
        raise DatasetError(
            f"{folder} has {found} inside, but needs train/good to be a category. {_LAYOUT}"
        )
    test: list[Sample] = []
    unused: list[Path] = []
    for defect in sorted(_folders(folder / "test") | _folders(folder / "ground_truth")):
        images = _images(folder / "test" / defect)
        # Whatever lies in ground_truth/good: a good image has no defect to mark.
        masks = () if defect == "good" else _images(folder / "ground_truth" / defect)
        paired = _pair(images, masks)
        test.extend(Sample(image, defect, paired.get(image)) for image in images)
        unused.extend(mask for mask in masks if mask not in paired.values())
    name = folder.name if folder.name not in ("", "..") else folder.resolve().name
    return Category(name, folder, normal_images(folder), tuple(test), tuple(unused))


def read_root(folder: Path, names: Sequence[str] = ()) -> tuple[Category, ...]:
    """Read the categories of a dataset.

    Args:
        folder: A folder of categories, or one category.
        names: Which categories to read; all if empty.

    Returns:
        Categories, sorted by name.

    Raises:
        PathMissingError: There is no such folder.
        UnknownNameError: A name is of no category in the folder.
        DatasetError: There is no category, or `read_category` refuses one.
    """
    inside = visible(folder)
    if is_category(folder):
        category = read_category(folder)
        _check_known(names, [category.name])
        return (category,)
    folders = {path.name: path for path in inside if is_category(path)}
    if not folders:
        raise DatasetError(
            f"{folder} has no category inside, but needs at least one folder with train/good. "
            f"{_LAYOUT}"
        )
    _check_known(names, list(folders))
    return tuple(
        read_category(path) for name, path in folders.items() if not names or name in names
    )


def _check_known(names: Sequence[str], available: Sequence[str]) -> None:
    for name in names:
        if name not in available:
            raise UnknownNameError("category", name, available)


def _folders(folder: Path) -> set[str]:
    return {path.name for path in visible(folder) if path.is_dir()} if folder.is_dir() else set()


def _images(folder: Path) -> tuple[Path, ...]:
    return list_images(folder) if folder.is_dir() else ()


def _pair(images: Sequence[Path], masks: Sequence[Path]) -> dict[Path, Path]:
    by_stem: dict[str, list[Path]] = {}
    for mask in masks:
        by_stem.setdefault(mask.stem, []).append(mask)
    paired: dict[Path, Path] = {}
    owners: dict[Path, Path] = {}
    for image in images:
        candidates = by_stem.get(f"{image.stem}_mask") or by_stem.get(image.stem) or []
        if len(candidates) > 1:
            raise DatasetError(
                f"{image} has {len(candidates)} masks ({listed(candidates)}), but needs one. "
                "Remove or rename the others."
            )
        for mask in candidates:
            if mask in owners:
                raise DatasetError(
                    f"{mask} is the mask of both {owners[mask]} and {image}, but needs to be of "
                    "one. Rename the images and their masks."
                )
            paired[image] = mask
            owners[mask] = image
    return paired
