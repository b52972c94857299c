"""What the drift alarm looks at of one part, whoever brings it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from padim.documents import Finite
from padim.images.camera import CameraFacts
from padim.scoring.prediction import Prediction, PredictionRecord
from padim.scoring.reference import CAMERA, Reference

CoarseMap = tuple[tuple[float, ...], ...]
SCORE = "score"  # the name of the image score
_LEVEL = "level_"  # and of those of the levels, numbered from the coarsest
_WORDS = {
    SCORE: "the image score",
    "grey": "the mean grey level",
    "contrast": "the contrast",
    "sharpness": "the sharpness",
    "shift_px": "the shift against the mean good image",
}


@dataclass(frozen=True)
class Observation:
    """The statistics of one part.

    Attributes:
        values: Each by its name: ``score``, ``level_1`` and on from the coarsest, ``grey``,
            ``contrast``, ``sharpness``, ``shift_px``.
        is_accepted: Whether the part was found good; all are of a model without a threshold.
        coarse_map: The mean of its map in cells; empty when unknown.
        name: What a person knows it by; may be empty.
    """

    values: Mapping[str, float]
    is_accepted: bool = True
    coarse_map: CoarseMap = ()
    name: str = ""

    @classmethod
    def of(cls, part: Prediction | PredictionRecord, name: str | None = None) -> "Observation":
        """What is looked at of a prediction; its path is its name when None is given."""
        coarse_map = part.coarse_map
        if not isinstance(coarse_map, tuple):
            coarse_map = tuple(tuple(row) for row in coarse_map().tolist())
        return cls(
            dict(_list_values(part.score, part.level_scores, part.camera)),
            part.label != "anomalous",
            coarse_map,
            str(part.path or "") if name is None else name,
        )


@dataclass(frozen=True)
class ResultRow:
    """A line of ``predictions.jsonl``, as far as the alarm reads it."""

    score: Finite
    label: Literal["normal", "anomalous"] | None
    path: str | None = None
    model_sha256: str | None = None
    threshold: Finite | None = None
    level_scores: Annotated[tuple[Finite, ...], Meta(max_length=64)] = ()
    camera: CameraFacts | None = None
    coarse_map: Annotated[tuple[tuple[Finite, ...], ...], Meta(max_length=64)] = ()

    def observe(self) -> Observation:
        """What is looked at of it."""
        values = dict(_list_values(self.score, self.level_scores, self.camera))
        return Observation(values, self.label != "anomalous", self.coarse_map, self.path or "")


def name_columns(
    image_score: NDArray[np.float32], reference: Reference | None
) -> dict[str, NDArray[np.float32]]:
    """The statistics of good images by their names, in one order."""
    columns = {SCORE: image_score}
    if reference is not None:
        for i, level in enumerate(reference.level_scores.T, 1):
            columns[f"{_LEVEL}{i}"] = level
        columns |= zip(CAMERA, reference.camera.T, strict=False)
    return columns


def describe_statistic(name: str) -> str:
    """What a person calls a statistic."""
    if name.startswith(_LEVEL):
        return f"the score of level {name.removeprefix(_LEVEL)}"
    return _WORDS.get(name, name)


def is_of_map(name: str) -> bool:
    """Whether a statistic says something of places in the map."""
    return name == SCORE or name.startswith(_LEVEL)


def _list_values(
    score: float, level_scores: tuple[float, ...], camera: CameraFacts | None
) -> Iterator[tuple[str, float]]:
    yield SCORE, score
    for i, level in enumerate(level_scores, 1):
        yield f"{_LEVEL}{i}", level
    for name in CAMERA:
        value: float | None = getattr(camera, name, None)
        if value is not None:
            yield name, value
