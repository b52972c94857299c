"""Whatever order calls, crashes and receivers come in: one row an arrival, one verdict a row."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from inspections import end

from padim.store.inspection import Arrival, Inspection, Verdict, name_inspection
from padim.store.store import Store
from padim.store.tables import metadata

SINKS = {"part": ("mqtt", "file"), "lid": ("file",)}
TABLES = list(reversed(metadata.sorted_tables))


class CutError(Exception):
    """The process ended here."""


@contextmanager
def cut(store: Store, n_statements: int) -> Iterator[None]:
    """Let a process end before a statement, or before the commit when there are no more."""
    left = n_statements

    def count(*_words: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise CutError

    def leave(_connection: object) -> None:
        raise CutError

    sa.event.listen(store._engine, "before_cursor_execute", count)
    sa.event.listen(store._engine, "commit", leave)
    try:
        yield
    except CutError:
        pass
    finally:
        sa.event.remove(store._engine, "before_cursor_execute", count)
        sa.event.remove(store._engine, "commit", leave)


_recipes = st.sampled_from(("part", "lid"))
_keys = st.sampled_from((None, "a", "b", "c", "d"))
_places = st.lists(st.integers(0, 9), max_size=3)


class Station(RuleBasedStateMachine):
    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place
        self.store = Store.open(place)
        self.other = Store.open(place)  # a second station, or a process that is being replaced
        self.n = 0
        self.known: dict[str, Arrival] = {}  # what follows is what the database has to say
        self.by_key: dict[tuple[str, str], str] = {}
        self.ended: dict[str, Inspection] = {}
        self.outbox: dict[str, list[str]] = {"mqtt": [], "file": []}

    def teardown(self) -> None:
        with self.store._engine.begin() as connection:
            for table in TABLES:
                connection.execute(sa.delete(table))
        self.store.close()
        self.other.close()

    def arrive(self, recipe: str, key: str | None) -> Arrival:
        self.n += 1
        return Arrival(name_inspection(float(self.n)), recipe, float(self.n), "camera", key)

    def note_accepted(self, arrivals: Sequence[Arrival]) -> list[Arrival | Inspection]:
        told: list[Arrival | Inspection] = []
        for one in arrivals:
            id = one.id
            if one.key is not None:
                id = self.by_key.setdefault((one.source, one.key), id)
            self.known.setdefault(id, one)
            told.append(self.ended.get(id, self.known[id]))
        return told

    def note_ended(self, found: Sequence[Inspection]) -> list[Inspection]:
        for one in found:
            if one.arrival.id not in self.ended:
                self.ended[one.arrival.id] = one
                for sink in SINKS[one.arrival.recipe]:
                    self.outbox[sink].append(one.arrival.id)
        return [self.ended[one.arrival.id] for one in found]

    def choose(self, places: Sequence[int]) -> list[Arrival]:
        """Arrivals that are known, the newest counted first."""
        ids = sorted(self.known, reverse=True)
        return [self.known[ids[place]] for place in places if place < len(ids)]

    @rule(
        new=st.lists(st.tuples(_recipes, _keys), min_size=1, max_size=3),
        again=_places,
        ending=st.lists(
            st.tuples(st.integers(0, 9), st.sampled_from(Verdict)), min_size=1, max_size=4
        ),
        is_other=st.booleans(),
        n_statements=st.sampled_from((None, None, None, None, None, 0, 1, 2, 3, 5)),
    )
    def write(
        self,
        new: list[tuple[str, str | None]],
        again: list[int],
        ending: list[tuple[int, Verdict]],
        is_other: bool,
        n_statements: int | None,
    ) -> None:
        came = [self.arrive(*one) for one in new] + self.choose(again)
        chosen = [(self.choose([place]), verdict) for place, verdict in ending]
        found = [end(one, verdict) for ones, verdict in chosen for one in ones]
        store = self.other if is_other else self.store
        if n_statements is None:
            told = store.write(came, found, SINKS)
            assert told == (self.note_accepted(came), self.note_ended(found))
        else:
            with cut(store, n_statements):
                store.write(came, found, SINKS)

    @rule()
    def open_again(self) -> None:
        self.store.close()
        self.store = Store.open(self.place)

    @rule(sink=st.sampled_from(("mqtt", "file")), n=st.integers(1, 4), is_received=st.booleans())
    def deliver(self, sink: str, n: int, is_received: bool) -> None:
        taken = [one.arrival.id for one in self.store.take_outbox(sink, n)]
        assert taken == self.outbox[sink][:n]
        if is_received:
            self.store.mark_delivered(sink, taken)
            del self.outbox[sink][:n]

    @invariant()
    def each_has_one(self) -> None:
        found = self.other.find(limit=1000)
        assert {one.arrival.id: one for one in found} == self.ended
        assert len(found) == len(self.ended)
        pending = [one for id, one in sorted(self.known.items()) if id not in self.ended]
        assert self.other.list_pending() == pending
        for sink, ids in self.outbox.items():
            assert self.other.count_outbox(sink) == len(ids)


def test_each_arrival_has_one_verdict_whatever_comes_when(place: str) -> None:
    run_state_machine_as_test(
        partial(Station, place),
        settings=settings(
            max_examples=20, stateful_step_count=25, suppress_health_check=list(HealthCheck)
        ),
    )
