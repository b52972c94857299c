"""Independent pieces of work in processes of their own: one that dies takes no other with it."""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any, Generic, NamedTuple, TypeVar

from padim.errors import failure_of

if sys.platform == "win32":
    from multiprocessing.connection import PipeConnection as Connection
else:
    from multiprocessing.connection import Connection

T = TypeVar("T")
R = TypeVar("R")
Tell = Callable[[Any], None]

_SPAWN = multiprocessing.get_context("spawn")  # a fork would share threads and locks of torch


class Ended(NamedTuple, Generic[T, R]):
    """What came of a piece of work."""

    item: T  # what it was done with
    result: R | None  # what it gave; None when it failed
    failure: tuple[str, str] | None  # the error's class and what it said; None without one


def in_processes(
    work: Callable[[T, Tell], R],
    items: Sequence[T],
    n_workers: int,
    hear: Callable[[Any], None],
    clean_up: Callable[[T], None] = lambda item: None,
) -> Generator[Ended[T, R], None, None]:
    """Do work in processes, a few at a time.

    Args:
        work: A function of a module, given an item and something to tell progress with.
        items: What to do it with; must survive pickling, as must what it gives.
        n_workers: Processes at a time.
        hear: Given what a process tells.
        clean_up: Given the item of a process that could not clean up, once it is gone.

    Yields:
        What came of each, in the order in which they end. A failure, as ``failure_of`` says, and
        the death of a process are results; whatever else is raised there is raised here. All
        processes end when the iteration is left.
    """
    waiting = list(reversed(items))
    running: dict[Connection, tuple[T, Any]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < n_workers:
                item = waiting.pop()
                ours, theirs = _SPAWN.Pipe(duplex=False)
                process = _SPAWN.Process(target=_run, args=(work, item, theirs), daemon=True)
                with _deaf():
                    process.start()
                theirs.close()
                running[ours] = item, process
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                item, process = running[ready]
                try:
                    kind, content = ready.recv()
                except EOFError:
                    process.join()
                    clean_up(item)
                    kind, content = "failed", ("ProcessDied", _describe_death(process.exitcode))
                if kind == "told":
                    hear(content)
                    continue
                del running[ready]
                ready.close()
                process.join()
                if kind == "raised":
                    raise content
                if kind == "failed":
                    yield Ended(item, None, content)
                else:
                    yield Ended(item, content, None)
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


def _run(work: Callable[[T, Tell], R], item: T, parent: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def tell(content: Any) -> None:
        parent.send(("told", content))

    message: tuple[str, Any]
    try:
        message = ("done", work(item, tell))
    except Exception as error:
        failure = failure_of(error)
        message = ("raised", _make_portable(error)) if failure is None else ("failed", failure)
    parent.send(message)


def _end_with_parent() -> None:
    """End this process when its parent is gone: nobody waits for it, and others may start."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _make_portable(error: Exception) -> Exception:
    """An error that reaches the parent, with where it was raised."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class does
        error = RuntimeError(f"{type(error).__name__}: {error}").with_traceback(error.__traceback__)
    error.add_note("".join(traceback.format_exception(error)))
    return error


def _describe_death(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        advice = "If the memory ran out, use fewer --workers or a --max-memory."
        return f"Its process was ended by signal {-exit_code}. {advice}"
    return f"Its process ended with status {exit_code} and gave no result. Run it alone."
