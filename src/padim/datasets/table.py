"""Categories from rows that name each image, its split, its kind and its mask."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from padim.datasets.category import GOOD, Category, Sample

__all__ = ["Row", "category_of"]


@dataclass(frozen=True)
class Row:
    """An image that a list names.

    Attributes:
        path: The image.
        split: ``train``, ``validation`` or ``test``.
        defect: Its kind of defect; ``good`` is normal.
        mask_path: Its mask, if it has one.
    """

    path: Path
    split: str
    defect: str
    mask_path: Path | None


def category_of(
    rows: Iterable[Row], name: str, root: Path, layout: str, unused_masks: tuple[Path, ...] = ()
) -> Category:
    """Make a category of rows.

    Anomalous images outside ``test`` are left out: nothing here learns from them.

    Args:
        rows: Its images.
        name: Its name.
        root: A folder that holds its images.
        layout: How it is laid out, in words.
        unused_masks: Masks that no row names.
    """
    split: dict[str, list[Path]] = {"train": [], "validation": []}
    samples: list[Sample] = []
    normal_masks: list[tuple[Path, Path]] = []
    for row in rows:
        is_good = row.defect == GOOD
        if row.split != "test":
            if is_good:
                split[row.split].append(row.path)
            continue
        samples.append(Sample(row.path, row.defect, None if is_good else row.mask_path))
        if is_good and row.mask_path is not None:
            normal_masks.append((row.path, row.mask_path))
    return Category(
        name,
        root,
        tuple(sorted(split["train"])),
        tuple(sorted(samples, key=lambda sample: (sample.defect, sample.path))),
        unused_masks,
        validation=tuple(sorted(split["validation"])),
        normal_masks=tuple(normal_masks),
        layout=layout,
    )
