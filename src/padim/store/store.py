"""The database of a station: each arrival has one row, and each row gets one verdict."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import Self

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from padim.store.database import (
    StoreError,
    hold_station,
    insert_new,
    make_reader,
    open_database,
    open_to_read,
    telling,
)
from padim.store.filter import Filter, narrow
from padim.store.inspection import Arrival, Inspection, Verdict, make_storable
from padim.store.rows import (
    END,
    read_arrival,
    read_rows,
    shorten_arrival,
    split,
    write_row,
)
from padim.store.tables import alarms, inspections, models, outbox, recipes, regions, states

_MOST = 1000  # rows of one question
_PENDING = (
    sa.select(inspections.c.id)
    .where(
        inspections.c.id.in_(sa.bindparam("ids", expanding=True)), inspections.c.verdict.is_(None)
    )
    .order_by(inspections.c.id)
    .with_for_update()
)


@dataclass(frozen=True)
class Alarm:
    """What the drift alarm has said.

    Attributes:
        recipe: Of which recipe.
        time_s: When, in seconds since 1970.
        sentence: Since when, what, how improbable, and where.
        cleared_s: When somebody saw to it; None while nobody has.
    """

    recipe: str
    time_s: float
    sentence: str
    cleared_s: float | None = None


class Store:
    """Inspections, what receivers have not got yet, and alarms; threads may share it.

    Args:
        engine: Of an open database that has all tables.
        station: Whose alarms, models and states these are, where several share a database.
    """

    def __init__(self, engine: Engine, station: str = "") -> None:
        self._engine = engine
        self._station = make_storable(station)
        self._reader = make_reader(engine)

    @classmethod
    def open(cls, place: str, station: str = "") -> Self:
        """Open a database, make it if it is missing, and bring it to the tables of this release.

        Args:
            place: The path of an SQLite file, or the URL of a database.
            station: Whose alarms, models and states these are, where several share a database.

        Raises:
            StoreError: It cannot be opened, is of a newer release, or no database.
            MissingExtraError: What talks to such a database is not installed.
            UsageError: It is no path or URL of a database.
        """
        return cls(open_database(place), station)

    @classmethod
    def open_to_read(cls, place: str) -> Self:
        """Open a database that is there, and write nothing into it: what writes fails.

        Raises:
            As ``open``; also a `StoreError` when its tables are of an older release.
        """
        return cls(open_to_read(place))

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def hold(self) -> AbstractContextManager[Callable[[], bool]]:
        """Be the only service in a ``with`` block that writes here as this station.

        What it gives says whether it still is.

        Raises:
            PadimError: Another service does.
        """
        return hold_station(self._engine, self._station)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with telling(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with telling(), self._reader.connect() as connection:
            yield connection

    def accept(self, arrivals: Sequence[Arrival]) -> list[Arrival | Inspection]:
        """Write down what came, in one transaction.

        Returns:
            For each: itself when it is new; what came before under its source and key and has no
            verdict; the inspection, when that has one. Text that no database takes is replaced.
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
        """Do ``accept`` and ``finish`` in one transaction.

        Raises:
            UnavailableError: The database cannot be written now, and nothing was.
            StoreError: It will never take this, or what ends was never accepted. Nothing was
                written.
        """
        with self._writing() as connection:
            accepted = _accept(connection, arrivals)
            own = {
                recipe: [self._own(sink) for sink in sinks.get(recipe, ())]
                for recipe in {one.arrival.recipe for one in found}
            }
            return accepted, _finish(connection, found, own)

    def _own(self, sink: str) -> str:
        """A sink of this station, as the outbox knows it: others may have one of the same name."""
        return f"{self._station}/{sink}" if self._station else sink

    def list_pending(self) -> list[Arrival]:
        """What came and has no verdict, in the order in which it came."""
        query = (
            sa.select(inspections).where(inspections.c.verdict.is_(None)).order_by(inspections.c.id)
        )
        with self._reading() as connection:
            return [read_arrival(row) for row in connection.execute(query)]

    def get(self, id: str) -> Inspection | Arrival | None:
        """The inspection of an id, or what came and has no verdict yet."""
        query = sa.select(inspections).where(inspections.c.id == make_storable(id))
        with self._reading() as connection:
            row = connection.execute(query).first()
            if row is None:
                return None
            return read_rows(connection, [row])[0] if row.verdict else read_arrival(row)

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
        query = narrow(query, wanted or Filter(), self._engine.dialect.name)
        if before is not None:
            query = query.where(inspections.c.id < make_storable(before))
        query = query.order_by(inspections.c.id.desc()).limit(limit)
        with self._reading() as connection:
            return read_rows(connection, connection.execute(query).all())

    def count_verdicts(self, wanted: Filter | None = None) -> dict[Verdict, int]:
        """How many inspections ended in each verdict."""
        query = sa.select(inspections.c.verdict, sa.func.count()).where(
            inspections.c.verdict.is_not(None)
        )
        query = narrow(query, wanted or Filter(), self._engine.dialect.name).group_by(
            inspections.c.verdict
        )
        with self._reading() as connection:
            found = {row[0]: row[1] for row in connection.execute(query)}
        return {verdict: found.get(verdict.value, 0) for verdict in Verdict}

    def take_outbox(self, sink: str, n_most: int) -> list[Inspection]:
        """What a receiver has not got yet, in the order in which it was finished."""
        query = (
            sa.select(inspections)
            .join(outbox, outbox.c.inspection == inspections.c.id)
            .where(outbox.c.sink == self._own(sink))
            .order_by(outbox.c.number)
            .limit(min(n_most, _MOST))
        )
        with self._reading() as connection:
            return read_rows(connection, connection.execute(query).all())

    def mark_delivered(self, sink: str, ids: Iterable[str]) -> None:
        """Note that a receiver has got inspections for good."""
        with self._writing() as connection:
            for some in split(list(ids)):
                is_sent = sa.and_(outbox.c.sink == self._own(sink), outbox.c.inspection.in_(some))
                connection.execute(sa.delete(outbox).where(is_sent))

    def count_outbox(self, sink: str) -> int:
        """How many inspections a receiver has not got yet."""
        query = sa.select(sa.func.count()).where(outbox.c.sink == self._own(sink))
        with self._reading() as connection:
            return connection.execute(query).scalar_one()

    def add_alarm(self, alarm: Alarm) -> None:
        """Write down an alarm."""
        with self._writing() as connection:
            values = {"station": self._station, **asdict(alarm)}
            connection.execute(sa.insert(alarms).values(values))

    def list_open_alarms(self) -> list[Alarm]:
        """Alarms that nobody has cleared, the oldest first."""
        query = sa.select(alarms).where(self._is_open()).order_by(alarms.c.number)
        with self._reading() as connection:
            return [
                Alarm(row.recipe, row.time_s, row.sentence, row.cleared_s)
                for row in connection.execute(query)
            ]

    def clear_alarms(self, recipe: str, time_s: float) -> None:
        """Note that somebody has seen to the alarms of a recipe."""
        is_open = sa.and_(self._is_open(), alarms.c.recipe == recipe)
        with self._writing() as connection:
            connection.execute(sa.update(alarms).where(is_open).values(cleared_s=time_s))

    def _is_open(self) -> sa.ColumnElement[bool]:
        return sa.and_(alarms.c.station == self._station, alarms.c.cleared_s.is_(None))

    def record_model(self, recipe: str, sha256: str, words: str, time_s: float) -> None:
        """Note that a recipe has a model from now on; nothing when it has it already."""
        last = (
            sa.select(recipes.c.model_sha256)
            .where(recipes.c.station == self._station, recipes.c.name == recipe)
            .order_by(recipes.c.number.desc())
            .limit(1)
        )
        with self._writing() as connection:
            if connection.execute(last).scalar() == sha256:
                return
            model = {"sha256": sha256, "words": words, "first_s": time_s}
            connection.execute(insert_new(connection, models), [model])
            new = sa.insert(recipes).values(
                station=self._station, name=recipe, model_sha256=sha256, since_s=time_s
            )
            connection.execute(new)

    def read_state(self, key: str) -> str | None:
        """What was written under a key; None when nothing was."""
        query = sa.select(states.c.text).where(self._has_key(key))
        with self._reading() as connection:
            return connection.execute(query).scalar()

    def write_state(self, key: str, text: str) -> None:
        """Write a text under a key, in place of what was there."""
        with self._writing() as connection:
            connection.execute(sa.delete(states).where(self._has_key(key)))
            new = sa.insert(states).values(station=self._station, key=key, text=text)
            connection.execute(new)

    def _has_key(self, key: str) -> sa.ColumnElement[bool]:
        return sa.and_(states.c.station == self._station, states.c.key == key)


