"""Processes that may hang, crash or take all memory, forked from a server that has torch loaded."""

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import psutil

TESTS = Path(__file__).parents[1]
LONGEST_S = 10.0
MOST_BYTES = 1_500_000_000  # above the start
_PREPARE_S = 300.0
_LOOK_S = 0.03  # between two looks at the memory


def start_server(home: Path) -> ForkServerContext:
    """Start what forks; its processes have a cache and temporary files of their own."""
    home.mkdir(parents=True)
    path = (str(TESTS), os.environ.get("PYTHONPATH", ""))
    mine = {
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "XDG_CACHE_HOME": str(home),
        "TMPDIR": str(home),
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",
        "PYTHONWARNINGS": "ignore",
    }
    before = dict(os.environ)
    os.environ.update(mine)
    try:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["hostile.preload"])
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


class BrokenError(Exception):
    """A process that did not answer as it must: how it ended is the first argument."""


@dataclass
class Worker:
    """A process that is asked things, one at a time, and watched meanwhile."""

    process: ForkServerProcess
    connection: Connection
    start_bytes: int = 0

    @classmethod
    def start(
        cls, context: ForkServerContext, serve: Callable[..., None], *arguments: object
    ) -> "Worker":
        """Start one; ``serve`` is given a connection, and then the arguments."""
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, *arguments), daemon=False)
        process.start()
        theirs.close()
        return cls(process, ours)

    def ask(self, question: object) -> Any:
        """Ask something; ready comes first, then the answer within the bounds.

        Raises:
            BrokenError: ``hang``, ``memory`` or ``crash``, and by what signal.
        """
        try:
            self.connection.send(question)
        except OSError:
            raise BrokenError("crash", self._describe_end()) from None
        self._receive(_PREPARE_S, bounded=False)
        self.start_bytes = self._rss()
        return self._receive(LONGEST_S, bounded=True)

    def _receive(self, longest_s: float, *, bounded: bool) -> Any:
        end_s = time.monotonic() + longest_s
        while not self.connection.poll(_LOOK_S):
            if time.monotonic() > end_s:
                raise BrokenError("hang", f"after {longest_s:g} s")
            if bounded and self._rss() - self.start_bytes > MOST_BYTES:
                raise BrokenError("memory", "over the bound")
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            raise BrokenError("crash", self._describe_end()) from None

    def _rss(self) -> int:
        with suppress(psutil.Error):
            return int(psutil.Process(self.process.pid).memory_info().rss)
        return 0

    def _describe_end(self) -> str:
        self.process.join(5)
        code = self.process.exitcode
        return f"{signal.Signals(-code).name}" if code is not None and code < 0 else f"exit {code}"

    def stop(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.join()
        self.connection.close()


@dataclass(frozen=True)
class Ended:
    """A command that ended."""

    status: int | None  # None when it was killed or hung
    said: str  # on stderr, and on stdout
    n_events: int  # calls that changed files, when it came to its end
    hung: bool = False


class Command:
    """A padim command in a process of its own."""

    def __init__(
        self,
        context: ForkServerContext,
        arguments: tuple[str, ...],
        folder: Path,
        kill_before: int | None = None,
        wait_s: float = 0,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        handle, name = tempfile.mkstemp(prefix="said-")
        os.close(handle)
        self._log = Path(name)
        self._connection, theirs = context.Pipe(duplex=False)
        self.process = context.Process(
            target=_run_command,
            args=(
                theirs,
                arguments,
                str(folder),
                str(self._log),
                kill_before,
                wait_s,
                variables or {},
            ),
        )
        self.process.start()
        theirs.close()

    def kill_after(self, seconds: float) -> None:
        """Kill it at a moment, if it has not ended before."""
        self.process.join(seconds)
        self.process.kill()

    def wait(self, longest_s: float = 300) -> Ended:
        """Wait for its end."""
        self.process.join(longest_s)
        hung = self.process.is_alive()
        self.process.kill()
        self.process.join()
        status, n_events = None, 0
        with suppress(EOFError, OSError):
            if self._connection.poll():
                status, n_events = self._connection.recv()
        self._connection.close()
        said = self._log.read_text(errors="backslashreplace")
        self._log.unlink()
        return Ended(status, said, n_events, hung)


def redirect(log: Path) -> None:
    """Write what this process says, that of libraries as well, to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for handle in (1, 2):
        os.dup2(file, handle)
    os.close(file)


def _run_command(
    connection: Connection,
    arguments: tuple[str, ...],
    folder: str,
    log: str,
    kill_before: int | None,
    wait_s: float,
    variables: Mapping[str, str],
) -> None:
    from hostile.events import count_events
    from padim.__main__ import main

    redirect(Path(log))
    os.chdir(folder)
    os.environ.update(variables)
    if packages := variables.get("PYTHONPATH"):
        sys.path.insert(0, packages)
    sys.argv = ["padim", *arguments]
    time.sleep(wait_s)
    count = count_events(Path(folder), kill_before)
    status = 1
    try:
        status = main()
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    finally:
        connection.send((status, count()))
