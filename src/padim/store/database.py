"""A database: opened, made if it is missing, and brought to the tables of this release."""

import sqlite3
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from padim.errors import MissingExtraError, PadimError, UsageError

_MIGRATIONS = Path(__file__).with_name("migrations")
_BUSY_S = 30  # to wait for another process that writes
_SQLITE = "sqlite"
_READING = "padim_reading"  # option of a connection that writes nothing


class StoreError(PadimError):
    """A database cannot be opened, read or written."""


def open_database(place: str) -> Engine:
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
    except BaseException as error:
        engine.dispose()
        if not isinstance(error, SQLAlchemyError):
            raise
        raise StoreError(f"{_name(place)} cannot be opened: {_reason(error)}.") from error
    return engine


def make_reader(engine: Engine) -> Engine:
    """The same database for what writes nothing, and waits for nobody who writes."""
    return engine.execution_options(**{_READING: True})


def insert_new(connection: Connection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """Insert rows, but those whose keys are taken."""
    if connection.dialect.name == _SQLITE:
        return sqlite.insert(table).on_conflict_do_nothing()
    return postgresql.insert(table).on_conflict_do_nothing()


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
