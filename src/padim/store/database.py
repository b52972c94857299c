"""A database: opened, made if it is missing, and brought to the tables of this release."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    SQLAlchemyError,
)

from padim.errors import MissingExtraError, PadimError, PathMissingError, UsageError
from padim.files import lock
from padim.store.tables import metadata

_MIGRATIONS = Path(__file__).with_name("migrations")
_BUSY_S = 30  # to wait for another process that writes
_SQLITE = "sqlite"
_READING = "padim_reading"  # option of a connection that writes nothing
_MIGRATING = 0x7061_6469_6D  # the lock of whoever changes tables: "padim"
_SERVING = 0x7061_6469  # the first half of the lock of a station: "padi"
_IS_HELD = "55P03"  # lock_not_available
# Of what holds it: how long to wait for a service that has just been killed, and when the server
# is to see that a machine is gone.
_HOLDING = {
    "lock_timeout": "5s",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
# A server whose cable is pulled says nothing: without these libpq waits a quarter of an hour.
_SILENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # milliseconds
}


class StoreError(PadimError):
    """A database cannot be opened, or does not take or have what it is asked for."""


class UnavailableError(StoreError):
    """A database cannot be used now: its disk is full, its server gone, others hold it."""


@contextmanager
def telling() -> Iterator[None]:
    """Say in a sentence what a database did not do in a ``with`` block.

    Raises:
        UnavailableError: It may do so later.
        StoreError: It will never take what it was given.
    """
    try:
        yield
    except (DataError, IntegrityError) as error:
        raise StoreError(f"The database does not take this: {_reason(error)}.") from error
    except (DBAPIError, sa.exc.TimeoutError) as error:
        raise UnavailableError(f"The database cannot be used: {_reason(error)}.") from error


def open_database(place: str) -> Engine:
    """Open a database, make it if it is missing, and bring it to the tables of this release.

    Args:
        place: The path of an SQLite file, or the URL of a database.

    Raises:
        StoreError: It cannot be opened, is of a newer release, or no database.
        MissingExtraError: What talks to such a database is not installed.
        UsageError: It is no path or URL of a database.
    """
    engine = _connect(place)
    with _opening(engine, place), engine.begin() as connection:
        _migrate(connection, place)
    return engine


def open_to_read(place: str) -> Engine:
    """Open a database that is there, and write nothing into it.

    Raises:
        As ``open_database``; also a StoreError when its tables are of an older release.
    """
    engine = make_reader(_connect(place, is_reading=True))
    with _opening(engine, place), engine.connect() as connection:
        current, head = _find_revision(connection, place)
        if current is None:
            raise StoreError(f"{_name(place)} holds no inspections. Name another database.")
        if current != head:
            raise StoreError(
                f"{_name(place)} has the tables of an older release ({current}), but this one "
                f"reads {head}. Start its service with this release, which changes them."
            )
    return engine


@contextmanager
def _opening(engine: Engine, place: str) -> Iterator[None]:
    """Let go of a database that cannot be opened, and say why."""
    try:
        yield
    except BaseException as error:
        engine.dispose()
        if not isinstance(error, SQLAlchemyError):
            raise
        raise StoreError(f"{_name(place)} cannot be opened: {_reason(error)}.") from error


def make_reader(engine: Engine) -> Engine:
    """The same database for what writes nothing, and waits for nobody who writes."""
    return engine.execution_options(**{_READING: True})


def insert_new(connection: Connection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """Insert rows, but those whose keys are taken."""
    if connection.dialect.name == _SQLITE:
        return sqlite.insert(table).on_conflict_do_nothing()
    return postgresql.insert(table).on_conflict_do_nothing()


@contextmanager
def hold_station(engine: Engine, station: str) -> Iterator[Callable[[], bool]]:
    """Be the only service in a ``with`` block that writes into a database as this station.

    A file takes one service. A server lets go when it loses sight of the service, or restarts.

    Yields:
        What says whether it is still held.

    Raises:
        PadimError: Another service does.
    """
    if engine.dialect.name == _SQLITE:
        path = Path(str(engine.url.database))
        doing = f"serves with {path}. Give this one another database, or both one of PostgreSQL"
        with lock(path.with_name(f"{path.name}.lock"), doing):
            yield lambda: True
        return
    with engine.connect() as connection:
        connection.detach()  # so that the lock goes with it
        try:
            for setting, value in _HOLDING.items():
                connection.execute(sa.select(sa.func.set_config(setting, value, False)))
            key = sa.func.hashtext(station)
            connection.execute(sa.select(sa.func.pg_advisory_lock(_SERVING, key)))
            connection.commit()
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != _IS_HELD:
                raise StoreError(f"{engine.url} cannot be held: {_reason(error)}.") from error
            raise StoreError(
                f"Another service writes as the station {station!r} into this database. Give this "
                "one another name in its station.toml."
            ) from error
        yield partial(_is_alive, connection)


def _is_alive(connection: Connection) -> bool:
    """Whether the server knows a connection still, and so what it holds."""
    try:
        connection.execute(sa.select(1))
        connection.rollback()
    except SQLAlchemyError:
        return False
    return True


def _connect(place: str, *, is_reading: bool = False) -> Engine:
    try:
        if "://" not in place:
            return _connect_sqlite(Path(place).absolute(), is_reading=is_reading)
        url = sa.make_url(place)
        if url.get_backend_name() == _SQLITE:
            if not url.database:
                raise UsageError(f"{place} names no file. Write sqlite:///history.db.")
            return _connect_sqlite(Path(url.database).absolute(), is_reading=is_reading)
        if url.drivername != "postgresql":
            return sa.create_engine(url)
        url = url.set(drivername="postgresql+psycopg")
        own = {name: value for name, value in _SILENCE.items() if name not in url.query}
        return sa.create_engine(url, pool_pre_ping=True, connect_args=own)
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


def _connect_sqlite(path: Path, *, is_reading: bool) -> Engine:
    if path.is_dir() or (is_reading and not path.is_file()):
        raise PathMissingError(path)
    url = sa.URL.create(_SQLITE, database=str(path))
    if is_reading:
        return sa.create_engine(url, creator=partial(_read_sqlite, path), poolclass=sa.QueuePool)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{path.parent} cannot be made: {error.strerror}.") from error
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


def _read_sqlite(path: Path) -> sqlite3.Connection:
    uri = f"{path.as_uri()}?mode=ro"
    return sqlite3.connect(uri, timeout=_BUSY_S, check_same_thread=False, uri=True)


def _migrate(connection: Connection, place: str) -> None:
    """Bring a database to the tables of this release."""
    if connection.dialect.name != _SQLITE:  # there whoever writes is alone
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATING)))
    current, head = _find_revision(connection, place)
    if current == head:
        return
    if current is None:
        names = set(sa.inspect(connection).get_table_names())
        if connection.dialect.name != _SQLITE:  # where tables of others are beside ours
            names &= set(metadata.tables)
        if names:
            raise StoreError(
                f"{_name(place)} has tables of another program ({min(names)}). Name a new database."
            )
    from alembic import command

    command.upgrade(_configure(connection), "head")


def _find_revision(connection: Connection, place: str) -> tuple[str | None, str | None]:
    """Which tables a database has, None when it has none, and which this release has.

    Raises:
        StoreError: They are of a newer release.
    """
    script = ScriptDirectory.from_config(_configure(connection))
    head = script.get_current_head()
    current = MigrationContext.configure(connection).get_current_revision()
    if current not in {None, *(one.revision for one in script.walk_revisions())}:
        raise StoreError(
            f"{_name(place)} has the tables of a newer release ({current}), but this one knows "
            f"{head}. Install the release that wrote it, or a newer one."
        )
    return current, head


def _configure(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _name(place: str) -> str:
    """A database as a message names it, without its password."""
    with suppress(ArgumentError):
        if "://" in place:
            return sa.make_url(place).render_as_string(hide_password=True)
    return place


def _reason(error: SQLAlchemyError) -> str:
    """Why a database did not do what was asked, in one line."""
    cause = error.orig if isinstance(error, DBAPIError) else error.args[0]
    return " ".join(str(cause).split()).rstrip(".")
