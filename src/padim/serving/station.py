"""What a station is told: its recipes, where it listens, what it keeps."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from padim.documents import Positive, read_table
from padim.errors import UnknownNameError, UsageError
from padim.line.settings import SinkSettings, SourceSettings, read_sinks, read_sources
from padim.monitor.monitor import MonitorSettings
from padim.store.pictures import Retention

_DATA = Path("padim-data")
_RETENTION = Retention()
_MONITOR = MonitorSettings()
_MODELS = (".safetensors", ".onnx", ".xml")
_MOST_BYTES = 1 << 20
_LONGEST_NAME = 200

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
        monitor: Of the drift alarm.
    """

    model: Path
    false_alarm_rate: _Rate | None = None
    pixel_false_alarm_rate: _Rate | None = None
    min_region_px: Annotated[int, Meta(ge=0, le=1 << 40)] = 1
    deadline_ms: Positive = 5000.0
    shadow: Path | None = None
    monitor: MonitorSettings = _MONITOR

    def choose(
        self,
        deadline_ms: float | None,
        false_alarm_rate: float | None,
        pixel_false_alarm_rate: float | None,
    ) -> "RecipeSettings":
        """The same with what is not None."""
        return replace(
            self,
            deadline_ms=self.deadline_ms if deadline_ms is None else deadline_ms,
            false_alarm_rate=(
                self.false_alarm_rate if false_alarm_rate is None else false_alarm_rate
            ),
            pixel_false_alarm_rate=(
                self.pixel_false_alarm_rate
                if pixel_false_alarm_rate is None
                else pixel_false_alarm_rate
            ),
        )


@dataclass(frozen=True)
class Computing:
    """How models are opened.

    Attributes:
        engine: As ``padim.load`` takes it.
        precision: Likewise.
        device: Likewise.
        n_threads: Of one call; cores less one when None, so that one is left for all else.
        most_bytes: Of memory for models, as it is forecast; no bound when None.
    """

    engine: str = "auto"
    precision: str | None = None
    device: str = "auto"
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
class StationTable:
    """A station without its sources and sinks, as a TOML has it.

    Attributes:
        recipes: By their names.
        name: Of the station, where several share a database.
        data: Folder of the database, the pictures and the models that are sent.
        store: The database: a file, or a URL; ``history.db`` in the folder when empty.
        computing: How models are opened.
        limits: What a picture may be.
        address: Where it listens.
        port: Likewise; 0 for any that is free.
        tls_certificate: File of the certificate by which it is reached over TLS; no TLS when None.
        tls_key: Its key.
        retention: Which pictures are kept.
    """

    recipes: dict[str, RecipeSettings]
    name: Annotated[str, Meta(max_length=200, pattern="^[^/]*$")] = ""
    data: Path = _DATA
    store: str = ""
    computing: Computing = Computing()
    limits: Limits = Limits()
    address: str = "127.0.0.1"
    port: _Port = 8000
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    retention: Retention = _RETENTION

    def __post_init__(self) -> None:
        """Raise a ``ValueError`` if fields do not fit together."""
        if self.tls_key is not None and self.tls_certificate is None:
            raise ValueError("it has a tls_key, but needs a tls_certificate as well")

    @property
    def database(self) -> str:
        """Where inspections are written."""
        return self.store or str(self.data / "history.db")

    def name_source(self, source: str) -> str:
        """A source of this station, as the database knows it."""
        return f"{self.name}/{source}" if self.name else source


@dataclass(frozen=True)
class Station(StationTable):
    """A service that inspects.

    Attributes:
        sources: Where pictures come from, beside HTTP.
        sinks: Where records go to.
    """

    sources: tuple[SourceSettings, ...] = ()
    sinks: tuple[SinkSettings, ...] = ()


def name_recipes(models: Sequence[Path]) -> dict[str, RecipeSettings]:
    """A recipe for each model, under the name of its file; a folder stands for all in it.

    Raises:
        UsageError: Two have one name, or a folder has none.
    """
    recipes: dict[str, RecipeSettings] = {}
    for model in models:
        found = [model]
        if model.is_dir():
            found = sorted(
                one for one in model.iterdir() if one.suffix in _MODELS and one.is_file()
            )
            if not found:
                raise UsageError(f"{model} holds no model. Put {' or '.join(_MODELS)} files there.")
        for one in found:
            if one.stem in recipes:
                raise UsageError(
                    f"{recipes[one.stem].model} and {one} would both be the recipe {one.stem}. "
                    "Rename one, or name the recipes in a station.toml."
                )
            recipes[one.stem] = RecipeSettings(one)
    return recipes


def _require_known(names: Sequence[str], station: StationTable, origin: Path) -> None:
    """Refuse a recipe that a source or a sink names and a station does not have."""
    for name in names:
        if name not in station.recipes:
            raise UnknownNameError("recipe", name, tuple(station.recipes), f" in {origin}")


def read_station(path: Path) -> Station:
    """Read what a station is told from a TOML; files in it are named from where it lies.

    Raises:
        UsageError: It is no TOML, or something in it is unknown or cannot be had.
    """
    try:
        with path.open("rb") as file:
            table = tomllib.loads(file.read(_MOST_BYTES).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # of bytes, TOML, long numbers; of nesting
        raise UsageError(f"{path} is no TOML: {error}. See docs/howto/serve.md.") from None
    sources = read_sources(table.pop("sources", []), path)
    sinks = read_sinks(table.pop("sinks", []), path)
    found = read_table({"data": str(_DATA), **table}, StationTable, str(path), path.parent)
    for name in found.recipes:
        if not 0 < len(name) <= _LONGEST_NAME or "/" in name or name in (".", ".."):
            raise UsageError(
                f"{path}: the recipe {name[:_LONGEST_NAME]!r} could not be asked for by HTTP. Give "
                f"it a name of 1 to {_LONGEST_NAME} characters without a slash."
            )
    for source in sources:
        _require_known((source.recipe,) if source.recipe else (), found, path)
    for sink in sinks:
        _require_known(sink.recipes, found, path)
    store = found.store
    if "://" in store and not found.name:
        raise UsageError(
            f"{path}: several stations may share {store.partition(':')[0]}, and this one has no "
            'name. Write a line such as name = "line 2".'
        )
    if store and "://" not in store:
        store = str(path.parent / store)
    return Station(**vars(replace(found, store=store)), sources=sources, sinks=sinks)
