"""Score the test images of a category and compare with what is known of them."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from padim.datasets import Category, Sample
from padim.errors import ImageReadError
from padim.metrics import Ranking
from padim.predictor import Predictor


@dataclass(frozen=True)
class Evaluation:
    """Scores and maps of a category's test images, at network size.

    Attributes:
        category: Name of the category.
        samples: The N test images that could be read.
        image_score: Shape ``(N,)``.
        anomaly_map: Shape ``(N, H, W)``, float32; NaN where the model does not look.
        mask: Ground truth, shape ``(N, H, W)``.
        has_mask: Whether the ground truth of each pixel of an image is known, shape ``(N,)``.
            Normal images need no mask.
        score_s: Seconds from the first image file to the last score.
    """

    category: str
    samples: tuple[Sample, ...]
    image_score: NDArray[np.float64]
    anomaly_map: NDArray[np.float32]
    mask: NDArray[np.bool_]
    has_mask: NDArray[np.bool_]
    score_s: float

    @cached_property
    def image_ranking(self) -> Ranking:
        """Normal and anomalous images by image score."""
        return Ranking.of([sample.is_anomalous for sample in self.samples], self.image_score)

    @cached_property
    def pixel_ranking(self) -> Ranking:
        """Normal and anomalous pixels by map, of the images whose every pixel is known."""
        known = self.has_mask[:, None, None] & ~np.isnan(self.anomaly_map)
        return Ranking.of(self.mask[known], self.anomaly_map[known])

    def mistakes(self, threshold: float) -> tuple[int, int]:
        """Normal images that score above a threshold, and anomalous ones that do not."""
        anomalous = np.array([sample.is_anomalous for sample in self.samples], np.bool_)
        called = self.image_score > threshold
        return int((called & ~anomalous).sum()), int((anomalous & ~called).sum())

    def metrics(self) -> dict[str, float | None]:
        """AUROC and F1-max of images and pixels; None where a class is missing."""
        return {
            "image_auroc": self.image_ranking.auroc(),
            "pixel_auroc": self.pixel_ranking.auroc(),
            "image_f1_max": self.image_ranking.f1_max()[0],
            "pixel_f1_max": self.pixel_ranking.f1_max()[0],
        }


def evaluate(
    predictor: Predictor,
    category: Category,
    advance: Callable[[int], None] = lambda n_images: None,
    unreadable: Callable[[ImageReadError], None] | None = None,
) -> Evaluation:
    """Score the test images of a category.

    Args:
        predictor: A fitted model.
        category: Its images.
        advance: Told how many more images have been scored.
        unreadable: Told of an image that cannot be read, which is then left out; raised when None.

    Raises:
        ImageReadError: An image cannot be read and nobody is told, or a mask cannot be read.
    """
    start = time.perf_counter()
    scores: list[float] = []
    maps: list[NDArray[np.float32]] = []
    scored = []
    for prediction in predictor.stream([sample.path for sample in category.test], unreadable):
        scored.append(prediction.path)
        scores.append(prediction.score)
        maps.append(prediction.anomaly_map)
        advance(1)
    score_s = time.perf_counter() - start
    by_path = {sample.path: sample for sample in category.test}
    samples = tuple(by_path[path] for path in scored if path is not None)
    preprocess = predictor.preprocess
    mask = np.zeros((len(samples), *preprocess.size_px), np.bool_)
    for i, sample in enumerate(samples):
        if (truth := sample.read_mask()) is not None:
            mask[i] = preprocess.mask(truth)
    return Evaluation(
        category=category.name,
        samples=samples,
        image_score=np.array(scores),
        anomaly_map=np.array(maps, np.float32).reshape(-1, *preprocess.size_px),
        mask=mask,
        has_mask=np.array(
            [not s.is_anomalous or s.mask_path is not None for s in samples], np.bool_
        ),
        score_s=score_s,
    )


def shown(metric: float | None) -> str:
    """A metric with three digits, or ``n/a`` where it cannot be had."""
    return "n/a" if metric is None else f"{metric:.3f}"
