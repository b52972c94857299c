"""Keeps sources and sinks going: what fails is opened again, after growing pauses."""

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from padim.errors import failure_of
from padim.line.protocols import Part, Sink, Source
from padim.store.inspection import Inspection
from padim.store.store import Store

_PAUSES_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)  # the last for ever
_MOST_INSIDE = 32  # parts of a source that are inspected at a time
_TOGETHER = 100  # inspections that a sink gets at a time
_LOOK_S = 0.05  # between two looks at what is done
_IDLE_S = 1.0
_FLUSH_S = 5.0  # for sinks, when the station ends
_log = logging.getLogger(__name__)

Inspect = Callable[[Part, str], Future[Inspection]]


@dataclass(frozen=True)
class WorkerState:
    """How a source or a sink is.

    Attributes:
        name: Its name.
        kind: What it is.
        status: ``waiting`` to be opened, ``running`` or ``failed``.
        since_s: Since when, in seconds since 1970.
        trouble: Why it failed the last time; empty when it runs.
        n_done: Parts or records that went through.
        n_restarts: How often it was opened again.
    """

    name: str
    kind: Literal["source", "sink"]
    status: Literal["waiting", "running", "failed"]
    since_s: float
    trouble: str = ""
    n_done: int = 0
    n_restarts: int = 0


class _Worker:
    """A thread that opens something, works with it, and begins anew when that fails."""

    kind: Literal["source", "sink"]

    def __init__(self, unit: Source | Sink) -> None:
        self._unit = unit
        self.state = WorkerState(unit.name, self.kind, "waiting", time.time())
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"padim-{unit.name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait for the end, after ``stop``."""
        self._thread.join(timeout_s)

    def work(self) -> None:
        """Work until ``stop``, or until something raises."""
        raise NotImplementedError

    def count(self, n_more: int) -> None:
        """Count what went through."""
        self.state = replace(self.state, n_done=self.state.n_done + n_more)

    def _run(self) -> None:
        n_failed = 0
        while not self.stop.is_set():
            n_done = self.state.n_done
            try:
                self._unit.open()
                self._set("running")
                self.work()
            except Exception as error:
                failure = failure_of(error)
                trouble = failure[1] if failure else f"{type(error).__name__}: {error}"
                if self.state.trouble != trouble or failure is None:
                    _log.error(
                        "%s %s: %s", self.kind, self._unit.name, trouble, exc_info=not failure
                    )
                n_failed = 0 if self.state.n_done > n_done else n_failed
                self._set("failed", trouble)
            finally:
                with suppress(Exception):  # it is at its end, whatever it says of that
                    self._unit.close()
            if not self.stop.is_set():
                pause_s = _PAUSES_S[min(n_failed, len(_PAUSES_S) - 1)]
                self.stop.wait(pause_s * random.uniform(0.8, 1.2))  # so that not all come at once
                n_failed += 1
                self.state = replace(self.state, n_restarts=self.state.n_restarts + 1)

    def _set(self, status: Literal["running", "failed"], trouble: str = "") -> None:
        if status == "running" and self.state.n_restarts:
            _log.warning("%s %s runs again", self.kind, self._unit.name)
        self.state = replace(self.state, status=status, since_s=time.time(), trouble=trouble)


class _SourceWorker(_Worker):
    kind = "source"

    def __init__(self, source: Source, inspect: Inspect) -> None:
        super().__init__(source)
        self._source = source
        self._inspect = inspect

    def work(self) -> None:
        """Hand parts over, and let the source forget those that have a verdict."""
        inside: dict[Future[Inspection], Part] = {}
        while not self.stop.is_set():
            self._forget(inside)
            n_free = _MOST_INSIDE - len(inside)
            if n_free:
                for part in self._source.take(n_free, _LOOK_S if inside else _IDLE_S):
                    inside[self._inspect(part, self._source.name)] = part
            else:
                wait(inside, _IDLE_S, FIRST_COMPLETED)
        wait(inside)
        self._forget(inside)

    def _forget(self, inside: dict[Future[Inspection], Part]) -> None:
        for future in [one for one in inside if one.done()]:
            # Raises where the verdict could not be written: the source brings the part again.
            self._source.forget(inside[future], future.result())
            del inside[future]
            self.count(1)


class _SinkWorker(_Worker):
    kind = "sink"

    def __init__(self, sink: Sink, store: Store, news: threading.Event) -> None:
        super().__init__(sink)
        self._sink = sink
        self._store = store
        self._news = news

    def work(self) -> None:
        """Deliver what the database says that the sink has not got."""
        while True:
            is_last = self.stop.is_set()
            while found := self._store.take_outbox(self._sink.name, _TOGETHER):
                self._sink.deliver(found)
                self._store.mark_delivered(self._sink.name, [one.arrival.id for one in found])
                self.count(len(found))
            if is_last:
                return
            self._news.wait(_IDLE_S)
            self._news.clear()


class Supervisor:
    """Runs the sources and sinks of a station, each in a thread of its own.

    Args:
        inspect: Inspects a part of a source of this name; its future ends in what is written.
        store: The database.
        sources: Where pictures come from.
        sinks: Where records go to.
    """

    def __init__(
        self, inspect: Inspect, store: Store, sources: Sequence[Source], sinks: Sequence[Sink]
    ) -> None:
        self._news = [threading.Event() for _ in sinks]
        self._sources = [_SourceWorker(one, inspect) for one in sources]
        self._sinks = [
            _SinkWorker(one, store, news) for one, news in zip(sinks, self._news, strict=True)
        ]

    @property
    def states(self) -> list[WorkerState]:
        """How each is."""
        return [one.state for one in (*self._sources, *self._sinks)]

    def start(self) -> None:
        """Begin."""
        for worker in (*self._sources, *self._sinks):
            worker.start()

    def wake(self) -> None:
        """Say that there is something to deliver."""
        for news in self._news:
            news.set()

    def stop_sources(self, timeout_s: float = _FLUSH_S) -> None:
        """Take no more parts, and let sources forget those that have a verdict."""
        self._stop(self._sources, timeout_s)

    def stop_sinks(self) -> None:
        """Deliver what there is, and end; what a sink does not take now it gets the next time."""
        self._stop(self._sinks, _FLUSH_S)

    def _stop(self, workers: Sequence[_Worker], timeout_s: float) -> None:
        for worker in workers:
            worker.stop.set()
        self.wake()
        until_s = time.monotonic() + timeout_s
        for worker in workers:
            worker.join(max(0.0, until_s - time.monotonic()))
