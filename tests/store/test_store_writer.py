import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from padim.images.regions import Region
from padim.store.database import StoreError, UnavailableError
from padim.store.inspection import (
    Arrival,
    Findings,
    Inspection,
    Verdict,
    name_inspection,
    refuse,
)
from padim.store.store import Store
from padim.store.writer import Writer


def arrive(number: int) -> Arrival:
    return Arrival(name_inspection(float(number)), "part", float(number), "camera", str(number))


class Broken(Store):
    """A database whose disk is full for a while."""

    is_full = False
    n_writes = 0

    def write(
        self,
        arrivals: Sequence[Arrival],
        found: Sequence[Inspection],
        sinks: Mapping[str, Sequence[str]],
    ) -> tuple[list[Arrival | Inspection], list[Inspection]]:
        if self.is_full:
            raise UnavailableError("The disk is full.")
        self.n_writes += 1
        return super().write(arrivals, found, sinks)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Broken]:
    opened = Broken.open(str(tmp_path / "history.db"))
    yield opened
    opened.close()


def test_what_waits_is_one_transaction(store: Broken) -> None:
    store.is_full = True
    writer = Writer(store, {"part": ("file",)})
    arrivals = [arrive(n) for n in range(20)]
    first = writer.accept(arrivals[0])  # is tried at once, and holds the others up
    while not writer.trouble:
        threading.Event().wait(0.01)
    accepted = [writer.accept(one) for one in arrivals[1:]]
    finished = [writer.finish(refuse(one, "Lost.")) for one in arrivals]
    store.is_full = False
    assert [one.result(30) for one in (first, *accepted)] == arrivals
    assert {one.result(30).verdict for one in finished} == {Verdict.NOT_INSPECTED}
    assert store.n_writes == 2
    assert store.count_outbox("file") == 20
    assert writer.close(30)


def test_a_full_disk_loses_no_verdict(store: Broken) -> None:
    writer = Writer(store, {})
    arrival = arrive(1)
    writer.accept(arrival).result(30)
    store.is_full = True
    finished = writer.finish(refuse(arrival, "Lost."))
    with pytest.raises(TimeoutError):
        finished.result(0.5)
    assert "disk is full" in writer.trouble
    store.is_full = False
    assert finished.result(30) == store.find()[0]
    assert not writer.trouble
    assert writer.close(30)


def test_what_waits_is_written_at_the_end(store: Broken) -> None:
    writer = Writer(store, {})
    accepted = [writer.accept(arrive(n)) for n in range(1200)]
    assert writer.close(60)
    assert all(one.done() for one in accepted)
    assert len(store.list_pending()) == 1200
    with pytest.raises(RuntimeError, match="is closed"):
        writer.accept(arrive(5000))


def test_a_mistake_leaves_nobody_waiting(store: Broken) -> None:
    writer = Writer(store, {})
    lost = writer.finish(refuse(arrive(1), "Was never accepted."))
    with pytest.raises(Exception, match="never accepted"):
        lost.result(30)
    assert writer.accept(arrive(2)).result(30)
    assert writer.close(30)


def find_nothing(arrival: Arrival) -> Inspection:
    """An inspection whose region no database has room for."""
    region = Region(1 << 70, 2, 3, 4, 12, 2, 3, 8.5, 7.25)
    findings = Findings(None, 1.0, 0.5, 2.0, "tail", "anomalous", (region,), (), "quiet")
    return Inspection(arrival, Verdict.NOK, 2.0, "", "a" * 64, 7, findings)


def test_what_cannot_be_written_ends_as_not_inspected_and_takes_nothing_with_it(
    store: Broken,
) -> None:
    writer = Writer(store, {"part": ("file",)})
    arrivals = [arrive(n) for n in range(9)]
    for one in arrivals:
        writer.accept(one).result(30)
    store.is_full = True
    finished = [writer.finish(refuse(arrivals[0], "Lost."))]  # holds the others up
    finished += [writer.finish(find_nothing(arrivals[1]))]
    finished += [writer.finish(refuse(one, "Lost.")) for one in arrivals[2:]]
    lost = writer.finish(refuse(arrive(50), "Was never accepted."))
    store.is_full = False
    found = [one.result(30) for one in finished]
    assert [one.reason for one in found if one.reason != "Lost."] == [
        "What was found cannot be written down (OverflowError)."
    ]
    with pytest.raises(StoreError, match="never accepted"):
        lost.result(30)
    assert store.list_pending() == []
    assert sorted(store.find(), key=lambda one: one.arrival.id) == found
    assert store.count_outbox("file") == 9
    assert writer.close(30)


def test_a_database_that_refuses_what_it_is_given_answers_again(store: Broken) -> None:
    writer = Writer(store, {})
    store.is_full = True
    lost = writer.finish(refuse(arrive(1), "Was never accepted."))
    while not writer.trouble:
        time.sleep(0.01)
    store.is_full = False
    with pytest.raises(StoreError, match="never accepted"):
        lost.result(30)
    assert writer.trouble == ""
    assert writer.close(30)


def test_whoever_no_longer_waits_stops_nothing(store: Broken) -> None:
    writer = Writer(store, {})
    assert not writer.accept(arrive(1)).cancel()
    assert writer.accept(arrive(2)).result(30)
    assert len(store.list_pending()) == 2
    assert writer.close(30)


def test_an_end_does_not_wait_for_a_full_disk(store: Broken) -> None:
    writer = Writer(store, {})
    store.is_full = True
    waiting = [writer.accept(arrive(n)) for n in range(3)]
    assert not writer.close(0.3)
    for one in waiting:
        with pytest.raises(UnavailableError):
            one.result(0)
