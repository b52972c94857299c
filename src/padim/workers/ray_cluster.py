"""Workers of a Ray cluster: pieces of work are tasks, and one whose worker dies is done again."""

import logging
import os
import queue
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

# Ray prints what befalls its workers on stdout; whoever asked for the work is told here.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # older releases warn of it

import ray
from ray.exceptions import RayError, RayTaskError

from padim.errors import ClusterError, format_count
from padim.workers.protocol import Ended, Message, Tell, attempt, read_last

T = TypeVar("T")
R = TypeVar("R")

MOST_DEATHS = 3
_ALIKE = "Install the same padim-efficientnet[cluster] on all machines."
_ADVICE = "If the memory ran out, take more --n-threads, so that fewer work on a machine."
_STORE_BYTES = 512 << 20  # of a Ray that is started here; more goes to its folder


@dataclass(frozen=True)
class _Put(Generic[T]):
    ref: "ray.ObjectRef[T]"

    def get(self) -> T:
        return ray.get(self.ref)


@dataclass
class _Piece(Generic[T]):
    item: T
    n_deaths: int = 0


@dataclass(frozen=True)
class RayCluster:
    """``Workers`` that are processes of a Ray cluster, as many as it has room for.

    Attributes:
        n_threads: Cores that a piece of work takes.
        n_gpus: GPUs that it takes.
    """

    n_threads: int = 1
    n_gpus: int = 0

    def asking(self, n_threads: int, n_gpus: int = 0) -> "RayCluster":
        """The same cluster, of which a piece of work takes so much.

        Raises:
            ClusterError: No machine of it has that.
        """
        for name, what, n in (("CPU", "cores", n_threads), ("GPU", "GPUs", n_gpus)):
            most = max(machine["Resources"].get(name, 0) for machine in _list_machines())
            if most < n:
                raise ClusterError(
                    f"The largest machine of the cluster has {most:g} {what}, but a piece of work "
                    f"takes {n}. Take fewer --n-threads or --device cpu, or add machines."
                )
        return replace(self, n_threads=n_threads, n_gpus=n_gpus)

    def describe(self) -> str:
        """What it has."""
        machines = _list_machines()
        n_cores = sum(machine["Resources"].get("CPU", 0) for machine in machines)
        return f"Ray, {format_count(len(machines), 'machine')}, {n_cores:g} cores"

    def put(self, blob: T) -> _Put[T]:
        """As ``Workers.put``: each machine is sent it once."""
        return _Put(ray.put(blob))

    def map(
        self,
        work: Callable[[T, Tell], R],
        items: Iterable[T],
        hear: Callable[[Any], None],
        clean_up: Callable[[T], None] = lambda item: None,
    ) -> Generator[Ended[T, R], None, None]:
        """As ``Workers.map``; a piece whose worker dies is begun anew, twice at most."""
        task: Any = ray.remote(_do).options(
            num_cpus=self.n_threads, num_gpus=self.n_gpus, max_retries=0, num_returns="streaming"
        )
        waiting = map(_Piece, items)
        again: list[_Piece[T]] = []
        running: dict[Any, _Piece[T]] = {}  # by the stream of what is said of it
        try:
            while True:
                n_most = self._count_room()
                while len(running) < n_most:
                    next_piece = again.pop() if again else next(waiting, None)
                    if next_piece is None:
                        break
                    running[task.remote(work, next_piece.item, Path.cwd())] = next_piece
                if not running:
                    return
                stream: Any = ray.wait(list(running), num_returns=1)[0][0]
                piece = running[stream]
                try:
                    message: Message = ray.get(next(stream))
                except (
                    RayTaskError
                ) as error:  # not the work's own: it could not begin, or hand over
                    last = str(error).strip().rpartition("\n")[2].rstrip(".")
                    raise ClusterError(f"A worker cannot do this: {last}. {_ALIKE}") from error
                except RayError as error:
                    clean_up(piece.item)
                    piece.n_deaths += 1
                    if piece.n_deaths < MOST_DEATHS:
                        again.append(running.pop(stream))
                        continue
                    death = (
                        f"Its worker died {MOST_DEATHS} times ({type(error).__name__}). {_ADVICE}"
                    )
                    message = "failed", ("ProcessDied", death)
                if message[0] == "told":
                    hear(message[1])
                    continue
                del running[stream]
                yield read_last(piece.item, message)
        finally:
            for stream, piece in running.items():
                with suppress(RayError):
                    ray.cancel(stream, force=True)
                clean_up(piece.item)

    def _count_room(self) -> int:
        """How many pieces to have handed over: as many wait on the machines as are done there."""
        there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray's
        asked = ("CPU", self.n_threads), ("GPU", self.n_gpus)
        return 2 * max(1, int(min(there.get(name, 0) // n for name, n in asked if n)))


def _do(work: Callable[[T, Tell], Any], item: T, place: Path) -> Iterator[Message]:
    """Do a piece of work where a worker is, and give what it tells as it comes."""
    with suppress(OSError):  # paths begin where the work was asked for, if that is there
        os.chdir(place)
    told: queue.SimpleQueue[Message] = queue.SimpleQueue()

    def run() -> None:
        told.put(attempt(work, item, lambda content: told.put(("told", content))))

    threading.Thread(target=run, daemon=True).start()
    message: Message = ("told", None)
    while message[0] == "told":
        message = told.get()
        yield message


def _list_machines() -> list[dict[str, Any]]:
    machines: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]  # Ray's, as it is
    return [machine for machine in machines if machine["Alive"]]


@contextmanager
def connect() -> Iterator[RayCluster]:
    """Join the cluster that ``RAY_ADDRESS`` names, or start a Ray here that ends with the block.

    A Ray that this process has joined before is taken as it is.

    Raises:
        ClusterError: It cannot be joined, or not be started.
    """
    if ray.is_initialized():
        yield RayCluster()
        return
    address = os.environ.get("RAY_ADDRESS")
    own: dict[str, Any] = {}  # keywords of ray.init, each of a type of its own
    if not address:
        # Ray's sockets are in it, and may have a hundred letters with all folders.
        folder = tempfile.mkdtemp("", "padim-", None if sys.platform == "win32" else "/tmp")
        own = {"include_dashboard": False, "object_store_memory": _STORE_BYTES, "_temp_dir": folder}
    before = signal.getsignal(signal.SIGTERM)  # Ray takes it
    try:
        try:
            ray.init(address or "local", log_to_driver=False, logging_level=logging.CRITICAL, **own)
        except Exception as error:  # it raises that class itself where a node does not start
            reason = str(error).partition("\n")[0].rstrip(".")
            advice = "Check RAY_ADDRESS." if address else "See whether disk and memory have room."
            raise ClusterError(f"Ray cannot be used: {reason}. {advice}") from error
        signal.signal(signal.SIGTERM, before)
        yield RayCluster()
    finally:
        ray.shutdown()
        if own:
            shutil.rmtree(own["_temp_dir"], ignore_errors=True)
