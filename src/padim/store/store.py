"""The database of a station: each arrival has one row, and each row gets one verdict."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from msgspec import convert
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine, Row
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from padim.errors import MissingExtraError, PadimError, UsageError
from padim.images.regions import Region
from padim.store.inspection import Arrival, Findings, Inspection, Milliseconds, Verdict
from padim.store.tables import alarms, inspections, models, outbox, recipes, regions, states

_MIGRATIONS = Path(__file__).with_name("migrations")
_BUSY_S = 30  # to wait for another process that writes
_MOST = 1000  # rows of one question
_SQLITE = "sqlite"
_READING = "padim_reading"  # option of a connection that writes nothing


class StoreError(PadimError):
    """A database cannot be opened, read or written."""


@dataclass(frozen=True)
class Filter:
    """Which inspections are looked for; None and nothing leave all in.

    Attributes:
        recipe: Inspected by it.
        verdict: That ended so.
        serial: Of this part.
        tags: That have all of these keys.
        since_s: That came then or later, in seconds since 1970.
        until_s: That came before.
    """

    recipe: str | None = None
    verdict: Verdict | None = None
    serial: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    since_s: float | None = None
    until_s: float | None = None


@dataclass(frozen=True)
class Alarm:
    """What the drift alarm has said."""

    recipe: str
    time_s: float
    sentence: str


class Store:
    """Inspections, what receivers have not got yet, and alarms; threads may share it.

    Args:
        engine: Of an open database that has all tables.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reader = engine.execution_options(**{_READING: True})

    @classmethod
    def open(cls, place: str) -> Self:
        """Open a database, make it if it is missing, and bring it to the tables of this release.

        Args:
            place: The path of an SQLite file, or the URL of a database.

        Raises:
            StoreError: It cannot be opened, is of a newer release, or no database.
            MissingExtraError: What talks to such a database is not installed.
            UsageError: It is no URL that is understood.
        """
        engine = _connect(place)
        try:
            with engine.begin() as connection:
                _migrate(connection, place)
        except SQLAlchemyError as error:
            raise StoreError(f"{_name(place)} cannot be opened: {_reason(error)}.") from error
        return cls(engine)

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def accept(self, arrivals: Sequence[Arrival]) -> list[Arrival | Inspection]:
        """Write down what came, in one transaction.

        Returns:
            For each: itself when it is new; what came before under its source and key and has no
            verdict; the inspection, when that has one.
        """
        return self.write(arrivals, (), {})[0]

    def finish(
        self, found: Sequence[Inspection], sinks: Mapping[str, Sequence[str]]
    ) -> list[Inspection]:
        """Write verdicts, and what is to be sent of them, in one transaction.

        Args:
            found: Of arrivals that were accepted.
            sinks: Who receives the inspections of a recipe.

        Returns:
            What the database says of each: the first verdict that was written stays.
        """
        return self.write((), found, sinks)[1]

    def write(
        self,
        arrivals: Sequence[Arrival],
        found: Sequence[Inspection],
        sinks: Mapping[str, Sequence[str]],
    ) -> tuple[list[Arrival | Inspection], list[Inspection]]:
        """Do ``accept`` and ``finish`` in one transaction."""
        with self._engine.begin() as connection:
            accepted = _accept(connection, arrivals)
            return accepted, [_finish(connection, one, sinks) for one in found]

    def list_pending(self) -> list[Arrival]:
        """What came and has no verdict, in the order in which it came."""
        query = (
            sa.select(inspections).where(inspections.c.verdict.is_(None)).order_by(inspections.c.id)
        )
        with self._reader.connect() as connection:
            return [_read_arrival(row) for row in connection.execute(query)]

    def get(self, id: str) -> Inspection | Arrival | None:
        """The inspection of an id, or what came and has no verdict yet."""
        query = sa.select(inspections).where(inspections.c.id == id)
        with self._reader.connect() as connection:
            row = connection.execute(query).first()
            if row is None:
                return None
            return _read(connection, [row])[0] if row.verdict else _read_arrival(row)

    def find(
        self, wanted: Filter | None = None, limit: int = 50, before: str | None = None
    ) -> list[Inspection]:
        """Inspections that have a verdict, the newest first.

        Args:
            wanted: Which.
            limit: How many, at most.
            before: An id; only what came before it.
        """
        query = sa.select(inspections).where(inspections.c.verdict.is_not(None))
        query = _narrow(query, wanted or Filter())
        if before is not None:
            query = query.where(inspections.c.id < before)
        query = query.order_by(inspections.c.id.desc()).limit(limit)
        with self._reader.connect() as connection:
            return _read(connection, connection.execute(query).all())

    def count_verdicts(self, wanted: Filter | None = None) -> dict[Verdict, int]:
        """How many inspections ended in each verdict."""
        query = sa.select(inspections.c.verdict, sa.func.count()).where(
            inspections.c.verdict.is_not(None)
        )
        query = _narrow(query, wanted or Filter()).group_by(inspections.c.verdict)
        with self._reader.connect() as connection:
            found: dict[str, int] = dict(connection.execute(query).tuples().all())
        return {verdict: found.get(verdict.value, 0) for verdict in Verdict}

    def take_outbox(self, sink: str, n_most: int) -> list[Inspection]:
        """What a receiver has not got yet, in the order in which it was finished."""
        query = (
            sa.select(inspections)
            .join(outbox, outbox.c.inspection == inspections.c.id)
            .where(outbox.c.sink == sink)
            .order_by(outbox.c.number)
            .limit(min(n_most, _MOST))
        )
        with self._reader.connect() as connection:
            return _read(connection, connection.execute(query).all())

    def mark_delivered(self, sink: str, ids: Iterable[str]) -> None:
        """Note that a receiver has got inspections for good."""
        query = sa.delete(outbox).where(outbox.c.sink == sink, outbox.c.inspection.in_(list(ids)))
        with self._engine.begin() as connection:
            connection.execute(query)

    def count_outbox(self, sink: str) -> int:
        """How many inspections a receiver has not got yet."""
        query = sa.select(sa.func.count()).where(outbox.c.sink == sink)
        with self._reader.connect() as connection:
            return connection.execute(query).scalar_one()

    def add_alarm(self, alarm: Alarm) -> None:
        """Write down an alarm."""
        with self._engine.begin() as connection:
            connection.execute(sa.insert(alarms).values(asdict(alarm)))

    def list_alarms(self, limit: int = 50) -> list[Alarm]:
        """Alarms, the newest first."""
        query = sa.select(alarms).order_by(alarms.c.number.desc()).limit(limit)
        with self._reader.connect() as connection:
            return [
                Alarm(row.recipe, row.time_s, row.sentence) for row in connection.execute(query)
            ]

    def record_model(self, recipe: str, sha256: str, words: str, time_s: float) -> None:
        """Note that a recipe has a model from now on; nothing when it has it already."""
        last = (
            sa.select(recipes.c.model_sha256)
            .where(recipes.c.name == recipe)
            .order_by(recipes.c.number.desc())
            .limit(1)
        )
        with self._engine.begin() as connection:
            if connection.execute(last).scalar() == sha256:
                return
            model = {"sha256": sha256, "words": words, "first_s": time_s}
            connection.execute(_insert_new(connection, models, model))
            values = {"name": recipe, "model_sha256": sha256, "since_s": time_s}
            connection.execute(sa.insert(recipes).values(values))

    def read_state(self, key: str) -> str | None:
        """What was written under a key; None when nothing was."""
        query = sa.select(states.c.text).where(states.c.key == key)
        with self._reader.connect() as connection:
            return connection.execute(query).scalar()

    def write_state(self, key: str, text: str) -> None:
        """Write a text under a key, in place of what was there."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(states).where(states.c.key == key))
            connection.execute(sa.insert(states).values(key=key, text=text))


def _connect(place: str) -> Engine:
    url = place if "://" in place else f"sqlite:///{Path(place).absolute()}"
    try:
        if url.startswith(f"{_SQLITE}:"):
            return _connect_sqlite(url)
        if url.startswith("postgresql:"):
            url = url.replace("postgresql:", "postgresql+psycopg:", 1)
        return sa.create_engine(url, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        if error.name == "psycopg":
            raise MissingExtraError("psycopg", "postgresql") from error
        raise UsageError(
            f"What talks to {_name(place)} is not installed ({error.name}). Name an SQLite file, "
            "or a postgresql:// database."
        ) from error
    except (ArgumentError, NoSuchModuleError) as error:
        raise UsageError(
            f"{_name(place)} is no database that is understood. Name an SQLite file, or a URL such "
            "as postgresql://user@host/database."
        ) from error


def _connect_sqlite(url: str) -> Engine:
    path = sa.make_url(url).database
    if path and path != ":memory:":
        folder = Path(path).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{folder} cannot be made: {error.strerror}.") from error
    engine = sa.create_engine(url, connect_args={"timeout": _BUSY_S, "check_same_thread": False})

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # ours begin, below: sqlite3's own come too late
        for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {setting}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # One that reads first and writes then would fail where another has written between.
        is_reading = connection.get_execution_options().get(_READING)
        connection.exec_driver_sql("BEGIN" if is_reading else "BEGIN IMMEDIATE")

    return engine


def _migrate(connection: Connection, place: str) -> None:
    """Bring a database to the tables of this release."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    script = ScriptDirectory.from_config(config)
    known = {one.revision for one in script.walk_revisions()}
    current = MigrationContext.configure(connection).get_current_revision()
    if current == script.get_current_head():
        return
    if current is not None and current not in known:
        raise StoreError(
            f"{_name(place)} has the tables of a newer release ({current}), but this one knows "
            f"{script.get_current_head()}. Install the release that wrote it, or a newer one."
        )
    from alembic import command

    command.upgrade(config, "head")


