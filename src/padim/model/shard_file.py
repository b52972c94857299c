"""Files of a fit that is spread over machines: what each found of its shard of the images."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from msgspec import Meta
from numpy.typing import NDArray

from padim.documents import Fraction, Sha256
from padim.errors import ModelFileError, UsageError
from padim.features.encoder import Encoder
from padim.images.camera import CameraFacts, Snapshot
from padim.images.thumbnails import Look
from padim.method.moments import Moments
from padim.model.file import (
    find_encoder,
    find_moments,
    find_tiling,
    list_moments,
    read_file,
    read_said,
    write_file,
)
from padim.model.state import ModelState
from padim.scoring.collector import Collector
from padim.scoring.facts import FileFacts

_MOST_SHARDS = 1 << 16


@dataclass(frozen=True)
class Shard:
    """One of the parts that images are split into by their sha256.

    Attributes:
        number: Which, from 1.
        n_shards: How many there are.
    """

    number: Annotated[int, Meta(ge=1, le=_MOST_SHARDS)]
    n_shards: Annotated[int, Meta(ge=1, le=_MOST_SHARDS)]

    def __post_init__(self) -> None:
        """Raise a `UsageError` if there is no such part."""
        if not 1 <= self.number <= self.n_shards <= _MOST_SHARDS:
            raise UsageError(
                f"The shard is {self}, but needs to be one of 1/N to N/N, with N of {_MOST_SHARDS} "
                "at most. Try 1/2."
            )

    def __str__(self) -> str:
        return f"{self.number}/{self.n_shards}"

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read what ``str`` writes, such as ``3/16``."""
        number, slash, n_shards = text.partition("/")
        if not slash or not (number.isdecimal() and n_shards.isdecimal()) or len(text) > 20:
            raise UsageError(f"The shard is {text!r}, but needs to be such as 3/16.")
        return cls(int(number), int(n_shards))

    def has(self, sha256: str) -> bool:
        """Whether an image is in this part."""
        return find_number(sha256, self.n_shards) == self.number


def find_number(sha256: str, n_shards: int) -> int:
    """The number of the part that an image is in, of so many."""
    return int(sha256[:15], 16) % n_shards + 1


@dataclass(frozen=True)
class ShardChoices:
    """What the model is to be, beside what decides the features.

    Attributes:
        store: What whitening rows are stored in.
        include_backbone: Whether the network is to travel with the model.
        keep_samples: Whether a few of the images are.
    """

    store: Literal["float16", "float32"]
    include_backbone: bool
    keep_samples: bool


@dataclass(frozen=True)
class ShardLook:
    """What the first look at a shard gave.

    Attributes:
        shard: Which.
        state: What the model has in common with those of other shards; without means and rows.
        choices: What else was chosen.
        moments: Of its images.
        sample_pixels: RGB at network size of images that may travel with the model, ``(n, H, W,
            3)``, none where none may.
        sample_sha256: Of each.
    """

    shard: Shard
    state: ModelState
    choices: ShardChoices
    moments: Moments
    sample_pixels: NDArray[np.uint8]
    sample_sha256: tuple[str, ...]


@dataclass(frozen=True)
class ShardScores:
    """What the second look at a shard gave: its images under the model without each.

    Attributes:
        shard: Which.
        model_sha256: Of the model file whose images they are.
        image_sha256: Of each image, ascending.
        paths: Of each image, on the machine that looked at it.
        scores: Of all.
        looks: Of each, to review it.
        snapshots: Of each, to compare cameras.
        drop_outliers: Rate of outliers that are to be dropped; 0 for none.
    """

    shard: Shard
    model_sha256: str
    image_sha256: tuple[str, ...]
    paths: tuple[str, ...]
    scores: Collector
    looks: tuple[Look, ...]
    snapshots: tuple[Snapshot, ...]
    drop_outliers: float


@dataclass(frozen=True)
class _ShardFacts:
    shard: Shard


@dataclass(frozen=True, kw_only=True)
class _LookFacts(FileFacts):
    shard: Shard
    choices: ShardChoices
    sample_sha256: tuple[Sha256, ...]


@dataclass(frozen=True, kw_only=True)
class _ScoreFacts(FileFacts):
    shard: Shard
    model_sha256: Sha256
    paths: tuple[str, ...]
    drop_outliers: Fraction
    cell_px: tuple[float, float]


def find_shard(path: Path) -> Shard:
    """Which shard a file is of.

    Raises:
        PadimError: As ``load_state``; also where it is of none.
    """
    return read_said(path, _ShardFacts).shard


