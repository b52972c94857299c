"""The same of SQLite and of PostgreSQL."""

import itertools
import math
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from padim.errors import PadimError
from padim.images.regions import Region
from padim.store import database
from padim.store.database import StoreError
from padim.store.filter import Filter
from padim.store.inspection import (
    Arrival,
    Findings,
    Inspection,
    Milliseconds,
    Verdict,
    name_inspection,
    refuse,
)
from padim.store.store import Alarm, Store

_numbers = itertools.count(1)
REGION = Region(1, 2, 3, 4, 12, 2, 3, 8.5, 7.25)


def arrive(recipe: str = "part", key: str | None = None, **more: object) -> Arrival:
    time_s = float(next(_numbers))
    return Arrival(name_inspection(time_s), recipe, time_s, "camera", key, **more)  # type: ignore[arg-type]  # fields by name


def judge(arrival: Arrival, verdict: Verdict = Verdict.OK) -> Inspection:
    findings = Findings(
        "a" * 64, 12.5, 0.25, 20.0, "tail", "normal", (REGION, REGION), (1.5, 2.5), "quiet"
    )
    took = Milliseconds(1.5, 2.5, None)
    return Inspection(arrival, verdict, 1e9 + 0.125, "", "b" * 64, 99, findings, took)


def finish(store: Store, found: Sequence[Inspection]) -> list[Inspection]:
    return store.finish(found, {"part": ("mqtt", "file")})


def test_an_inspection_is_given_as_it_was_written(store: Store) -> None:
    arrival = arrive(key="k", serial="S 7", tags={"shift": "2", "ä": "“"})
    assert store.accept([arrival]) == [arrival]
    assert store.get(arrival.id) == arrival
    assert store.list_pending() == [arrival]
    assert store.find() == []
    found = judge(arrival)
    assert finish(store, [found]) == [found]
    assert store.get(arrival.id) == found
    assert store.find() == [found]
    assert store.list_pending() == []
    assert store.get("none") is None


def test_the_first_verdict_stays(store: Store) -> None:
    arrival = arrive()
    store.accept([arrival])
    late, found = refuse(arrival, "It was late."), judge(arrival, Verdict.NOK)
    assert finish(store, [late]) == [late]
    assert finish(store, [found]) == [late]
    assert finish(store, [found, late]) == [late, late]
    assert store.find() == [late]
    assert store.count_outbox("mqtt") == 1


def test_two_verdicts_in_one_transaction_are_one(store: Store) -> None:
    arrival = arrive()
    store.accept([arrival])
    late = refuse(arrival, "It was late.")
    assert finish(store, [late, judge(arrival)]) == [late, late]
    assert store.count_outbox("file") == 1


def test_a_source_and_a_key_have_one_inspection(store: Store) -> None:
    first, again, other = arrive(key="k"), arrive(key="k"), arrive(key="l")
    assert store.accept([first, again, other]) == [first, first, other]
    found = judge(first)
    finish(store, [found])
    assert store.accept([arrive(key="k")]) == [found]
    free = [arrive(), arrive()]  # without a key each is one of its own
    assert store.accept(free) == free


def test_what_was_written_before_is_known_by_its_id(store: Store) -> None:
    """A server that goes while it commits has written, and nobody was told."""
    others, arrival = [arrive(), arrive(key="k")], arrive()
    store.accept([*others, arrival])
    assert store.accept([arrival]) == [arrival]
    found = judge(arrival)
    finish(store, [found])
    assert store.accept([arrival, others[1]]) == [found, others[1]]
    assert finish(store, [found]) == [found]
    assert store.count_outbox("mqtt") == 1


def test_an_id_and_the_key_of_another_are_that_other(store: Store) -> None:
    first, other = arrive(key="k"), arrive(key="l")
    store.accept([first, other])
    assert store.accept([replace(first, key="l")]) == [other]


def test_what_comes_twice_in_one_call_is_one(store: Store) -> None:
    arrival = arrive()
    assert store.accept([arrival, arrival]) == [arrival, arrival]
    assert store.list_pending() == [arrival]


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b", "\udcff", "x" * 10_000, "“" * 3000])
def test_no_words_of_a_part_keep_it_from_its_verdict(store: Store, text: str) -> None:
    arrival = arrive(key=text, serial=text, tags={text: text})
    (accepted,) = store.accept([arrival])
    assert store.accept([arrive(key=text)]) == [accepted]
    assert isinstance(accepted, Arrival)
    found = refuse(accepted, text)
    (ended,) = finish(store, [found])
    assert store.find(Filter(tags={text: text})) == [store.get(accepted.id)]
    assert store.find(Filter(serial=accepted.serial)) == store.take_outbox("mqtt", 5)
    assert store.get(text) is None
    assert ended.arrival == accepted


