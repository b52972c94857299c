"""Keeps sources and sinks at work: a thread each, opened again with growing pauses."""

import logging
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

from padim.errors import failure_of
from padim.line.errors import LineError
from padim.line.protocols import Part, Sink, Source
from padim.store.inspection import Inspection
from padim.store.store import Store

Inspect = Callable[[Part, str], Future[Inspection]]

_IDLE_S = 1.0  # between two looks of a sink at what there is to deliver
_TAKE_S = 0.2  # that a source waits for a part, so that it forgets others and stops soon
_LONGEST = 300  # characters of an error that is not ours
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pauses:
    """How long is waited before something that failed is tried again.

    Attributes:
        first_s: After the first failure; twice as long after each that follows.
        longest_s: At most, and after what will not go away by itself.
    """

    first_s: float = 1.0
    longest_s: float = 60.0

    def choose_s(self, n_failed: int, *, is_lasting: bool) -> float:
        """Seconds to wait, drawn so that many that fail at once do not come back at once."""
        grown_s = self.first_s * 2.0 ** min(n_failed - 1, 30)
        pause_s = self.longest_s if is_lasting else min(grown_s, self.longest_s)
        return max(pause_s * random.uniform(0.5, 1.0), min(self.first_s, pause_s))


@dataclass(frozen=True)
class WorkerState:
    """How a source or a sink is.

    Attributes:
        name: As settings have it.
        kind: What it is.
        status: ``waiting``: it has done nothing yet, or is stopped. ``running``: what it last tried
            went well. ``failed``: it did not, and is tried again.
        since_s: When that began, in seconds since 1970.
        trouble: What is wrong, as a sentence; empty when all is well.
        n_done: Parts whose verdicts are written, or verdicts delivered.
        n_restarts: How often it failed.
    """

    name: str
    kind: Literal["source", "sink"]
    status: Literal["waiting", "running", "failed"]
    since_s: float
    trouble: str = ""
    n_done: int = 0
    n_restarts: int = 0


