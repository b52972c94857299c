"""Kolektor SDD2: the mask beside each image says whether it is defective."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from padim.datasets.category import GOOD, Category, Sample
from padim.datasets.folder import folder_name, list_images, list_visible
from padim.errors import DatasetError
from padim.images.masks import read_mask

_SUFFIX = "_GT"
_STRAY = " (copy)"  # the archive has train/10301 (copy).png and train/10301_GT (copy).png


def is_kolektor(folder: Path) -> bool:
    """Whether a folder has masks named ``train/<id>_GT.*``."""
    train = folder / "train"
    return train.is_dir() and any(map(_is_mask, list_visible(train)))


def read_kolektor(folder: Path) -> Category:
    """Read Kolektor SDD2, one category.

    Args:
        folder: A folder with ``train`` and ``test``, each with ``<id>.png`` and ``<id>_GT.png``. An
            image is defective when its mask is not empty; defective images of ``train`` are left
            out, as is the copy of an image that the archive has by mistake.

    Raises:
        DatasetError: An image has no mask, or no image of ``train`` is good.
        MaskReadError: A mask cannot be read.

    Source:
        Božič et al. 2021, "Mixed supervision for surface-defect detection", and its archive.
    """
    train = [path for path, _, is_defective in _read(folder / "train") if not is_defective]
    if not train:
        raise DatasetError(
            f"{folder / 'train'} has no image whose mask is empty, but needs good images to fit "
            "on. Check the path."
        )
    test = _read(folder / "test") if (folder / "test").is_dir() else []
    samples = [
        Sample(path, "defective", (mask,)) if is_defective else Sample(path, GOOD)
        for path, mask, is_defective in test
    ]
    known = {mask for _, mask, _ in test}
    masks = [path for path in _files(folder / "test") if _is_mask(path)] if test else []
    return Category(
        folder_name(folder),
        folder,
        tuple(train),
        tuple(sorted(samples, key=lambda sample: sample.defect)),
        tuple(path for path in masks if path not in known),
        layout="Kolektor SDD2",
    )


def _read(folder: Path) -> list[tuple[Path, Path, bool]]:
    """The images of a split, the mask of each and whether it is not empty."""
    files = _files(folder)
    masks = {path.stem: path for path in files if _is_mask(path)}
    images = [path for path in files if not _is_mask(path)]
    for image in images:
        if f"{image.stem}{_SUFFIX}" not in masks:
            raise DatasetError(
                f"{image} has no mask, but needs {image.stem}{_SUFFIX}{image.suffix} beside it to "
                "be known as good or defective. Fetch it anew, or remove the image."
            )
    paired = [(image, masks[f"{image.stem}{_SUFFIX}"]) for image in images]
    with ThreadPoolExecutor() as pool:
        defective = pool.map(lambda pair: bool(read_mask(pair[1]).mask.any()), paired)
        return [(*pair, is_defective) for pair, is_defective in zip(paired, defective, strict=True)]


def _files(folder: Path) -> list[Path]:
    return [path for path in list_images(folder) if not path.stem.endswith(_STRAY)]


def _is_mask(path: Path) -> bool:
    return path.stem.endswith(_SUFFIX)
