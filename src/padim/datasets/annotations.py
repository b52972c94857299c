"""Ground truth of an image, from a mask or from the file of an annotation tool."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import takewhile
from pathlib import Path

from padim.datasets.coco import CocoFile
from padim.datasets.cvat import parse_cvat
from padim.datasets.labelme import LabelmeFile
from padim.datasets.shapes import AnnotatedImage
from padim.documents import MOST_BYTES, Document
from padim.errors import DatasetError, ImageReadError
from padim.images.masks import MaskImage, read_mask

SUFFIXES = (".json", ".xml")
_WORDS = (b'"shapes"', b'"annotations"', b"<annotations")  # of Labelme, COCO, CVAT
# About how long what begins with a sign takes to read and draw, beside a number.
_JSON_WEIGHTS = {b"{": 32, b"[": 6, b",": 1}
_XML_WEIGHTS = {b"<": 32, b"=": 4, b",": 1, b";": 1}
_MOST_WEIGHT = 8_000_000
_ADVICE = "Export it anew, as Labelme, COCO or CVAT for images 1.1."


@dataclass(frozen=True)
class Annotations:
    """What a file of an annotation tool knows of images."""

    path: Path
    images: tuple[AnnotatedImage, ...]
    is_of_one: bool = False  # whether it lies beside its one image, whatever that is called

    @cached_property
    def by_file(self) -> dict[str, list[AnnotatedImage]]:
        """The images by the name of their file, without folders."""
        found: dict[str, list[AnnotatedImage]] = {}
        for one in self.images:
            found.setdefault(_split(one.name)[-1], []).append(one)
        return found

    def find(self, image: Path) -> tuple[AnnotatedImage | None, int]:
        """Find an image by the end of its way, and how many names there are alike.

        Raises:
            DatasetError: Two images could be meant.
        """
        if self.is_of_one:
            return self.images[0], 1
        shared = [(_count_shared(one, image), one) for one in self.by_file.get(image.name, [])]
        most = max((count for count, _ in shared), default=0)
        best = [one for count, one in shared if count == most]
        if len(best) > 1:
            raise DatasetError(
                f"{self.path} has {best[0].name} and {best[1].name}, which could both be {image}, "
                "but needs one. Export it with the folders of the images."
            )
        return (best[0] if best else None), most


def read_truth(path: Path, image: Path) -> MaskImage:
    """Read what a mask, or the file of an annotation tool, says of an image.

    Raises:
        MaskReadError: The mask cannot be read.
        DatasetError: The file cannot be understood, or does not know the image.
    """
    if not is_annotation(path):
        return read_mask(path)
    annotations = read_annotations(path)
    found = None if annotations is None else annotations.find(image)[0]
    if found is None:
        raise DatasetError(f"{path} does not know {image}, but needs to. {_ADVICE}")
    return found.draw()


def is_annotation(path: Path) -> bool:
    """Whether a mask is no image, but a file of an annotation tool."""
    return path.suffix.lower() in SUFFIXES


def may_know_images(path: Path) -> bool:
    """Whether a file has a word of those tools: many another lies beside images, as metadata does.

    Raises:
        DatasetError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES)
    except OSError as error:
        raise _unreadable(path, error) from error
    return any(word in content for word in _WORDS)


def read_annotations(path: Path) -> Annotations | None:
    """Read a file of Labelme, COCO or CVAT; None if it is of no such tool.

    Raises:
        DatasetError: It cannot be read, or not be understood.
    """
    try:
        status = path.stat()
        return _read(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DatasetError:
    return DatasetError(
        f"{path} cannot be read: {error.strerror}. Check its name and its permissions."
    )


@lru_cache(maxsize=4)  # an export is asked once for each of its images
def _read(path: Path, _n_bytes: int, _mtime_ns: int) -> Annotations | None:
    document = Document(path, DatasetError, _ADVICE)
    try:
        text = document.read_bytes(path)
        is_xml = path.suffix.lower() == ".xml"
        weights = _XML_WEIGHTS if is_xml else _JSON_WEIGHTS
        if sum(weight * text.count(sign) for sign, weight in weights.items()) > _MOST_WEIGHT:
            raise document.refuse("it has more shapes and points than one file may have")
        if is_xml:
            found = parse_cvat(text)
            return None if found is None else Annotations(path, tuple(found))
        data = document.parse(text)
        if not isinstance(data, dict):
            return None
        if "shapes" in data:
            one = document.restore(data, LabelmeFile)
            return Annotations(path, tuple(one.list_images()), is_of_one=True)
        if {"images", "annotations"} <= data.keys():
            return Annotations(path, tuple(document.restore(data, CocoFile).list_images()))
    except (ValueError, ImageReadError) as error:
        raise document.refuse(str(error)) from error
    return None


def _count_shared(one: AnnotatedImage, image: Path) -> int:
    """How many names at the ends of two ways are alike."""
    pairs = zip(reversed(_split(one.name)), reversed(image.parts), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _split(name: str) -> list[str]:
    return name.replace("\\", "/").split("/")
