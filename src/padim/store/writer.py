"""One thread that writes what many hand in: whatever waits is one transaction."""

import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, repeat

from padim.store.database import UnavailableError
from padim.store.inspection import Arrival, Inspection, Verdict, refuse
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
    growing pauses for as long as the process lives: no verdict is lost before. What it will never
    take keeps nothing else from being written, and ends as not inspected if it was accepted.

    Args:
        store: The database.
        sinks: Who receives the inspections of a recipe.
    """

    def __init__(self, store: Store, sinks: Mapping[str, Sequence[str]]) -> None:
        self._store = store
        self._sinks = sinks
        self._waiting: list[_Accept | _Finish] = []
        self._is_closed = False
        self._is_late = threading.Event()  # what cannot be written now is not tried again
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
        """Write what waits, and end; whether all of it was written.

        What cannot be written in time fails, and is ended when the station begins again.
        """
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            return True
        self._is_late.set()
        self._thread.join()
        return False

    def _put(self, job: _Accept | _Finish) -> None:
        job.future.set_running_or_notify_cancel()  # what is written cannot be taken back
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
        """Write some jobs in one transaction, however long it takes, or without what is wrong."""
        try:
            self._write_together(jobs)
        except UnavailableError as error:
            for job in jobs:
                job.future.set_exception(error)
        except Exception as error:  # a mistake must leave nobody waiting
            if len(jobs) > 1:
                half = len(jobs) // 2
                self._write(jobs[:half])
                self._write(jobs[half:])
            else:
                self._give_up(jobs[0], error)

    def _give_up(self, job: _Accept | _Finish, error: Exception) -> None:
        """End what cannot be written: a verdict as not inspected, if that can be written."""
        _log.error("an inspection cannot be written", exc_info=error)
        if isinstance(job, _Finish) and job.inspection.verdict is not Verdict.NOT_INSPECTED:
            reason = f"What was found cannot be written down ({type(error).__name__})."
            refused = _Finish(refuse(job.inspection.arrival, reason), job.future)
            with suppress(Exception):  # told below, as it was first
                self._write_together([refused])
                return
        job.future.set_exception(error)

    def _write_together(self, jobs: Sequence[_Accept | _Finish]) -> None:
        """Write some jobs in one transaction, and wait for a database that cannot be written."""
        arriving = [one for one in jobs if isinstance(one, _Accept)]
        ending = [one for one in jobs if isinstance(one, _Finish)]
        for pause_s in chain(_PAUSES_S, repeat(_PAUSES_S[-1])):
            try:
                accepted, finished = self._store.write(
                    [one.arrival for one in arriving],
                    [one.inspection for one in ending],
                    self._sinks,
                )
            except UnavailableError as error:
                if not self._trouble:
                    _log.error("%s What waits is tried again.", error)
                self._trouble = str(error)
                if self._is_late.wait(pause_s):
                    raise
            except BaseException:
                self._trouble = ""  # it answers, and will never take this
                raise
            else:
                break
        self._trouble = ""
        for arrival, was in zip(arriving, accepted, strict=True):
            arrival.future.set_result(was)
        for end, inspection in zip(ending, finished, strict=True):
            end.future.set_result(inspection)