class _Worker(ABC):
    """A thread that opens something, works with it, and does so again when that fails."""

    kind: Literal["source", "sink"]

    def __init__(self, name: str, pauses: Pauses) -> None:
        self.name = name
        self._pauses = pauses
        self._stop = threading.Event()
        self._status: Literal["waiting", "running", "failed"] = "waiting"
        self._since_s = time.time()
        self._error = ""
        self._n_done = 0
        self._n_restarts = 0
        self._thread = threading.Thread(target=self._run, name=f"padim-{name}", daemon=True)

    @property
    def state(self) -> WorkerState:
        """How it is."""
        return WorkerState(
            self.name,
            self.kind,
            self._status,
            self._since_s,
            self._error or self._trouble,
            self._n_done,
            self._n_restarts,
        )

    @property
    def _trouble(self) -> str:
        """What is wrong though it goes on."""
        return ""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End soon; every wait ends at once."""
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; whether it came."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @abstractmethod
    def _open(self) -> None: ...

    @abstractmethod
    def _work(self) -> None:
        """Work until it is stopped; whatever is raised is a failure."""

    @abstractmethod
    def _close(self) -> None: ...

    def _run(self) -> None:
        n_failed = 0
        while not self._stop.is_set():
            n_done, began_s = self._n_done, time.monotonic()
            pause_s = 0.0
            try:
                self._open()
                self._work()
            except Exception as error:
                if self._stop.is_set() and not isinstance(error, LineError):
                    _log.debug("%s %s ends", self.kind, self.name, exc_info=error)
                    break
                has_worked = self._n_done > n_done
                if has_worked or time.monotonic() - began_s > self._pauses.longest_s:
                    n_failed = 0
                n_failed += 1
                is_lasting = isinstance(error, LineError) and error.is_lasting
                pause_s = self._pauses.choose_s(n_failed, is_lasting=is_lasting)
                self._fail(error, pause_s)
            finally:
                try:
                    self._close()
                except Exception:
                    _log.warning("%s %s cannot be closed", self.kind, self.name, exc_info=True)
            self._stop.wait(pause_s)
        self._enter("waiting", self._error)

    def _fail(self, error: Exception, pause_s: float) -> None:
        failure = failure_of(error)
        if failure is None:  # a mistake in the code: whoever mends it needs its place
            _log.error("%s %s fails", self.kind, self.name, exc_info=error)
            sentence = " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST]
        else:
            sentence = failure[1]
        _log.warning(
            "%s %s: %s It is tried again in %.0f s.", self.kind, self.name, sentence, pause_s
        )
        self._n_restarts += 1
        self._enter("failed", sentence)

    def _enter(self, status: Literal["waiting", "running", "failed"], error: str) -> None:
        if status != self._status:
            self._since_s = time.time()
            if status == "running" and self._n_restarts:
                _log.info("%s %s runs again", self.kind, self.name)
        self._status, self._error = status, error


class _SourceWorker(_Worker):
    kind = "source"

    def __init__(
        self,
        source: Source,
        inspect: Inspect,
        n_open: int,
        wake_sinks: Callable[[], None],
        pauses: Pauses,
    ) -> None:
        super().__init__(source.name, pauses)
        self._source = source
        self._inspect = inspect
        self._n_open = n_open
        self._wake_sinks = wake_sinks
        self._changed = threading.Event()  # a verdict is written, or it is time to stop
        self._open_parts: list[tuple[Part, Future[Inspection]]] = []

    @property
    def _trouble(self) -> str:
        return self._source.trouble

    def stop(self) -> None:
        super().stop()
        self._changed.set()

    def _open(self) -> None:
        self._open_parts = []  # of before: the source brings them again
        self._source.open()

    def _close(self) -> None:
        self._source.close()

    def _work(self) -> None:
        while not self._stop.is_set():
            self._forget()
            room = self._n_open - len(self._open_parts)
            if room <= 0:
                self._changed.wait(_IDLE_S)
                self._changed.clear()
                continue
            parts = self._source.take(room, _TAKE_S)
            self._enter("running", "")
            for part in parts:
                future = self._inspect(part, self.name)
                self._open_parts.append((part, future))
                future.add_done_callback(self._tell)
        self._finish()

    def _finish(self) -> None:
        """Wait for the verdicts of what was taken, so that it needs not be brought again."""
        while self._open_parts:
            self._changed.clear()
            self._forget()
            if self._open_parts:
                self._changed.wait(_TAKE_S)

    def _tell(self, _written: Future[Inspection]) -> None:
        self._changed.set()
        self._wake_sinks()

    def _forget(self) -> None:
        """Tell the source of all verdicts that are written."""
        still: list[tuple[Part, Future[Inspection]]] = []
        done: list[tuple[Part, Future[Inspection]]] = []
        for part, future in self._open_parts:
            (done if future.done() else still).append((part, future))
        self._open_parts = still
        for part, future in done:
            self._source.forget(part, future.result())
            self._n_done += 1


class _SinkWorker(_Worker):
    kind = "sink"

    def __init__(self, sink: Sink, store: Store, pauses: Pauses) -> None:
        super().__init__(sink.name, pauses)
        self._sink = sink
        self._store = store
        self._changed = threading.Event()  # a verdict is written, or it is time to stop

    def wake(self) -> None:
        """There may be something to deliver."""
        self._changed.set()

    def stop(self) -> None:
        super().stop()
        self._changed.set()

    def _open(self) -> None:
        self._sink.open()

    def _close(self) -> None:
        self._sink.close()

    def _work(self) -> None:
        while True:
            is_last = self._stop.is_set()  # what was finished before is delivered still
            self._changed.clear()
            found = self._store.take_outbox(self.name, self._sink.n_together)
            if found:
                self._sink.deliver(found)
                self._store.mark_delivered(self.name, [one.arrival.id for one in found])
                self._n_done += len(found)
                self._enter("running", "")
            elif is_last:
                return
            else:
                self._sink.check()
                self._enter("running", "")
                self._changed.wait(_IDLE_S)


class Supervisor:
    """Runs sources and sinks until it is closed.

    Args:
        inspect: Inspects a part of a source of this name. It may wait until the part is admitted;
            its future ends once the verdict is written.
        store: Knows what sinks have not got yet.
        sources: Where parts come from.
        sinks: Where verdicts go to.
        n_open: Parts of one source that are inspected at a time, at most.
        pauses: Before something that failed is tried again.
    """

    def __init__(
        self,
        inspect: Inspect,
        store: Store,
        sources: Sequence[Source],
        sinks: Sequence[Sink],
        *,
        n_open: int = 32,
        pauses: Pauses | None = None,
    ) -> None:
        pauses = pauses or Pauses()
        self._sinks = [_SinkWorker(sink, store, pauses) for sink in sinks]
        self._sources = [
            _SourceWorker(source, inspect, n_open, self.wake, pauses) for source in sources
        ]

    def start(self) -> None:
        """Begin."""
        for worker in (*self._sinks, *self._sources):
            worker.start()

    def wake(self) -> None:
        """Let sinks look for verdicts now: one was written."""
        for worker in self._sinks:
            worker.wake()

    @property
    def states(self) -> list[WorkerState]:
        """How each source and each sink is."""
        return [worker.state for worker in (*self._sources, *self._sinks)]

    def stop_sources(self, timeout_s: float = 10.0) -> bool:
        """Take no more parts, and wait for the verdicts of those taken; whether all ended."""
        return _stop(self._sources, timeout_s)

    def stop_sinks(self, timeout_s: float = 5.0) -> bool:
        """Deliver what there is, and end; what a sink does not take now it gets the next time."""
        return _stop(self._sinks, timeout_s)


def _stop(workers: Sequence[_Worker], timeout_s: float) -> bool:
    for worker in workers:
        worker.stop()
    end_s = time.monotonic() + timeout_s
    are_done = [worker.join(max(0.0, end_s - time.monotonic())) for worker in workers]
    return all(are_done)
