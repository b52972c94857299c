"""Answers as they come, for whoever listens."""

import asyncio
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress

from padim.serving.job import Answer
from padim.store.record import Record
from padim.store.store import Alarm

Event = Record | Alarm | None  # None ends it

N_KEPT = 50  # of the last, for who begins to listen
_WAITING = 200  # for one listener, who misses the oldest when slower


class Events:
    """Sends the record of each inspection to all who listen.

    Args:
        last: What was inspected before, the oldest first.
    """

    def __init__(self, last: Iterable[Record] = ()) -> None:
        self._last: deque[Record | Alarm] = deque(last, maxlen=N_KEPT)
        self._listeners: dict[asyncio.Queue[Event], asyncio.AbstractEventLoop] = {}
        self._is_closed = False
        self._lock = threading.Lock()

    def send(self, answer: Answer) -> None:
        """Tell all of an answer, from any thread."""
        self._send(Record.of(answer.inspection))

    def send_alarm(self, alarm: Alarm) -> None:
        """Tell all of an alarm, from any thread."""
        self._send(alarm)

    def close(self) -> None:
        """Let all who listen end, so that a server may."""
        with self._lock:
            self._is_closed = True
        self._send(None)

    def _send(self, one: Event) -> None:
        with self._lock:
            if one is not None:
                self._last.append(one)
            listeners = list(self._listeners.items())
        for queue, loop in listeners:
            with suppress(RuntimeError):  # a loop that has ended without leaving
                loop.call_soon_threadsafe(_put, queue, one)

    def listen(self, after: str = "") -> asyncio.Queue[Event]:
        """Begin to listen in this thread's event loop; the last ones are there at once.

        Args:
            after: The inspection that was heard last, whose successors are wanted; all that are
                kept when it is none of them.
        """
        queue: asyncio.Queue[Event] = asyncio.Queue(_WAITING)
        with self._lock:
            for one in _list_after(list(self._last), after):
                queue.put_nowait(one)
            if self._is_closed:
                queue.put_nowait(None)
            self._listeners[queue] = asyncio.get_running_loop()
        return queue

    @property
    def n_listeners(self) -> int:
        """Who listens now."""
        return len(self._listeners)

    def leave(self, queue: asyncio.Queue[Event]) -> None:
        """Listen no more."""
        with self._lock:
            self._listeners.pop(queue, None)


def _list_after(kept: list[Record | Alarm], after: str) -> list[Record | Alarm]:
    ids = [one.id if isinstance(one, Record) else None for one in kept]
    return kept[ids.index(after) + 1 :] if after in ids else kept


def _put(queue: asyncio.Queue[Event], one: Event) -> None:
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(one)
