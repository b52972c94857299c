"""One category of a report: each image with its map, its truth and what was said of it."""

import base64
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from padim.datasets import Sample
from padim.errors import DatasetError
from padim.evaluation.record import ImageResult, Record
from padim.files import plain_text, safe_name
from padim.images.decode import decode
from padim.images.heatmap import colour_levels
from padim.images.preprocess import Preprocess
from padim.images.reading import FULL_WHITE, Reading
from padim.metrics.table import METRICS, format_metric
from padim.places import find_place
from padim.report.charts import Histogram, histogram, outline_path
from padim.scoring.engines import n_cores

THUMBNAIL_PX = 256
_WEBP_PX = 16383  # the longest side that WebP takes
_FULL_OUTLINE_PX = 512  # finer outlines only cost space
_BY_DEFECT = ("image_auroc", "image_average_precision", "pixel_auroc", "aupro_30")
_WRONG = ("missed", "false alarm")
_VERDICTS: dict[tuple[str, str | None], str] = {
    ("anomalous", "normal"): "missed",
    ("normal", "anomalous"): "false alarm",
    ("anomalous", "anomalous"): "found",
    ("normal", "normal"): "passed",
}


class Defect(NamedTuple):
    """A kind of defect: how many images there are, how many were missed, and some metrics."""

    name: str
    n_images: int
    missed: str
    metrics: list[tuple[str, str]]


class Shown(TypedDict):
    """An image as data, with the outline of its defects."""

    image: str
    box: list[float]  # where on it the map lies: left, top, width and height, in percent
    outline: str
    outline_px: tuple[int, int]  # (width, height) that the outline is drawn in
    source_px: tuple[int, int]


class Card(Shown):
    """All there is to say of an image."""

    category: str
    name: str
    defect: str
    label: str
    verdict: str
    wrong: bool
    score: float
    threshold: float | None
    range: list[float]  # of the map's colours
    p: float | None
    levels: list[float]
    coarse_head: bool  # whether the last of them is its
    order: tuple[float, str, int]
    map: str