@settings(max_examples=50, suppress_health_check=list(HealthCheck))
@given(st.text(max_size=6), st.text(max_size=6))
@example('a"b', 'c"d')
@example("a\\b", "\\")
@example("$.a[0]", "%_")
@example("", "")
def test_any_key_of_a_part_is_found(store: Store, name: str, value: str) -> None:
    (accepted,) = store.accept([arrive(tags={name: value})])
    assert isinstance(accepted, Arrival)
    (found,) = finish(store, [judge(accepted)])
    assert store.find(Filter(tags={name: value}), 1) == [found]
    assert found not in store.find(Filter(tags={name: value + "x"}))


def test_peaks_are_kept(store: Store) -> None:
    arrival = arrive()
    store.accept([arrival])
    finish(store, [judge(arrival)])
    (found,) = store.find()
    assert found.findings is not None
    assert [(one.peak, one.mean) for one in found.findings.regions] == [(8.5, 7.25)] * 2


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_what_is_no_number_is_no_finding(number: float) -> None:
    findings = judge(arrive()).findings
    assert findings is not None
    with pytest.raises(ValueError, match="not finite"):
        replace(findings, level_scores=(1.0, number))


def test_more_are_asked_for_than_one_statement_takes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("padim.store.rows._MOST", 40)
    arrivals = [arrive() for _ in range(100)]
    store.accept(arrivals)
    found = [refuse(one, "Lost.") for one in arrivals]
    assert finish(store, found) == found
    assert finish(store, found) == found
    assert store.find(limit=300) == found[::-1]
    store.mark_delivered("mqtt", [one.id for one in arrivals[:-1]])
    assert store.take_outbox("mqtt", 5) == found[-1:]


def test_what_was_never_accepted_gets_no_verdict(store: Store) -> None:
    with pytest.raises(StoreError, match="was never accepted"):
        finish(store, [judge(arrive())])


def test_an_outbox_gives_in_order_what_was_not_delivered(store: Store) -> None:
    arrivals = [arrive() for _ in range(5)]
    store.accept(arrivals)
    found = [judge(one) for one in (arrivals[3], arrivals[0], arrivals[4])]
    finish(store, found)
    assert store.take_outbox("mqtt", 2) == found[:2]
    store.mark_delivered("mqtt", [found[0].arrival.id])
    assert store.take_outbox("mqtt", 10) == found[1:]
    assert store.take_outbox("file", 10) == found
    assert (store.count_outbox("mqtt"), store.count_outbox("file")) == (2, 3)
    assert store.take_outbox("nobody", 10) == []


RECIPES, VERDICTS = ("part", "lid"), tuple(Verdict)
_filters = st.builds(
    Filter,
    recipe=st.sampled_from((None, *RECIPES)),
    verdict=st.sampled_from((None, *VERDICTS)),
    serial=st.sampled_from((None, "0", "1")),
    tags=st.sampled_from(({}, {"line": "0"}, {"line": "1"}, {"line": "0", "shift": "1"})),
    since_s=st.sampled_from((None, 3.0, 7.0)),
    until_s=st.sampled_from((None, 4.0, 8.0)),
)


def test_a_filter_leaves_in_what_fits(store: Store) -> None:
    rows = []
    for n in range(24):
        arrival = Arrival(
            name_inspection(float(n)),
            RECIPES[n % 2],
            float(n),
            "camera",
            serial=str(n % 3),
            tags={"line": str(n % 2), "shift": str(n % 5)},
        )
        verdict = VERDICTS[n % 3]
        lost = verdict is Verdict.NOT_INSPECTED
        rows.append(refuse(arrival, "Lost.") if lost else judge(arrival, verdict))
    store.accept([one.arrival for one in rows])
    finish(store, rows)

    def fits(one: Inspection, wanted: Filter) -> bool:
        arrival = one.arrival
        return (
            wanted.recipe in (None, arrival.recipe)
            and wanted.verdict in (None, one.verdict)
            and wanted.serial in (None, arrival.serial)
            and all(arrival.tags.get(name) == value for name, value in wanted.tags.items())
            and (wanted.since_s is None or arrival.time_s >= wanted.since_s)
            and (wanted.until_s is None or arrival.time_s < wanted.until_s)
        )

    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    @given(_filters)
    def compare(wanted: Filter) -> None:
        expected = [one for one in reversed(rows) if fits(one, wanted)]
        assert store.find(wanted, 100) == expected
        assert store.find(wanted, 3) == expected[:3]
        if expected:
            assert store.find(wanted, 100, expected[0].arrival.id) == expected[1:]
        counts = store.count_verdicts(wanted)
        assert counts == {one: sum(row.verdict is one for row in expected) for one in Verdict}

    compare()


