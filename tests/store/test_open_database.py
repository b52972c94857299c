"""What is opened, what is refused and by which sentence, and how a database is made."""

import multiprocessing
import re
import sqlite3
import subprocess
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from inspections import make_arrival

from padim.errors import MissingExtraError, PathMissingError, UsageError
from padim.store.database import StoreError, UnavailableError, open_database
from padim.store.store import Store
from padim.store.tables import metadata

PAGE = Path(__file__).parents[2] / "docs/reference/history.md"


def test_steps_make_the_tables_that_are_used(place: str) -> None:
    engine = open_database(place)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        found = sa.inspect(connection)
        for table in metadata.tables.values():
            indexes = {one["name"] for one in found.get_indexes(table.name)}
            assert {one.name for one in table.indexes} <= indexes
    engine.dispose()


def test_a_database_that_is_opened_again_is_as_it_was(place: str) -> None:
    arrival = make_arrival()
    for pending in ([], [arrival]):
        store = Store.open(place)
        assert store.list_pending() == pending
        store.accept([arrival])
        store.close()


def _open_together(place: str, start: Barrier) -> None:
    start.wait(60)
    Store.open(place).close()


def test_processes_may_make_one_database_at_once(place: str) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(4)
    processes = [context.Process(target=_open_together, args=(place, start)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [one.exitcode for one in processes] == [0] * 4


def test_who_reads_writes_nothing(place: str) -> None:
    store = Store.open(place)
    arrival = make_arrival()
    store.accept([arrival])
    reader = Store.open_to_read(place)
    assert reader.list_pending() == [arrival]
    if "://" not in place:
        with pytest.raises(UnavailableError, match="readonly"):
            reader.write_state("a", "b")
    reader.close()
    store.close()


def test_who_reads_makes_no_database(tmp_path: Path, place: str) -> None:
    with pytest.raises(PathMissingError, match="does not exist"):
        Store.open_to_read(str(tmp_path / "none.db"))
    if "://" in place:
        with pytest.raises(StoreError, match="holds no inspections"):
            Store.open_to_read(place)
    else:
        sqlite3.connect(place).close()
        Path(place).touch()
        with pytest.raises(StoreError, match="holds no inspections"):
            Store.open_to_read(place)
        assert not Path(place).read_bytes()


def test_a_copy_is_read_where_nothing_can_be_written(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "history.db"))
    arrival = make_arrival()
    store.accept([arrival])
    folder = tmp_path / "copies"
    folder.mkdir()
    with sqlite3.connect(tmp_path / "history.db", isolation_level=None) as connection:
        connection.execute("VACUUM INTO ?", (str(folder / "copy.db"),))
    connection.close()
    store.close()
    reader = Store.open_to_read(str(folder / "copy.db"))
    assert reader.list_pending() == [arrival]
    reader.close()
    assert [one.name for one in folder.iterdir()] == ["copy.db"]


@pytest.mark.parametrize("name", ["a?b#c %41.db", "ä “.db", "mode=ro.db"])
def test_a_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    Store.open(str(tmp_path / "new folder" / name)).close()
    Store.open_to_read(str(tmp_path / "new folder" / name)).close()
    assert name in [one.name for one in (tmp_path / "new folder").iterdir()]


def test_tables_of_another_program_are_left_alone(place: str) -> None:
    engine = sa.create_engine(
        place.replace("postgresql:", "postgresql+psycopg:")
        if "://" in place
        else f"sqlite:///{place}"
    )
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE models (a INTEGER)"))
    with pytest.raises(StoreError, match=r"tables of another program \(models\)"):
        Store.open(place)
    with engine.connect() as connection:
        assert sa.inspect(connection).get_table_names() == ["models"]
    engine.dispose()


def set_revision(place: str, revision: str) -> None:
    engine = open_database(place)
    with engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE alembic_version SET version_num = '{revision}'"))
    engine.dispose()


def test_a_database_of_a_newer_release_is_refused(place: str) -> None:
    set_revision(place, "9999")
    with pytest.raises(StoreError, match=r"newer release \(9999\)"):
        Store.open(place)
    with pytest.raises(StoreError, match=r"newer release \(9999\)"):
        Store.open_to_read(place)


def test_who_reads_changes_no_tables_of_an_older_release(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store.open(place).close()
    monkeypatch.setattr(ScriptDirectory, "get_current_head", lambda _self: "0002")
    with pytest.raises(StoreError, match=r"an older release \(0001\), but this one reads 0002"):
        Store.open_to_read(place)


def test_what_talks_to_a_server_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=re.escape("padim-efficientnet[postgresql]")):
        Store.open("postgresql://padim@127.0.0.1:1/x")


def test_the_page_has_each_column_and_its_copy_is_whole(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for table in metadata.tables.values():
        (row,) = re.findall(rf"^\| `{table.name}` \|.*\| (.*) \|$", page, re.MULTILINE)
        assert row == ", ".join(f"`{column.name}`" for column in table.columns)
    (command,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    store = Store.open(str(tmp_path / "padim-data/history.db"))
    arrival = make_arrival()
    store.accept([arrival])
    subprocess.run([sys.executable, "-c", command], cwd=tmp_path, check=True)
    copy = Store.open_to_read(str(tmp_path / "copy.db"))
    assert copy.list_pending() == [arrival]
    copy.close()
    store.close()


def test_the_nouns_load_no_database() -> None:
    loaded = "sorted({'sqlalchemy', 'alembic'} & set(sys.modules))"
    code = f"import sys, padim.store.inspection; print({loaded})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("place", "error", "words"),
    [
        ("{tmp}", UsageError, "is a folder, but a file is needed"),
        ("{tmp}/text", StoreError, "file is not a database"),
        ("postgresql://user:secret@127.0.0.1:1/x", StoreError, r"user:\*\*\*@127.0.0.1:1/x"),
        ("sqlite://", UsageError, "names no file"),
        ("mongodb://x/y", UsageError, "no database that is understood"),
        ("mysql://x/y", UsageError, "is not installed"),
    ],
)
def test_what_cannot_be_opened_is_told_in_a_sentence(
    tmp_path: Path, place: str, error: type[Exception], words: str
) -> None:
    (tmp_path / "text").write_text("This is a text, and no database." * 100)
    for opening in (Store.open, Store.open_to_read):
        with pytest.raises(error, match=words) as told:
            opening(place.format(tmp=tmp_path))
    assert "\n" not in str(told.value)
    assert "secret" not in str(told.value)
