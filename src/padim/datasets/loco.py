"""MVTec LOCO AD: several masks for each image, and how much of a defect is enough."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from padim.datasets.annotations import is_annotation, may_know_images
from padim.datasets.category import Category, Saturation
from padim.datasets.folder import list_images, list_visible
from padim.datasets.mvtec import MVTEC
from padim.datasets.naming import find_folder
from padim.datasets.pairing import Folders, folder_names, images_in
from padim.documents import Document, Positive
from padim.errors import DatasetError

_CONFIG = "defects_config.json"
_DEFECTS = {"logical_anomalies", "structural_anomalies"}


@dataclass(frozen=True)
class _Entry:
    """A kind of defect, as ``defects_config.json`` lists it."""

    defect_name: str
    pixel_value: Annotated[int, Meta(ge=1, le=255)]
    saturation_threshold: Positive
    relative_saturation: bool

    def __post_init__(self) -> None:
        if self.relative_saturation and self.saturation_threshold > 1:
            raise ValueError(f"relative saturation_threshold is {self.saturation_threshold:g}")


def is_loco(folder: Path) -> bool:
    """Whether a folder has ``train/good`` and what only MVTec LOCO AD has."""
    if not MVTEC.fits(folder):
        return False
    return (folder / _CONFIG).is_file() or bool(
        _DEFECTS & folder_names(find_folder(folder, MVTEC.test))
    )


def read_loco(folder: Path) -> Category:
    """Read a category of MVTec LOCO AD.

    Args:
        folder: A folder with ``train/good``, ``validation/good``, ``test/<good or defect>`` and
            ``defects_config.json``. The masks of ``test/<defect>/<stem>.png`` are all images in
            ``ground_truth/<defect>/<stem>/``, one for each defect, drawn with the pixel value of
            its kind; a mask for the whole image, as for MVTec AD, will do as well, and so will the
            files of annotation tools, here or there. These know no pixel values: where one is a
            mask, no defect has a saturation.

    Raises:
        DatasetError: There are no images in ``train/good``, or ``defects_config.json`` is not as
            it must be.

    Source:
        Bergmann et al. 2022 (MVTec LOCO AD) and the readme that comes with the dataset.
    """
    truth = MVTEC.find_truth(folder) or folder / MVTEC.truth
    category = Folders("MVTec LOCO AD", validation="validation/good").read(folder)
    samples = []
    used = set()
    for sample in category.test:
        if not sample.is_anomalous:
            samples.append(sample)
            continue
        place = truth / sample.defect / sample.path.stem
        used.add(place)
        masks = images_in(place) or _list_annotations(place) or sample.masks
        samples.append(replace(sample, masks=masks))
    unused = list(category.unused_masks)
    for defect in sorted(folder_names(truth)):
        for name in sorted(folder_names(truth / defect)):
            if truth / defect / name not in used:
                unused.extend(list_images(truth / defect / name))
    saturations = _read_saturations(folder / _CONFIG)
    if not any(is_annotation(mask) for sample in samples for mask in sample.masks):
        samples = [replace(one, saturations=saturations if one.masks else ()) for one in samples]
    return replace(category, test=tuple(samples), unused_masks=tuple(unused))


def _list_annotations(folder: Path) -> tuple[Path, ...]:
    """The files of annotation tools in a folder that may be missing."""
    found = list_visible(folder) if folder.is_dir() else ()
    return tuple(path for path in found if is_annotation(path) and may_know_images(path))


def _read_saturations(path: Path) -> tuple[Saturation, ...]:
    if not path.is_file():
        return ()
    document = Document(path, DatasetError, "Fetch it anew.")
    return tuple(
        Saturation(
            entry.defect_name,
            entry.pixel_value,
            entry.saturation_threshold,
            entry.relative_saturation,
        )
        for entry in document.restore(document.read(path), tuple[_Entry, ...])
    )