def test_alarms_are_open_until_they_are_cleared(store: Store) -> None:
    for n, recipe in enumerate(("part", "lid")):
        store.add_alarm(Alarm(recipe, float(n), "Drift."))
    for n in range(60):
        store.add_alarm(Alarm("rim", float(n), "Drift."))
    for recipe in ("part", "rim"):
        store.clear_alarms(recipe, 9.0)
    assert store.list_open_alarms() == [Alarm("lid", 1.0, "Drift.")]


def test_stations_of_one_database_have_their_own_alarms(place: str) -> None:
    first, second = (Store.open(place, name) for name in ("line 1", "line 2"))
    first.add_alarm(Alarm("part", 1.0, "Drift."))
    first.write_state("monitor", "one")
    second.clear_alarms("part", 2.0)
    assert [len(one.list_open_alarms()) for one in (first, second)] == [1, 0]
    assert second.read_state("monitor") is None
    second.write_state("monitor", "two")
    assert [one.read_state("monitor") for one in (first, second)] == ["one", "two"]
    one, other = arrive(), arrive()
    first.write([one], [judge(one)], {"part": ("plc",)})
    second.write([other], [judge(other)], {"part": ("plc",)})
    assert [found.arrival for found in second.take_outbox("plc", 5)] == [other]
    second.mark_delivered("plc", [one.id, other.id])
    assert [store.count_outbox("plc") for store in (first, second)] == [1, 0]
    first.close()
    second.close()


def test_one_service_writes_as_one_station(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(database._HOLDING, "lock_timeout", "50ms")
    first, same, other = (Store.open(place, name) for name in ("line 1", "line 1", "line 2"))
    with first.hold() as is_held:
        assert is_held()
        with pytest.raises(PadimError, match="Another"), same.hold():
            pass
        if "://" in place:
            with other.hold():
                pass
    with same.hold():
        pass
    for store in (first, same, other):
        store.close()


def test_a_server_that_lets_go_is_noticed(place: str) -> None:
    if "://" not in place:
        pytest.skip("a file lets nobody go")
    store = Store.open(place, "line 1")
    query = sa.text(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
    )
    with store.hold() as is_held:
        engine = sa.create_engine(place.replace("postgresql:", "postgresql+psycopg:"))
        with engine.connect() as connection:
            connection.execute(query)
        assert not is_held()
        engine.dispose()
    store.close()


def test_states_are_written_over(store: Store) -> None:
    assert store.read_state("monitor") is None
    for text in ("one", "two"):
        store.write_state("monitor", text)
        assert store.read_state("monitor") == text


def test_a_model_is_noted_when_it_changes(store: Store, place: str) -> None:
    other = Store.open(place, "line 2")
    for sha256 in ("a" * 64, "a" * 64, "b" * 64, "a" * 64):
        store.record_model("part", sha256, "lite0", 1.0)
        other.record_model("part", "c" * 64, "lite0", 1.0)
    other.close()
    url = place.replace("postgresql:", "postgresql+psycopg:")
    engine = sa.create_engine(url if "://" in url else f"sqlite:///{url}")
    with engine.connect() as connection:
        query = "SELECT model_sha256 FROM recipes ORDER BY station, number"
        rows = connection.execute(sa.text(query))
        assert [row[0][0] for row in rows] == ["a", "b", "a", "c"]
    engine.dispose()


def test_threads_write_one_verdict_each(store: Store) -> None:
    arrivals = [arrive(key=str(n)) for n in range(40)]
    store.accept(arrivals)
    told: list[list[Inspection]] = []

    def work(verdict: Verdict) -> None:
        told.append([finish(store, [judge(one, verdict)])[0] for one in arrivals])

    threads = [threading.Thread(target=work, args=(one,)) for one in (Verdict.OK, Verdict.NOK)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told[0] == told[1]
    assert sorted(store.find(limit=100), key=lambda one: one.arrival.id) == told[0]


def test_who_reads_waits_for_nobody_who_writes(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "history.db"))
    arrival = arrive()
    store.accept([arrival])
    with store._engine.begin():
        assert store.list_pending() == [arrival]
    store.close()
