"""Processes of ``torchrun``, such as one for each GPU: the first asks, and works as well."""

import os
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import count, islice
from typing import Any, Generic, TypeVar, cast

import torch
from torch import distributed

from padim.errors import ClusterError
from padim.workers.protocol import Ended, Message, Tell, attempt, read_last

T = TypeVar("T")
R = TypeVar("R")

_LONGEST = timedelta(
    days=7
)  # that ranks wait while the first merges; one that dies is known at once
_numbers = count()
_blobs: dict[int, Any] = {}
_unheld: deque[int] = deque()  # of what was put, once nobody on the first rank holds it


@dataclass(frozen=True)
class _Put(Generic[T]):
    number: int

    def get(self) -> T:
        return cast(T, _blobs[self.number])


@dataclass(frozen=True)
class _Order:
    """What the first rank asks of all: to keep something, to do work, or, with neither, to end."""

    kept: tuple[int, object] | None = None
    forgotten: tuple[int, ...] = ()
    work: Callable[[Any, Tell], Any] | None = None


@dataclass(frozen=True)
class _Given:
    item: object


@dataclass(frozen=True)
class _Done:
    told: list[object]
    last: Message


@dataclass(frozen=True)
class Ranks:
    """``Workers`` that are the ranks of ``torch.distributed``; asked by the first of them.

    They do a piece each, and then the next: pieces should take about as long.

    Attributes:
        n_threads: Cores that each has.
    """

    n_threads: int

    def describe(self) -> str:
        """Who they are."""
        return f"torchrun, {distributed.get_world_size()} ranks"

    def put(self, blob: T) -> _Put[T]:
        """As ``Workers.put``."""
        put: _Put[T] = _Put(next(_numbers))
        forgotten = tuple(_unheld.popleft() for _ in range(len(_unheld)))
        _keep(_tell_all(_Order(kept=(put.number, blob), forgotten=forgotten)))
        weakref.finalize(put, _unheld.append, put.number)
        return put

    def map(
        self,
        work: Callable[[T, Tell], R],
        items: Iterable[T],
        hear: Callable[[Any], None],
        clean_up: Callable[[T], None] = lambda item: None,
    ) -> Generator[Ended[T, R], None, None]:
        """As ``Workers.map``; where a rank dies, ``torchrun`` ends all."""
        waiting, n_ranks = iter(items), distributed.get_world_size()
        while pieces := list(islice(waiting, n_ranks)):
            _tell_all(_Order(work=work))
            given = [*map(_Given, pieces), *[None] * (n_ranks - len(pieces))]
            try:
                done = _share(work, given, hear)
            except BaseException:
                for item in pieces:
                    clean_up(item)
                raise
            for item, one in zip(pieces, done, strict=False):
                for content in one.told:
                    hear(content)
                yield read_last(item, one.last)


def _share(
    work: Callable[[Any, Tell], Any],
    given: list[_Given | None] | None,
    hear: Callable[[Any], None] | None,
) -> list[_Done]:
    """Do a piece of those that the first rank gives, and give it what came of it."""
    own: list[_Given | None] = [None]
    told: list[object] = []
    with _naming_death():
        distributed.scatter_object_list(own, given)
    done = None
    if own[0] is not None:
        done = _Done(told, attempt(work, own[0].item, hear or told.append))
    gathered: list[Any] | None = None if given is None else [None] * len(given)
    with _naming_death():
        distributed.gather_object(done, gathered)
    return [one for one in gathered or () if one is not None]


def _keep(order: _Order) -> None:
    """Keep what was put, and forget what nobody will ask for any more."""
    for number in order.forgotten:
        _blobs.pop(number)
    if order.kept is not None:
        number, blob = order.kept
        _blobs[number] = blob


def _tell_all(order: _Order) -> _Order:
    """Hear what the first rank says, or say it."""
    orders = [order]
    with _naming_death():
        distributed.broadcast_object_list(orders)
    return orders[0]


@contextmanager
def _naming_death() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ClusterError(
            "A process of torchrun has ended. Its own last words say why."
        ) from error


def require_ranks() -> None:
    """Make sure that ``torchrun`` has started this process.

    Raises:
        ClusterError: It has not.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        raise ClusterError(
            "--cluster torchrun is for what torchrun starts, but it has not started this. Begin "
            "with torchrun --nproc-per-node 2 -m padim."
        )


def is_first() -> bool:
    """Whether this rank is the one that asks."""
    return os.environ["RANK"] == "0"


@contextmanager
def lead(n_threads: int) -> Iterator[Ranks]:
    """Ask the other ranks, within the block.

    Args:
        n_threads: Cores of this machine that the work may take.

    Raises:
        ClusterError: One of them has ended.
    """
    n_here = int(os.environ["LOCAL_WORLD_SIZE"])
    with _joined():
        try:
            yield Ranks(max(1, n_threads // n_here))
        finally:
            with suppress(ClusterError):
                _tell_all(_Order())


def follow() -> None:
    """Do what the first rank asks, until it asks no more.

    Raises:
        ClusterError: It has ended.
    """
    with _joined():
        while True:
            order = _tell_all(_Order())
            if order.kept is not None:
                _keep(order)
            elif order.work is not None:
                _share(order.work, None, None)
            else:
                return


@contextmanager
def _joined() -> Iterator[None]:
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    with _naming_death():
        distributed.init_process_group("gloo", timeout=_LONGEST)
    try:
        yield
    finally:
        distributed.destroy_process_group()
