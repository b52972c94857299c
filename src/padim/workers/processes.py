"""Pieces of work in processes of their own: one that dies takes no other with it."""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Generic, TypeVar

from padim.temporary import TemporaryFolder
from padim.workers.protocol import Ended, Tell, attempt, read_last

if sys.platform == "win32":
    from multiprocessing.connection import PipeConnection as Connection
else:
    from multiprocessing.connection import Connection

T = TypeVar("T")
R = TypeVar("R")

_SPAWN = multiprocessing.get_context("spawn")  # a fork would share threads and locks of torch


@dataclass(frozen=True, eq=False)  # whatever the blob is, it is a key
class _Sent(Generic[T]):
    """What goes with each piece of work, whose process has no other."""

    blob: T

    def get(self) -> T:
        return self.blob


@dataclass(frozen=True)
class Processes:
    """``Workers`` that are processes of this machine, one for each piece of work.

    Their temporary files are in a folder that goes with them.
    """

    n_workers: int  # at a time

    def put(self, blob: T) -> _Sent[T]:
        """As ``Workers.put``."""
        return _Sent(blob)

    def map(
        self,
        work: Callable[[T, Tell], R],
        items: Iterable[T],
        hear: Callable[[Any], None],
        clean_up: Callable[[T], None] = lambda item: None,
    ) -> Generator[Ended[T, R], None, None]:
        """As ``Workers.map``."""
        with TemporaryFolder() as scratch:
            yield from self._map(work, iter(items), hear, clean_up, scratch)

    def _map(
        self,
        work: Callable[[T, Tell], R],
        waiting: Iterator[T],
        hear: Callable[[Any], None],
        clean_up: Callable[[T], None],
        scratch: Path,
    ) -> Generator[Ended[T, R], None, None]:
        running: dict[Connection, tuple[T, Any]] = {}
        is_over = False
        try:
            while True:
                while not is_over and len(running) < self.n_workers:
                    try:
                        item = next(waiting)
                    except StopIteration:
                        is_over = True
                        break
                    ours, theirs = _SPAWN.Pipe(duplex=False)
                    given = work, item, theirs, scratch
                    process = _SPAWN.Process(target=_run, args=given, daemon=True)
                    with _deaf():
                        process.start()
                    theirs.close()
                    running[ours] = item, process
                if not running:
                    return
                for ready in wait(list(running)):
                    assert isinstance(ready, Connection)
                    item, process = running[ready]
                    try:
                        message = ready.recv()
                    except EOFError:
                        process.join()
                        clean_up(item)
                        death = "ProcessDied", _describe_death(process.exitcode)
                        message = "failed", death
                    if message[0] == "told":
                        hear(message[1])
                        continue
                    del running[ready]
                    ready.close()
                    process.join()
                    yield read_last(item, message)
        finally:
            for _, process in running.values():
                process.terminate()
            for item, process in running.values():
                process.join()
                clean_up(item)


@contextmanager
def _deaf() -> Iterator[None]:
    """Let a process that is started here not hear a Ctrl-C: its parent does, and ends it."""
    if sys.platform == "win32":  # it ignores the signal itself, as soon as it can
        yield
    else:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run(work: Callable[[T, Tell], R], item: T, parent: Connection, scratch: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tempfile.tempdir = str(scratch)
    parent.send(attempt(work, item, lambda content: parent.send(("told", content))))


def _end_with_parent() -> None:
    """End this process when its parent is gone: nobody waits for it, and others may start."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _describe_death(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        advice = "If the memory ran out, use fewer --workers or a --max-memory."
        return f"Its process was ended by signal {-exit_code}. {advice}"
    return f"Its process ended with status {exit_code} and gave no result. Run it alone."