def _accept(connection: Connection, arrivals: Sequence[Arrival]) -> list[Arrival | Inspection]:
    accepted: list[Arrival | Inspection] = []
    for one in arrivals:
        query = _insert_new(connection, inspections, asdict(one))
        if connection.execute(query).rowcount:
            accepted.append(one)
            continue
        same = sa.and_(inspections.c.source == one.source, inspections.c.key == one.key)
        known = sa.select(inspections).where(sa.or_(same, inspections.c.id == one.id))
        row = connection.execute(known).one()
        accepted.append(_read(connection, [row])[0] if row.verdict else _read_arrival(row))
    return accepted


def _finish(
    connection: Connection, found: Inspection, sinks: Mapping[str, Sequence[str]]
) -> Inspection:
    arrival = found.arrival
    values = _write_row(found)
    is_pending = sa.and_(inspections.c.id == arrival.id, inspections.c.verdict.is_(None))
    changed = connection.execute(sa.update(inspections).where(is_pending).values(values)).rowcount
    if not changed:
        query = sa.select(inspections).where(inspections.c.id == arrival.id)
        row = connection.execute(query).first()
        if row is None:
            raise StoreError(f"The inspection {arrival.id} was never accepted.")
        return _read(connection, [row])[0]
    if found.findings is not None and found.findings.regions:
        rows = [
            {"inspection": arrival.id, "place": place, **asdict(region)}
            for place, region in enumerate(found.findings.regions)
        ]
        connection.execute(sa.insert(regions), rows)
    receivers = sinks.get(arrival.recipe, ())
    if receivers:
        rows = [{"sink": sink, "inspection": arrival.id} for sink in receivers]
        connection.execute(sa.insert(outbox), rows)
    return found


