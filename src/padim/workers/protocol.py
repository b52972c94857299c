"""What whoever spreads work over workers does, be they processes here or machines of a cluster."""

import pickle
import traceback
from collections.abc import Callable, Generator, Iterable
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from padim.errors import PadimError, failure_of

T = TypeVar("T")
R = TypeVar("R")
T_co = TypeVar("T_co", covariant=True)
Tell = Callable[[Any], None]
Message = tuple[str, Any]  # kind and content: told, or done, failed or raised as the last


class Ended(NamedTuple, Generic[T, R]):
    """What came of a piece of work."""

    item: T  # what it was done with
    result: R | None  # what it gave; None when it failed
    failure: tuple[str, str] | None  # the error's class and what it said; None without one


class Shared(Protocol[T_co]):
    """Something that all pieces of work need; a worker may keep by it what it has made of it."""

    def get(self) -> T_co:
        """What was put."""

    def __hash__(self) -> int: ...


class Workers(Protocol):
    """Those who do pieces of work, a few at a time."""

    def put(self, blob: T) -> Shared[T]:
        """Hand over what all pieces of some work need, so that no worker is sent it twice."""

    def map(
        self,
        work: Callable[[T, Tell], R],
        items: Iterable[T],
        hear: Callable[[Any], None],
        clean_up: Callable[[T], None] = lambda item: None,
    ) -> Generator[Ended[T, R], None, None]:
        """Do work with each of some items.

        Args:
            work: A function of a module, given an item and something to tell progress with.
            items: What to do it with, taken when a worker is about to be free; must survive
                pickling, as must what it gives.
            hear: Given what a worker tells.
            clean_up: Given the item of a worker that could not clean up, once it is gone.

        Yields:
            What came of each, in the order in which they end. A failure, as ``failure_of`` says,
            and the death of a worker are results; whatever else is raised there is raised here.
            All work ends when the iteration is left.
        """


class Cluster(Workers, Protocol):
    """Workers that are not only processes of this one."""

    @property
    def n_threads(self) -> int:
        """Cores that a piece of work takes."""

    def describe(self) -> str:
        """What there is of them."""


def attempt(work: Callable[[T, Tell], R], item: T, tell: Tell) -> Message:
    """Do a piece of work where a worker is, and give the last that is said of it."""
    try:
        return "done", work(item, tell)
    except Exception as error:
        failure = failure_of(error)
        return ("raised", _make_portable(error)) if failure is None else ("failed", failure)


def take_result(ended: Ended[T, R]) -> R:
    """What a piece of work gave that others cannot do without.

    Raises:
        PadimError: It failed.
    """
    if ended.result is None:
        raise PadimError(ended.failure[1] if ended.failure else "A worker gave nothing.")
    return ended.result


def read_last(item: T, message: Message) -> Ended[T, Any]:
    """What came of a piece of work by the last that was said of it; raises what was raised."""
    kind, content = message
    if kind == "raised":
        raise content
    return Ended(item, None, content) if kind == "failed" else Ended(item, content, None)


def _make_portable(error: Exception) -> Exception:
    """An error that reaches another process, with where it was raised."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class does
        error = RuntimeError(f"{type(error).__name__}: {error}").with_traceback(error.__traceback__)
    error.add_note("".join(traceback.format_exception(error)))
    return error
