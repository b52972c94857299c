"""One thread that writes what many hand in: whatever waits is one transaction."""

import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from padim.store.inspection import Arrival, Inspection
from padim.store.store import Store

_MOST = 500  # in one transaction
_PAUSES_S = (0.05, 0.2, 1.0, 5.0)  # before it is tried again; the last for ever
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Accept:
    arrival: Arrival
    future: Future[Arrival | Inspection]


@dataclass(frozen=True)
class _Finish:
    inspection: Inspection
    future: Future[Inspection]


class Writer:
    """Writes arrivals and verdicts, and says so by futures.

    A database that cannot be written, for its disk is full or its server gone, is tried again with
    growing pauses for as long as the process lives: no verdict is lost before.

    Args:
        store: The database.
        sinks: Who receives the inspections of a recipe.
    """

    def __init__(self, store: Store, sinks: Mapping[str, Sequence[str]]) -> None:
        self._store = store
        self._sinks = sinks
        self._waiting: list[_Accept | _Finish] = []
        self._is_closed = False
        self._trouble = ""
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="padim-database", daemon=True)
        self._thread.start()

    @property
    def trouble(self) -> str:
        """Why the database cannot be written now; empty when it can."""
        return self._trouble

    def accept(self, arrival: Arrival) -> Future[Arrival | Inspection]:
        """Write down what came, as ``Store.accept`` does."""
        future: Future[Arrival | Inspection] = Future()
        self._put(_Accept(arrival, future))
        return future

    def finish(self, inspection: Inspection) -> Future[Inspection]:
        """Write a verdict, as ``Store.finish`` does."""
        future: Future[Inspection] = Future()
        self._put(_Finish(inspection, future))
        return future

    def close(self, timeout_s: float | None = None) -> bool:
        """Write what waits, and end; whether all of it was written."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _put(self, job: _Accept | _Finish) -> None:
        with self._changed:
            if self._is_closed:
                raise RuntimeError("the writer is closed")
            self._waiting.append(job)
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                jobs, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
            if not jobs:
                return
            self._write(jobs)

    def _write(self, jobs: Sequence[_Accept | _Finish]) -> None:
        """Write some jobs in one transaction, however long it takes."""
        arriving = [one for one in jobs if isinstance(one, _Accept)]
        ending = [one for one in jobs if isinstance(one, _Finish)]
        n_tried = 0
        while True:
            try:
                accepted, finished = self._store.write(
                    [one.arrival for one in arriving],
                    [one.inspection for one in ending],
                    self._sinks,
                )
            except SQLAlchemyError as error:
                if not self._trouble:
                    _log.error("the database cannot be written, and is tried again: %s", error)
                self._trouble = f"The database cannot be written: {str(error).splitlines()[0]}"
                pause_s = _PAUSES_S[min(n_tried, len(_PAUSES_S) - 1)]
                n_tried += 1
                threading.Event().wait(pause_s)
            except Exception as error:  # a mistake in the code must not leave anyone waiting
                _log.exception("inspections cannot be written")
                for job in jobs:
                    job.future.set_exception(error)
                return
            else:
                break
        self._trouble = ""
        for arrival, was in zip(arriving, accepted, strict=True):
            arrival.future.set_result(was)
        for end, inspection in zip(ending, finished, strict=True):
            end.future.set_result(inspection)
