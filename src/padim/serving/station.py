"""What a station is told: its recipes, where it listens, what it keeps."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from padim.documents import Positive

_Rate = Annotated[float, Meta(gt=0, lt=1)]
_Port = Annotated[int, Meta(ge=0, le=65535)]
_Count = Annotated[int, Meta(ge=1, le=1 << 48)]


@dataclass(frozen=True)
class RecipeSettings:
    """What pictures of one kind are inspected by.

    Attributes:
        model: A model file, or a graph that was exported from one.
        false_alarm_rate: Good images that may be NOK; as `Predictor.at` has it when None.
        pixel_false_alarm_rate: Pixels of good images that may be in a region, likewise.
        min_region_px: Source pixels of a region; smaller ones are left out.
        deadline_ms: From the arrival of a picture to its answer, at most.
        shadow: Another model, which scores as well and answers nothing.
    """

    model: Path
    false_alarm_rate: _Rate | None = None
    pixel_false_alarm_rate: _Rate | None = None
    min_region_px: Annotated[int, Meta(ge=0, le=1 << 40)] = 1
    deadline_ms: Positive = 5000.0
    shadow: Path | None = None


@dataclass(frozen=True)
class Computing:
    """How models are opened.

    Attributes:
        engine: As ``padim.load`` takes it.
        precision: Likewise.
        n_threads: Of one call; cores less one when None, so that one is left for all else.
        most_bytes: Of memory for models, as it is forecast; no bound when None.
    """

    engine: str = "auto"
    precision: str | None = None
    n_threads: Annotated[int, Meta(ge=1, le=1024)] | None = None
    most_bytes: _Count | None = None


@dataclass(frozen=True)
class Limits:
    """What a picture may be, before anything is done with it.

    Attributes:
        picture_bytes: Of one picture as it comes.
        picture_px: Pixels of one picture, from its header.
        waiting_bytes: Of all pictures that are being received or inspected.
    """

    picture_bytes: _Count = 64 << 20
    picture_px: _Count = 100_000_000
    waiting_bytes: _Count = 512 << 20


@dataclass(frozen=True)
class Station:
    """A service that inspects.

    Attributes:
        recipes: By their names.
        data: Folder of the database, the pictures and the models that are sent.
        store: The database: a file, or a URL; ``history.db`` in the folder when empty.
        computing: How models are opened.
        limits: What a picture may be.
    """

    recipes: dict[str, RecipeSettings]
    data: Path = Path("padim-data")
    store: str = ""
    computing: Computing = Computing()
    limits: Limits = Limits()
    address: str = "127.0.0.1"
    port: _Port = 8000
    sinks: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def database(self) -> str:
        """Where inspections are written."""
        return self.store or str(self.data / "history.db")