def _write_row(found: Inspection) -> dict[str, object]:
    """The columns that a verdict fills."""
    findings, took = found.findings, found.took
    row: dict[str, object] = {
        "verdict": found.verdict.value,
        "reason": found.reason,
        "finished_s": found.finished_s,
        "image_sha256": found.image_sha256,
        "image_bytes": found.image_bytes,
        "queue_ms": took.queue,
        "decode_ms": took.decode,
        "score_ms": took.score,
    }
    if findings is not None:
        row |= {
            "model_sha256": findings.model_sha256,
            "score": findings.score,
            "p_value": findings.p_value,
            "threshold": findings.threshold,
            "threshold_kind": findings.threshold_kind,
            "label": findings.label,
            "level_scores": list(findings.level_scores),
            "monitor": findings.monitor,
        }
    return row


def _read_arrival(row: Row[Any]) -> Arrival:
    return Arrival(row.id, row.recipe, row.time_s, row.source, row.key, row.serial, row.tags)


def _read(connection: Connection, rows: Sequence[Row[Any]]) -> list[Inspection]:
    """What rows that have a verdict say."""
    found: dict[str, list[Region]] = {row.id: [] for row in rows}
    query = sa.select(regions).where(regions.c.inspection.in_(found)).order_by(regions.c.place)
    for row in connection.execute(query):
        found[row.inspection].append(convert(row._mapping, Region, from_attributes=True))
    return [_read_row(row, tuple(found[row.id])) for row in rows]


def _read_row(row: Row[Any], found: tuple[Region, ...]) -> Inspection:
    findings = None
    if row.score is not None:
        findings = Findings(
            row.model_sha256,
            row.score,
            row.p_value,
            row.threshold,
            row.threshold_kind,
            row.label,
            found,
            tuple(row.level_scores),
            row.monitor,
        )
    return Inspection(
        _read_arrival(row),
        Verdict(row.verdict),
        row.finished_s,
        row.reason,
        row.image_sha256,
        row.image_bytes,
        findings,
        Milliseconds(row.queue_ms, row.decode_ms, row.score_ms),
    )


def _narrow(query: sa.Select[Any], wanted: Filter) -> sa.Select[Any]:
    """Ask for what a filter leaves in."""
    columns = inspections.c
    if wanted.recipe is not None:
        query = query.where(columns.recipe == wanted.recipe)
    if wanted.verdict is not None:
        query = query.where(columns.verdict == wanted.verdict.value)
    if wanted.serial is not None:
        query = query.where(columns.serial == wanted.serial)
    if wanted.since_s is not None:
        query = query.where(columns.time_s >= wanted.since_s)
    if wanted.until_s is not None:
        query = query.where(columns.time_s < wanted.until_s)
    for name, value in wanted.tags.items():
        query = query.where(columns.tags[name].as_string() == value)
    return query


def _insert_new(connection: Connection, table: sa.Table, values: Mapping[str, object]) -> sa.Insert:
    """Insert a row, or nothing where its keys are taken."""
    if connection.dialect.name == _SQLITE:
        return sqlite.insert(table).values(values).on_conflict_do_nothing()
    return postgresql.insert(table).values(values).on_conflict_do_nothing()


def _name(place: str) -> str:
    """A database as a message names it, without its password."""
    with suppress(ArgumentError):
        if "://" in place:
            return sa.make_url(place).render_as_string(hide_password=True)
    return place


def _reason(error: SQLAlchemyError) -> str:
    """Why a database did not do what was asked, in one line."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return " ".join(str(cause).split()).rstrip(".")
