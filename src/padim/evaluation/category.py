"""Score the test images of a category and compare with what is known of them."""

import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from padim.datasets import Category, Sample, read_category, read_dataset
from padim.errors import DatasetError, ImageReadError, format_count
from padim.images.masks import FLAWS
from padim.images.regions import label_regions
from padim.metrics.counts import MapCounts
from padim.metrics.images import ImageMetrics
from padim.metrics.pixels import PixelMetrics
from padim.metrics.resamples import (
    N_RESAMPLES,
    Intervals,
    Values,
    bootstrap_weights,
    intervals,
)
from padim.metrics.table import HEADLINES, METRICS, format_metric
from padim.model.opening import load
from padim.places import find_place
from padim.scoring.prediction import Decision, Prediction
from padim.scoring.predictor import Predictor
from padim.temporary import TemporaryFolder

PREVIEW_PX = 64

# What is doubtful about masks, and about those of defects that mark none.
_FLAWS = FLAWS | {
    "empty-mask": (
        "mark nothing, of images with defects",
        "all pixels of such an image count as good",
    )
}

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """Scores and maps of a category's test images, at network size.

    Attributes:
        category: Its name.
        samples: The N test images that could be read.
        predictions: What the model says of each, N of them, without the maps.
        decision: Where normal ends; None when the model is not calibrated.
        anomaly_map: Shape ``(N, H, W)``, in a temporary file; NaN where the model does not look.
        counts: Pixels by score, of the images whose ground truth is known.
        counted: Which images those are, ascending; normal images need no mask.
        score_s: Seconds from the first image file to the last score.
        folder: Of the temporary file.
        mask_flaws: Masks by what is doubtful about them: a name of ``padim.images.masks.FLAWS``, or
            ``empty-mask`` where those of an image with a defect mark nothing.
    """

    category: str
    samples: tuple[Sample, ...]
    predictions: tuple[Prediction, ...]
    decision: Decision | None
    anomaly_map: NDArray[np.float16]
    counts: MapCounts
    counted: NDArray[np.int64]
    score_s: float
    folder: TemporaryFolder
    mask_flaws: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)

    @cached_property
    def image_score(self) -> Floats:
        """Of each image, shape ``(N,)``."""
        return np.array([prediction.score for prediction in self.predictions])

    @cached_property
    def is_anomalous(self) -> NDArray[np.bool_]:
        """Whether each image shows a defect, shape ``(N,)``."""
        return np.array([sample.is_anomalous for sample in self.samples], np.bool_)

    @cached_property
    def image_metrics(self) -> ImageMetrics:
        """Of normal and anomalous images by image score."""
        return ImageMetrics.of(self.is_anomalous, self.image_score)

    @cached_property
    def pixel_metrics(self) -> PixelMetrics:
        """Of the images whose ground truth is known."""
        return PixelMetrics(self.counts)

    def __repr__(self) -> str:
        """What there is to say of it in one line."""
        words = (f"{name} {format_metric(self.metrics[name])}" for name in HEADLINES)
        count = format_count(len(self.samples), "image")
        return f"<Evaluation of {self.category}: {count}, {', '.join(words)}>"

    def describe_flaws(self) -> list[str]:
        """Say what is doubtful about masks: how many, and the first."""
        return [
            f"Masks that {words}: {len(paths)}. {advice[0].upper()}{advice[1:]}. "
            f"The first: {paths[0]}. padim check lists them."
            for flaw, (words, advice) in _FLAWS.items()
            if (paths := self.mask_flaws.get(flaw))
        ]

    def count_mistakes(self, threshold: float) -> tuple[int, int]:
        """Normal images that score above a threshold, and anomalous ones that do not."""
        called = self.image_score > threshold
        return int((called & ~self.is_anomalous).sum()), int((self.is_anomalous & ~called).sum())

    @cached_property
    def metrics(self) -> Values:
        """Every metric of ``padim.metrics.table`` by name; None where it cannot be had.

        Those of pixels need masks. An oracle chooses its threshold by the test images' labels.
        """
        return _to_values(self._measure(None))

    @cached_property
    def intervals(self) -> Intervals:
        """The 95% interval of every metric by name; None where one cannot be had."""
        return intervals(self.resample(), self.metrics)

    def resample(self, n_resamples: int = N_RESAMPLES) -> dict[str, Floats]:
        """Every metric of bootstrap samples of the test images.

        The draws depend on nothing but the category's name and how many images there are, so that
        evaluations of the same images are paired.

        Returns:
            By name, shape ``(n_resamples,)``; NaN where one cannot be had.
        """
        seed = zlib.crc32(self.category.encode("utf-8", "surrogateescape"))
        return self._measure(bootstrap_weights(self.is_anomalous, n_resamples, seed))

    def by_defect(self) -> dict[str, Values]:
        """Every metric of each kind of defect against all normal images."""
        kinds = sorted({sample.defect for sample in self.samples if sample.is_anomalous})
        defects = np.array([sample.defect for sample in self.samples])
        weights = np.array([~self.is_anomalous | (defects == kind) for kind in kinds], np.float64)
        if not kinds:
            return {}
        values = self._measure(weights)
        return {
            kind: _to_values({name: value[i] for name, value in values.items()})
            for i, kind in enumerate(kinds)
        }

    def _measure(self, weights: Floats | None) -> dict[str, Floats]:
        of_counted = None if weights is None else weights[:, self.counted]
        values = self.image_metrics.resampled(weights) | self.pixel_metrics.resampled(of_counted)
        return {name: values[name] for name in METRICS if name in values}


