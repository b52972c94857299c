import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest
from inspections import end

from padim.line.errors import SinkError, SourceError
from padim.line.protocols import Part
from padim.line.supervisor import Pauses, Supervisor, WorkerState
from padim.store.inspection import Arrival, Inspection, name_inspection
from padim.store.store import Store

SOON = Pauses(0.01, 0.05)


def wait_for(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "it did not come to that in time"
        time.sleep(0.005)


class FakeSource:
    """Brings what it has until it is told to forget it; fails when it is told to."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self.name = "camera"
        self.trouble = ""
        self.keys = list(keys)
        self.taken: set[str] = set()
        self.forgotten: list[str] = []
        self.n_opened = 0
        self.n_closed = 0
        self.failure: Exception | None = None

    def open(self) -> None:
        self.taken = set()
        self.n_opened += 1

    def take(self, n_most: int, timeout_s: float) -> list[Part]:
        if self.failure is not None:
            raise self.failure
        new = [key for key in self.keys if key not in self.taken][:n_most]
        self.taken |= set(new)
        if not new:
            time.sleep(min(timeout_s, 0.01))
        return [Part(b"picture", key, time.time(), "part") for key in new]

    def forget(self, part: Part, _inspection: Inspection) -> None:
        self.keys.remove(part.key)
        self.forgotten.append(part.key)

    def close(self) -> None:
        self.n_closed += 1


class FakeSink:
    def __init__(self, name: str = "table", n_together: int = 3) -> None:
        self.name = name
        self.n_together = n_together
        self.got: list[str] = []
        self.batches: list[int] = []
        self.failure: Exception | None = None
        self.n_opened = 0
        self.n_checked = 0

    def open(self) -> None:
        self.n_opened += 1

    def deliver(self, inspections: Sequence[Inspection]) -> None:
        if self.failure is not None:
            raise self.failure
        self.batches.append(len(inspections))
        self.got += [one.arrival.key or "" for one in inspections]

    def check(self) -> None:
        self.n_checked += 1

    def close(self) -> None:
        pass


class Station:
    """Inspects at once, or when a gate is opened, over a real database."""

    def __init__(self, folder: Path) -> None:
        self.store = Store.open(str(folder / "station.db"))
        self.gate = threading.Event()
        self.gate.set()
        self.n_inside = 0
        self.n_most_inside = 0
        self._lock = threading.Lock()

    def inspect(self, part: Part, source: str) -> Future[Inspection]:
        future: Future[Inspection] = Future()
        with self._lock:
            self.n_inside += 1
            self.n_most_inside = max(self.n_most_inside, self.n_inside)
        threading.Thread(target=self._finish, args=(part, source, future), daemon=True).start()
        return future

    def _finish(self, part: Part, source: str, future: Future[Inspection]) -> None:
        self.gate.wait(10)
        arrival = Arrival(
            name_inspection(time.time()),
            part.recipe,
            part.time_s,
            source,
            part.key,
            part.serial,
            {},
        )
        (was,) = self.store.accept([arrival])
        if isinstance(was, Arrival):
            (was,) = self.store.finish([end(was)], {"part": ("table", "other")})
        with self._lock:
            self.n_inside -= 1
        future.set_result(was)


@pytest.fixture
def station(tmp_path: Path) -> Station:
    return Station(tmp_path)


def state_of(supervisor: Supervisor, name: str) -> WorkerState:
    return next(one for one in supervisor.states if one.name == name)


def end_all(supervisor: Supervisor) -> None:
    assert supervisor.stop_sources()
    assert supervisor.stop_sinks()


def test_parts_become_verdicts_that_every_sink_gets_in_order(station: Station) -> None:
    keys = [str(n) for n in range(10)]
    source, table, other = FakeSource(keys), FakeSink(), FakeSink("other")
    supervisor = Supervisor(station.inspect, station.store, [source], [table, other])
    supervisor.start()
    wait_for(lambda: len(table.got) == 10 and len(other.got) == 10)
    end_all(supervisor)
    assert sorted(source.forgotten) == keys
    assert table.got == other.got
    assert max(table.batches) <= 3
    assert state_of(supervisor, "camera").n_done == 10
    assert station.store.count_outbox("table") == 0


def test_no_more_parts_are_inside_than_may_be(station: Station) -> None:
    station.gate.clear()
    source = FakeSource([str(n) for n in range(20)])
    supervisor = Supervisor(station.inspect, station.store, [source], [], n_open=4)
    supervisor.start()
    wait_for(lambda: station.n_inside == 4)
    time.sleep(0.1)
    assert station.n_inside == 4
    station.gate.set()
    wait_for(lambda: not source.keys)
    end_all(supervisor)
    assert station.n_most_inside == 4


def test_what_fails_is_tried_again_and_says_why(
    station: Station, caplog: pytest.LogCaptureFixture
) -> None:
    source = FakeSource(["a"])
    source.failure = SourceError("The share is gone.")
    supervisor = Supervisor(station.inspect, station.store, [source], [], pauses=SOON)
    assert state_of(supervisor, "camera").status == "waiting"
    supervisor.start()
    wait_for(lambda: source.n_opened > 3)
    state = state_of(supervisor, "camera")
    assert (state.status, state.trouble) == ("failed", "The share is gone.")
    assert state.n_restarts >= 3
    source.failure = None
    wait_for(lambda: source.forgotten == ["a"])
    state = state_of(supervisor, "camera")
    assert (state.status, state.trouble) == ("running", "")
    end_all(supervisor)
    assert source.n_opened == source.n_closed
    assert "source camera: The share is gone. It is tried again" in caplog.text


def test_a_mistake_in_the_code_is_logged_with_its_place(
    station: Station, caplog: pytest.LogCaptureFixture
) -> None:
    source = FakeSource()
    source.failure = ZeroDivisionError("of a mistake\nin two lines")
    supervisor = Supervisor(station.inspect, station.store, [source], [], pauses=SOON)
    supervisor.start()
    wait_for(lambda: source.n_opened > 1)
    end_all(supervisor)
    assert state_of(supervisor, "camera").trouble == "ZeroDivisionError: of a mistake in two lines"
    assert "Traceback" in caplog.text


def test_a_sink_that_fails_loses_nothing_and_holds_nobody_up(station: Station) -> None:
    source, table, other = FakeSource(["a", "b", "c", "d"]), FakeSink(), FakeSink("other")
    table.failure = SinkError("The receiver stalls.")
    supervisor = Supervisor(station.inspect, station.store, [source], [table, other], pauses=SOON)
    supervisor.start()
    wait_for(lambda: len(other.got) == 4 and table.n_opened > 3)
    assert state_of(supervisor, "table").status == "failed"
    assert station.store.count_outbox("table") == 4
    table.failure = None
    wait_for(lambda: len(table.got) == 4)
    end_all(supervisor)
    assert state_of(supervisor, "table").trouble == ""


def test_a_sink_that_fails_is_not_running_between_two_tries(station: Station) -> None:
    source, table = FakeSource(["a"]), FakeSink()
    table.failure = SinkError("The receiver stalls.")
    supervisor = Supervisor(station.inspect, station.store, [source], [table], pauses=SOON)
    supervisor.start()
    wait_for(lambda: table.n_opened > 2)
    seen = set()
    while table.n_opened < 8:
        seen.add(state_of(supervisor, "table").status)
    assert seen == {"failed"}
    end_all(supervisor)


def test_what_lasts_is_tried_with_the_longest_pause(station: Station) -> None:
    source, table = FakeSource(["a"]), FakeSink()
    table.failure = SinkError("The receiver refuses it.", is_lasting=True)
    pauses = Pauses(0.01, 30.0)
    supervisor = Supervisor(station.inspect, station.store, [source], [table], pauses=pauses)
    supervisor.start()
    wait_for(lambda: state_of(supervisor, "table").status == "failed")
    time.sleep(0.3)
    assert table.n_opened == 1
    began_s = time.monotonic()
    end_all(supervisor)  # which ends the pause
    assert time.monotonic() - began_s < 2


def test_pauses_grow_and_are_bounded() -> None:
    pauses = Pauses()
    for n_failed, most_s in ((1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (10_000, 60)):
        drawn = [pauses.choose_s(n_failed, is_lasting=False) for _ in range(100)]
        assert min(1.0, most_s / 2) <= min(drawn)
        assert max(drawn) <= most_s
    lasting = [pauses.choose_s(1, is_lasting=True) for _ in range(100)]
    assert min(lasting) >= 30
    assert len(set(lasting)) > 90


def test_what_was_taken_is_forgotten_before_the_end(station: Station) -> None:
    station.gate.clear()
    source, table = FakeSource(["a", "b"]), FakeSink()
    supervisor = Supervisor(station.inspect, station.store, [source], [table])
    supervisor.start()
    wait_for(lambda: station.n_inside == 2)
    threading.Timer(0.2, station.gate.set).start()
    end_all(supervisor)
    assert sorted(source.forgotten) == ["a", "b"]
    assert sorted(table.got) == ["a", "b"]


def test_a_verdict_that_cannot_be_written_brings_the_part_again(station: Station) -> None:
    source = FakeSource(["a"])
    n_tried = 0

    def inspect(part: Part, name: str) -> Future[Inspection]:
        nonlocal n_tried
        n_tried += 1
        if n_tried == 1:
            failed: Future[Inspection] = Future()
            failed.set_exception(OSError(28, "No space left on device"))
            return failed
        return station.inspect(part, name)

    supervisor = Supervisor(inspect, station.store, [source], [], pauses=SOON)
    supervisor.start()
    wait_for(lambda: source.forgotten == ["a"])
    end_all(supervisor)
    assert n_tried == 2


def test_a_sink_is_woken_when_a_verdict_is_written_elsewhere(station: Station) -> None:
    table = FakeSink()
    supervisor = Supervisor(station.inspect, station.store, [], [table])
    supervisor.start()
    wait_for(lambda: table.n_checked > 0)
    part = Part(b"picture", "by http", time.time(), "part")
    station.inspect(part, "http").result(10)
    supervisor.wake()
    began_s = time.monotonic()
    wait_for(lambda: table.got == ["by http"])
    assert time.monotonic() - began_s < 0.9
    end_all(supervisor)


def test_what_is_wrong_though_it_goes_on_is_told(station: Station) -> None:
    source = FakeSource()
    supervisor = Supervisor(station.inspect, station.store, [source], [])
    supervisor.start()
    wait_for(lambda: state_of(supervisor, "camera").status == "running")
    source.trouble = "A file cannot be moved."
    assert state_of(supervisor, "camera").trouble == "A file cannot be moved."
    end_all(supervisor)
