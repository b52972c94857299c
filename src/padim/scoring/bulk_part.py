"""The images of a part, scored by themselves: the same bytes wherever that is done, and when."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from padim.errors import ImageReadError
from padim.files import plain_text
from padim.images.ahead import WRITE_BEHIND, WRITE_THREADS, content_sha256, map_ahead
from padim.scoring.map_array import count_scores, pack_counts
from padim.scoring.parts import LeftOut, Part
from padim.scoring.prediction import Prediction, PredictionRecord
from padim.scoring.predictor import Predictor

Note: TypeAlias = Callable[[tuple[str, ...]], object]  # told how an image differs from the fit's


class PartImages(NamedTuple):
    """The images of a part."""

    number: int
    start: int  # index of the first in the list of images
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class PartChoices:
    """What is written of each part.

    Attributes:
        n_images: Images of each but the last.
        maps: Whether maps are.
        min_region_px: Source pixels of a region, at least.
        skip_unreadable: Whether an image that cannot be read is left out.
    """

    n_images: int
    maps: bool
    min_region_px: int
    skip_unreadable: bool


class Scored(NamedTuple):
    """A part, and its maps as counts where they are wanted, shape ``(images, H, W)``."""

    part: Part
    counts: NDArray[np.uint8] | None

    def pack(self, choices: PartChoices) -> "Packed":
        """The same, with the maps as they are written."""
        if self.counts is None or not self.part.rows:
            return Packed(self.part, None)
        return Packed(self.part, pack_counts(self.counts, choices.n_images))


class Packed(NamedTuple):
    """A part, and the file of its maps where it has some."""

    part: Part
    maps: bytes | None


# Who scores parts elsewhere, and gives them as they end
PackParts: TypeAlias = Callable[[Iterable[PartImages], PartChoices, Note], Iterator[Packed]]


class _Judged(NamedTuple):
    """What is kept of a prediction."""

    record: PredictionRecord
    counts: NDArray[np.uint8] | None


def score_part(
    predictor: Predictor, images: PartImages, choices: PartChoices, note: Note
) -> Scored:
    """Score the images of a part, in batches of its own.

    Args:
        predictor: What scores.
        images: Which.
        choices: What is wanted of each.
        note: Told how each image that is scored differs from those of the fit, in order.

    Raises:
        ImageReadError: An image cannot be read, and is not to be left out.
    """
    failed: dict[str, str] = {}

    def leave_out(error: ImageReadError) -> None:
        failed[str(error.path)] = plain_text(error.reason)

    def noted() -> Iterator[Prediction]:
        told = leave_out if choices.skip_unreadable else None
        for prediction in predictor.stream(images.paths, told, traced=True):
            note(prediction.differences)
            yield prediction

    def judge(prediction: Prediction) -> _Judged:
        regions = prediction.outlined(choices.min_region_px)[0]
        counts = count_scores(prediction.anomaly_map) if choices.maps else None
        return _Judged(prediction.record(regions), counts)

    counts = None
    if choices.maps:
        counts = np.zeros((len(images.paths), *predictor.preprocess.size_px), np.uint8)
    found: dict[int, PredictionRecord] = {}
    rest = iter(range(len(images.paths)))
    for judged in map_ahead(judge, noted(), WRITE_THREADS, WRITE_BEHIND):
        place = next(one for one in rest if str(images.paths[one]) == judged.record.path)
        found[place] = judged.record
        if counts is not None and judged.counts is not None:
            counts[place] = judged.counts
    left_out = tuple(
        LeftOut(images.start + place, plain_text(str(path)), try_hash(path), failed[str(path)])
        for place, path in enumerate(images.paths)
        if place not in found
    )
    rows = tuple((images.start + place, record) for place, record in found.items())
    return Scored(Part(images.number, rows, left_out), counts)


def try_hash(path: Path) -> str | None:
    """The sha256 of an image as it is; None where its bytes cannot be read."""
    with suppress(ImageReadError):
        return content_sha256(path)
    return None
