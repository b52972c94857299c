"""What a kill, a full disk, a server that goes and a second station do to the promise: nothing."""

import random
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pytest
import sqlalchemy as sa
from inspections import end, make_arrival
from postgres import find_binaries, run_server

from padim.store.inspection import Arrival, Inspection, Verdict, refuse
from padim.store.store import Store
from padim.store.writer import Writer

FOLDER = Path(__file__).parent
ENVIRONMENT = {"PYTHONPATH": str(FOLDER.parent)}


def write_until_killed(place: str, number: int, delay_s: float) -> list[list[str]]:
    """Let a process write for a while, kill it, and give what it had been told by then."""
    command = [sys.executable, str(FOLDER / "killed.py"), place, str(number)]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        timer = threading.Timer(delay_s, process.kill)
        timer.start()
        lines += process.stdout
        assert process.wait(60) < 0
        timer.join()
    return [line.split() for line in lines if line.endswith("\n")]  # the last may be half of one


@pytest.mark.slow
def test_what_a_killed_process_was_told_is_in_the_database(place: str) -> None:
    drawn = random.Random(7)
    told: list[list[str]] = []
    for number in range(5):
        told += write_until_killed(place, number, drawn.uniform(0.0, 0.5))
        store = Store.open(place)
        pending = {one.id for one in store.list_pending()}
        ended = {one.arrival.id: one for one in store.find(limit=1_000_000)}
        assert not pending & set(ended)
        assert store.count_outbox("file") == len(ended)
        store.close()
        for word, id, *verdict in told:
            if word == "accepted":
                assert id in pending or id in ended
            else:
                assert ended[id].verdict.name == verdict[0]
        assert all(one.findings == end(one.arrival, one.verdict).findings for one in ended.values())
    assert len(told) > 50
    if "://" not in place:
        with sqlite3.connect(place) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of a file's size")
def test_a_disk_that_is_full_for_a_while_loses_nothing(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "full.py"), str(tmp_path / "history.db")]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("The database cannot be used: ")
    assert done.stdout.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(find_binaries() is None, reason="this machine has no PostgreSQL")
def test_a_server_that_goes_and_comes_back_loses_nothing() -> None:
    with run_server() as server:
        store = Store.open(server.url)
        writer = Writer(store, {"part": ("file",)})
        told: list[Future[Inspection]] = []
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                arrival = writer.accept(make_arrival()).result(60)
                assert isinstance(arrival, Arrival)
                told.append(writer.finish(end(arrival, Verdict.OK)))

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(2):
            time.sleep(0.4)
            server.stop()
            while not writer.trouble:
                time.sleep(0.01)
            server.start()
            while writer.trouble:
                time.sleep(0.01)
        stop.set()
        for thread in threads:
            thread.join()
        found = [one.result(60) for one in told]
        assert writer.close(60)
        assert sorted(one.arrival.id for one in found) == sorted(
            one.arrival.id for one in store.find(limit=1_000_000)
        )
        assert store.list_pending() == []
        assert store.count_outbox("file") == len(found) > 20
        store.close()


def test_two_stations_on_one_database_give_one_verdict(place: str) -> None:
    """As when a source brings a part to a station while another still inspects it."""
    stores = [Store.open(place) for _ in range(2)]
    writers = [Writer(one, {"part": ("file",)}) for one in stores]
    n_keys = 60
    told: list[list[Inspection]] = [[], []]

    def work(station: int) -> None:
        keys = list(range(n_keys))
        random.Random(station).shuffle(keys)
        for key in keys:
            accepted = writers[station].accept(make_arrival(key=str(key))).result(60)
            if isinstance(accepted, Arrival):
                accepted = writers[station].finish(refuse(accepted, f"By {station}.")).result(60)
            told[station].append(accepted)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = {one.arrival.key: one for one in stores[0].find(limit=1000)}
    assert len(found) == n_keys
    for told_one in told:
        assert {one.arrival.key: one for one in told_one} == found
    assert stores[1].count_outbox("file") == n_keys
    assert stores[1].list_pending() == []
    for writer, store in zip(writers, stores, strict=True):
        assert writer.close(60)
        store.close()


def test_another_process_that_writes_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    store = Store.open(str(path))
    writer = Writer(store, {})
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    accepted = writer.accept(make_arrival())
    with pytest.raises(TimeoutError):
        accepted.result(0.5)
    other.execute("ROLLBACK")
    other.close()
    assert accepted.result(60)
    assert not writer.trouble
    assert writer.close(60)
    store.close()


def test_settings_hold_on_a_connection_that_is_used_again(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "history.db"))
    names = ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
    for _ in range(3):
        with store._engine.connect() as first, store._reader.connect() as second:
            for connection in (first, second):
                found = {
                    name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names
                }
                assert found == dict(zip(names, ("wal", 2, 30_000, 1), strict=True))
    with pytest.raises(sa.exc.IntegrityError), store._engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO outbox (sink, inspection) VALUES ('a', 'none')")
    store.close()