@dataclass(frozen=True, eq=False)
class Part:
    """A category of the report."""

    record: Record
    root: Path  # where its images are
    data: Path | None  # the folder of the dataset, if it was named
    previews: NDArray[np.float32]  # maps, ``(N, h, w)``; NaN where the model does not look
    preprocess: Preprocess  # which part of an image a map shows

    @classmethod
    def of(cls, run: Path, record: Record, data: Path | None) -> "Part":
        """Read a category; ``data`` says where the dataset is now, if not where it was.

        Raises:
            DatasetError: Its maps are not there, or not those of its images.
        """
        images, settings = record.images, record.fingerprint.settings
        path = run / "previews" / f"{safe_name(record.row.category)}.npy"
        try:
            previews = np.load(path, allow_pickle=False).astype(np.float32)
        except (OSError, ValueError, TypeError, EOFError, MemoryError) as error:
            raise DatasetError(
                f"{path} cannot be read, but holds the maps. Run padim benchmark again."
            ) from error
        if previews.shape[:1] != (len(images),) or (images and previews.ndim != 3):
            raise DatasetError(
                f"{path} holds an array of shape {previews.shape}, but needs {len(images)} maps. "
                "Run padim benchmark again."
            )
        height, width = settings["size_px"]
        crop, resample = settings["crop_fraction"], settings["resample"]
        preprocess = Preprocess(
            (height, width),
            crop,
            resample,
            mean=(0, 0, 0),
            std=(1, 1, 1),
            reading=Reading(settings.get("white", FULL_WHITE), settings.get("page")),
        )
        return cls(record, _find_root(record, data), data, previews, preprocess)

    @property
    def name(self) -> str:
        """Of the category, as text."""
        return plain_text(self.record.row.category)

    @property
    def images(self) -> tuple[ImageResult, ...]:
        """What is known of each of the N images."""
        return self.record.images

    @cached_property
    def is_normal(self) -> NDArray[np.bool_]:
        """Of each of the N images."""
        return np.array([image.label == "normal" for image in self.images], np.bool_)

    @cached_property
    def verdicts(self) -> list[str]:
        """Of each of the N images: missed, false alarm, found, passed, or not judged."""
        return [
            _VERDICTS.get((image.label, image.predicted), "not judged") for image in self.images
        ]

    @property
    def histogram(self) -> Histogram | None:
        """Of the scores, as ``charts.histogram`` draws it."""
        scores = np.array([image.score for image in self.images], np.float64)
        return histogram(scores, ~self.is_normal, self.record.threshold)

    @property
    def defects(self) -> list[Defect]:
        """Each kind of defect."""
        found = []
        for name, metrics in sorted(self.record.by_defect.items()):
            predicted = [image.predicted for image in self.images if image.defect == name]
            missed = "n/a" if None in predicted else str(predicted.count("normal"))
            values = [(METRICS[key].heading, format_metric(metrics.get(key))) for key in _BY_DEFECT]
            found.append(Defect(plain_text(name), len(predicted), missed, values))
        return found

    @property
    def digest(self) -> str:
        """The sha256 of the names and sizes of its files."""
        files = [stamp[:2] for stamp in self.record.fingerprint.images]
        return hashlib.sha256(json.dumps(files).encode()).hexdigest()

    def find_changed(self) -> list[str]:
        """Names of the images and masks of another size than when they were benchmarked.

        A folder of results may come from elsewhere, and its author must not choose which files of
        this machine are shown: one is shown if it is inside the dataset that the user named, or if
        it is, by its size and time, the very file that was benchmarked.

        Raises:
            DatasetError: One is not there any more, or may not be shown.
        """
        before = {stamp.name: stamp for stamp in self.record.fingerprint.images}
        changed = []
        for image, masks in zip(self.images, self.record.masks, strict=True):
            for name in (image.path, *masks):
                if not (self.root / name).is_file():
                    raise DatasetError(
                        f"{self.root / name} was part of the benchmark, but is not there. Name the "
                        "folder of the dataset with --data ROOT."
                    )
                status, stamp = (self.root / name).stat(), before.get(name)
                now = status.st_size, status.st_mtime_ns
                if stamp is not None and now == (stamp.n_bytes, stamp.mtime_ns):
                    continue
                if not self._is_inside(name):
                    raise DatasetError(
                        f"{self.root / name} is not the file that was benchmarked, so it is not "
                        "shown. Name the folder of the dataset with --data ROOT, and keep its "
                        "images inside."
                    )
                # Copying a dataset changes the times of its files, but not their sizes.
                if stamp is None or status.st_size != stamp.n_bytes:
                    changed.append(name)
        return changed

    def _is_inside(self, name: str) -> bool:
        """Whether a file is in the dataset that was named, wherever links lead."""
        if self.data is None:
            return False
        return (self.root / name).resolve().is_relative_to(self.data.resolve())

    def cards(self, full_size: bool, advance: Callable[[int], None]) -> Iterator[Card]:
        """All there is to say of each image."""
        if not self.images:
            return
        usual = self.is_normal if self.is_normal.any() else np.ones(len(self.images), np.bool_)
        low = float(np.nanmedian(self.previews[usual]))
        high = float(np.nanquantile(self.previews, 0.999))
        levels = np.array([image.level_scores for image in self.images], np.float64)
        ratios = levels / np.maximum(np.median(levels[usual], axis=0), 1e-12)
        has_coarse_head = self.record.fingerprint.settings.get("coarse_scale", 0) > 0
        verdicts, threshold = self.verdicts, self.record.threshold
        middle = _between_classes(self.images) if threshold is None else threshold

        def card(i: int) -> Card:
            image = self.images[i]
            return {
                "category": self.name,
                "name": plain_text(image.path),
                "defect": plain_text(image.defect),
                "label": image.label,
                "verdict": verdicts[i],
                "wrong": verdicts[i] in _WRONG,
                "score": image.score,
                "threshold": threshold,
                "range": [float(f"{end:.3g}") for end in (low, high)],
                "p": image.p_value,
                "levels": [round(float(ratio), 3) for ratio in ratios[i]],
                "coarse_head": has_coarse_head,
                "order": _rank(image, middle, i),
                "map": _encode(Image.fromarray(colour_levels(self.previews[i], low, high)), "png"),
                **self._show(image, self.record.masks[i], full_size),
            }

        with ThreadPoolExecutor(n_cores()) as pool:
            for found in pool.map(card, range(len(self.images))):
                advance(1)
                yield found

    def _show(self, image: ImageResult, masks: Sequence[str], full_size: bool) -> Shown:
        """An image as data, the outline of its defects, and where on it the map lies."""
        path = self.root / image.path
        picture = decode(path, self.preprocess.reading)
        source = (picture.height, picture.width)
        top, left, height, width = self.preprocess.window(source)
        picture.thumbnail((_WEBP_PX if full_size else THUMBNAIL_PX,) * 2)
        paths = tuple(self.root / name for name in masks)
        truth = Sample(path, image.defect, paths).read_mask()
        outline = ""
        drawn = Image.new("L", picture.size)
        drawn.thumbnail((_FULL_OUTLINE_PX,) * 2)
        if truth is not None:
            outline = outline_path(_shrink(truth, drawn.size))
        return {
            "image": _encode(picture, "webp", 90 if full_size else 70),
            "box": [
                round(100 * (part / source[axis]), 3)
                for part, axis in ((left, 1), (top, 0), (width, 1), (height, 0))
            ],
            "outline": outline,
            "outline_px": drawn.size,
            "source_px": source,
        }


def _find_root(record: Record, data: Path | None) -> Path:
    before = find_place(record.root)
    if data is None:
        return before
    first = record.images[0].path if record.images else "."
    named = data / before.name  # the folder of all categories, rather than of this one
    return named if (named / first).exists() else data


def _between_classes(images: Sequence[ImageResult]) -> float:
    """Halfway between the medians of normal and of anomalous images."""
    medians = [
        float(np.median([image.score for image in images if image.label == label]))
        for label in sorted({image.label for image in images})
    ]
    return sum(medians) / max(len(medians), 1)


def _rank(image: ImageResult, threshold: float, i: int) -> tuple[float, str, int]:
    """Rank: the further on the wrong side of the threshold, the earlier."""
    # As a ratio, scores of different models can be compared.
    above = math.log(max(image.score, 1e-12) / max(threshold, 1e-12))
    return (-above if image.label == "normal" else above), image.category, i


def _shrink(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask at another (width, height); what is thin stays."""
    grey = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
    share = np.asarray(grey)
    kept = share > 63
    return kept if kept.any() else share > 0


def _encode(picture: Image.Image, kind: str, quality: int | None = None) -> str:
    """A picture as the URL of its data: a PNG, or a WebP of a quality."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=quality, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
