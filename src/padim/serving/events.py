"""Answers as they come, for whoever listens."""

import asyncio
import threading
from collections import deque

from padim.serving.inspector import Answer
from padim.store.record import Record

_KEPT = 50  # of the last, for who begins to listen
_WAITING = 200  # for one listener, who misses the oldest when slower


class Events:
    """Sends the record of each inspection to all who listen."""

    def __init__(self) -> None:
        self._last: deque[Record] = deque(maxlen=_KEPT)
        self._listeners: dict[asyncio.Queue[Record], asyncio.AbstractEventLoop] = {}
        self._lock = threading.Lock()

    def send(self, answer: Answer) -> None:
        """Tell all of an answer, from any thread."""
        record = Record.of(answer.inspection)
        with self._lock:
            self._last.append(record)
            listeners = list(self._listeners.items())
        for queue, loop in listeners:
            loop.call_soon_threadsafe(_put, queue, record)

    def listen(self) -> asyncio.Queue[Record]:
        """Begin to listen in this thread's event loop; the last ones are there at once."""
        queue: asyncio.Queue[Record] = asyncio.Queue(_WAITING)
        with self._lock:
            for record in self._last:
                queue.put_nowait(record)
            self._listeners[queue] = asyncio.get_running_loop()
        return queue

    def leave(self, queue: asyncio.Queue[Record]) -> None:
        """Listen no more."""
        with self._lock:
            self._listeners.pop(queue, None)


def _put(queue: asyncio.Queue[Record], record: Record) -> None:
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(record)