def read_test_category(
    data: str | Path, category: str | None = None, layout: str | None = None
) -> Category:
    """Read one category that has images to test on; the arguments are those of ``evaluate``.

    Raises:
        PathMissingError: There is no such folder.
        UnknownNameError: The dataset has no such category, or there is no such layout.
        DatasetError: It is in no known layout, or has no test images.
    """
    path = find_place(data)
    found = read_dataset(path, (category,), layout)[0] if category else read_category(path, layout)
    if not found.test:
        raise DatasetError(f"{found.root} has no test images. Put them into test/<defect>.")
    return found


def evaluate(
    model: Predictor | str | Path,
    data: Category | str | Path,
    category: str | None = None,
    layout: str | None = None,
    *,
    advance: Callable[[int], None] = lambda n_images: None,
    unreadable: Callable[[ImageReadError], None] | None = None,
) -> Evaluation:
    """Score the test images of one category and measure what comes out.

    Args:
        model: A fitted model, or the file of one.
        data: The images, or the folder of a category in any known layout, or of a dataset.
        category: Which one of a dataset.
        layout: A name of ``padim.datasets.LAYOUTS``; recognised when None.
        advance: Told how many more images have been scored.
        unreadable: Told of an image that cannot be read, which is then left out; raised when None.

    Returns:
        Scores and maps, with ``metrics`` and their 95% ``intervals``, both by name.

    Raises:
        PathMissingError: There is no such file or folder.
        DatasetError: The folder is no category, or has no test images. Or a mask is of another
            size than its image, or not drawn with the value of one kind of defect.
        ImageReadError: An image cannot be read and nobody is told.
        MaskReadError: A mask cannot be read.

    Examples:
        >>> found = padim.evaluate("part.safetensors", "part")
        >>> found
        <Evaluation of part: 6 images, image_auroc 1.000, pixel_auroc 0.99..., aupro_30 0.9...>
        >>> found.metrics["image_auroc"], found.intervals["image_auroc"]
        (1.0, (1.0, 1.0))
    """
    predictor = load(model) if isinstance(model, str | Path) else model
    images = data if isinstance(data, Category) else read_test_category(data, category, layout)
    folder = TemporaryFolder()
    path = folder.path / "maps"
    start = time.perf_counter()
    found = predictor.stream([sample.path for sample in images.test], unreadable)
    predictions = tuple(_score(found, path, advance))
    score_s = time.perf_counter() - start
    by_path: dict[Path | None, Sample] = {sample.path: sample for sample in images.test}
    samples = tuple(by_path[prediction.path] for prediction in predictions)
    shape = (len(samples), *predictor.preprocess.size_px)
    maps: NDArray[np.float16] = np.empty(shape, np.float16)
    if samples:
        maps = np.memmap(path, np.float16, "r", shape=shape)
    counts, counted = MapCounts(), []
    flaws: dict[str, list[Path]] = {}

    def note(path: Path, flaw: str) -> None:
        flaws.setdefault(flaw, []).append(path)

    for i, sample in enumerate(samples):
        if _count(counts, sample, predictions[i], maps[i].astype(np.float32), note):
            counted.append(i)
    return Evaluation(
        category=images.name,
        samples=samples,
        predictions=predictions,
        decision=predictor.decision,
        anomaly_map=maps,
        counts=counts,
        counted=np.array(counted, np.int64),
        score_s=score_s,
        folder=folder,
        mask_flaws={flaw: tuple(paths) for flaw, paths in flaws.items()},
    )


def preview(anomaly_map: NDArray[np.float16]) -> NDArray[np.float16]:
    """Every so many rows and columns of a map, 64 of them or what there is."""
    rows, columns = (
        (np.arange(min(side, PREVIEW_PX)) + 0.5) * side / min(side, PREVIEW_PX)
        for side in anomaly_map.shape
    )
    return np.asarray(anomaly_map[rows.astype(int)[:, None], columns.astype(int)])


def _score(
    predictions: Iterator[Prediction], maps: Path, advance: Callable[[int], None]
) -> Iterator[Prediction]:
    """Write the maps of predictions into a file as float16, and leave them out."""
    nothing = np.empty((0, 0), np.float32)
    with maps.open("wb") as file:
        for prediction in predictions:
            anomaly_map = prediction.anomaly_map.clip(-65504, 65504).astype(np.float16)
            file.write(anomaly_map.tobytes())
            yield replace(prediction, anomaly_map=nothing)
            advance(1)


def _count(
    counts: MapCounts,
    sample: Sample,
    prediction: Prediction,
    anomaly_map: NDArray[np.float32],
    note: Callable[[Path, str], None],
) -> bool:
    """Count the pixels of an image, unless its ground truth is not known.

    Regions are told apart at the size of the mask, where what is thin still hangs together.
    """
    if not sample.is_anomalous:
        counts.add(anomaly_map)
        return True
    truth, source_px = sample.read_mask(note), prediction.source_px
    preprocess = prediction.preprocess
    if truth is None:
        return False
    if truth.shape != source_px:
        raise DatasetError(
            f"The mask of {sample.path} is {truth.shape[0]}x{truth.shape[1]} px, but its image "
            f"{source_px[0]}x{source_px[1]} px. padim check finds all such; draw them anew."
        )
    if not truth.any():
        note(sample.masks[0], "empty-mask")
    labels = preprocess.labels(label_regions(truth)[0])
    defects = []
    for region in sample.read_regions() if sample.saturations else ():
        mask = preprocess.labels(region.mask.astype(np.int32)) > 0
        # As much of the defect as at its own size.
        share = region.saturation_px / max(int(region.mask.sum()), 1)
        if mask.any():
            defects.append((mask, max(1.0, share * int(mask.sum()))))
    counts.add(anomaly_map, labels, defects=defects, is_anomalous=True)
    return True


def _to_values(found: Mapping[str, Floats]) -> Values:
    return {name: None if np.isnan(value) else float(value) for name, value in found.items()}