def save_look(look: ShardLook, path: Path) -> None:
    """Write what a first look at a shard gave, whole or not at all."""
    tensors = list_moments(look.moments)
    tensors["samples/image"] = torch.tensor(look.sample_pixels)
    more = {
        "holds": "shard",
        "shard": asdict(look.shard),
        "choices": asdict(look.choices),
        "sample_sha256": look.sample_sha256,
    }
    write_file(tensors, look.state.metadata() | more, path)


def load_look(path: Path) -> ShardLook:
    """Read what a first look at a shard gave.

    Raises:
        PadimError: As ``load_state``; also where the file holds something else.
    """
    content, facts = read_file(path, _LookFacts, "shard")
    state = _find_state(facts, path)
    pixels = _take(content.tensors, "samples/image", path)
    shape = (len(facts.sample_sha256), *facts.preprocess.size_px, 3)
    if pixels.shape != shape or pixels.dtype != np.uint8:
        raise ModelFileError(f"{path} has other samples than it says. Copy it again.")
    moments = find_moments(content, facts, path)
    return ShardLook(facts.shard, state, facts.choices, moments, pixels, tuple(facts.sample_sha256))


def save_scores(found: ShardScores, state: ModelState, path: Path) -> None:
    """Write what a second look at a shard gave, whole or not at all; ``state`` is the model."""
    arrays = found.scores.to_arrays() | {
        "thumbnail": np.stack([look.thumbnail for look in found.looks]),
        "source_px": np.array([look.source_px for look in found.looks], np.int64),
        "brightness": np.array([look.brightness for look in found.looks], np.float64),
        "small": np.stack([one.small for one in found.snapshots]),
        "camera": np.array(
            [(one.facts.grey, one.facts.contrast, one.facts.sharpness) for one in found.snapshots],
            np.float64,
        ),
    }
    more = {
        "holds": "scores",
        "shard": asdict(found.shard),
        "model_sha256": found.model_sha256,
        "image_sha256": found.image_sha256,
        "count": len(found.image_sha256),
        "paths": found.paths,
        "drop_outliers": found.drop_outliers,
        "cell_px": found.snapshots[0].cell_px,
    }
    tensors = {f"scores/{name}": torch.from_numpy(array) for name, array in arrays.items()}
    write_file(tensors, state.metadata() | more, path)


def load_scores(path: Path) -> ShardScores:
    """Read what a second look at a shard gave.

    Raises:
        PadimError: As ``load_state``; also where the file holds something else.
    """
    content, facts = read_file(path, _ScoreFacts, "scores")
    names = (*Collector.ARRAYS, "thumbnail", "source_px", "brightness", "small", "camera")
    arrays = {name: _take(content.tensors, f"scores/{name}", path) for name in names}
    n_images = len(facts.image_sha256)
    if len(facts.paths) != n_images or any(
        len(arrays[name]) != n_images for name in names if name not in Collector.SUMS
    ):
        raise ModelFileError(f"{path} has not one score for each image. Copy it again.")
    looks = tuple(
        Look((int(px[0]), int(px[1])), float(brightness), thumbnail)
        for px, brightness, thumbnail in zip(
            arrays["source_px"], arrays["brightness"], arrays["thumbnail"], strict=True
        )
    )
    snapshots = tuple(
        Snapshot(CameraFacts(*map(float, facts_of_one)), small, facts.cell_px)
        for facts_of_one, small in zip(arrays["camera"], arrays["small"], strict=True)
    )
    return ShardScores(
        facts.shard,
        facts.model_sha256,
        tuple(facts.image_sha256),
        facts.paths,
        Collector.of_arrays({name: arrays[name] for name in Collector.ARRAYS}),
        looks,
        snapshots,
        facts.drop_outliers,
    )


def _find_state(facts: FileFacts, path: Path) -> ModelState:
    encoder: Encoder = find_encoder(facts, find_tiling(facts, path))
    return ModelState(
        encoder=encoder,
        recipe=facts.recipe,
        eps=facts.eps,
        count=facts.count,
        mean=(),
        whitening=(),
        image_sha256=facts.image_sha256,
        trunk={},
        images=facts.images,
    )


def _take(tensors: Any, name: str, path: Path) -> NDArray[Any]:
    if name not in tensors:
        raise ModelFileError(f"{path} lacks {name}. Copy it again.")
    return np.asarray(tensors[name].numpy())