def _accept(connection: Connection, arrivals: Sequence[Arrival]) -> list[Arrival | Inspection]:
    if not arrivals:
        return []
    arrivals = [shorten_arrival(one) for one in arrivals]
    new = insert_new(connection, inspections).returning(inspections.c.id)
    written = set(connection.execute(new, [vars(one) for one in arrivals]).scalars())
    accepted: list[Arrival | Inspection] = []
    for one in arrivals:
        is_new = one.id in written
        written.discard(one.id)  # that comes twice in one call
        accepted.append(one if is_new else _look_up(connection, one))
    return accepted


def _look_up(connection: Connection, arrival: Arrival) -> Arrival | Inspection:
    """What is known under the source and key of an arrival, or else under its id.

    It has its id when it was written before, but nobody was told: a server went while it did.
    """
    columns = inspections.c
    row = None
    if arrival.key is not None:
        is_same = sa.and_(columns.source == arrival.source, columns.key == arrival.key)
        row = connection.execute(sa.select(inspections).where(is_same)).one_or_none()
    if row is None:
        query = sa.select(inspections).where(columns.id == arrival.id)
        row = connection.execute(query).one()
    return read_rows(connection, [row])[0] if row.verdict else read_arrival(row)


def _finish(
    connection: Connection, found: Sequence[Inspection], sinks: Mapping[str, Sequence[str]]
) -> list[Inspection]:
    first = {one.arrival.id: one for one in reversed(found)}
    if not first:
        return []
    ids = _lock_pending(connection, first)
    new = [one for id, one in first.items() if id in ids]
    if new:
        connection.execute(END, [write_row(one) for one in new])
    shown = [
        {"inspection": one.arrival.id, "place": place, **vars(region)}
        for one in new
        if one.findings is not None
        for place, region in enumerate(one.findings.regions)
    ]
    if shown:
        connection.execute(sa.insert(regions), shown)
    sent = [
        {"sink": sink, "inspection": one.arrival.id}
        for one in found
        if first[one.arrival.id] is one and one.arrival.id in ids
        for sink in sinks.get(one.arrival.recipe, ())
    ]
    if sent:
        connection.execute(sa.insert(outbox), sent)
    if len(new) == len(found):
        return list(found)
    known = _read_ended(connection, first)
    for id in first:
        if id not in known:
            raise StoreError(f"The inspection {id} was never accepted.")
    return [known[one.arrival.id] for one in found]


def _lock_pending(connection: Connection, ids: Iterable[str]) -> set[str]:
    """Those of some rows that have no verdict, which nobody else gives them now."""
    pending: set[str] = set()
    for some in split(sorted(ids)):  # in one order, so that no two wait for each other
        pending.update(connection.execute(_PENDING, {"ids": some}).scalars())
    return pending


def _read_ended(connection: Connection, ids: Iterable[str]) -> dict[str, Inspection]:
    """Those of some rows that have a verdict, by their ids."""
    found: list[Inspection] = []
    for some in split(list(ids)):
        query = sa.select(inspections).where(
            inspections.c.id.in_(some), inspections.c.verdict.is_not(None)
        )
        found += read_rows(connection, connection.execute(query).all())
    return {one.arrival.id: one for one in found}
