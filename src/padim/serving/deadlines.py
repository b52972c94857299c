"""A clock that calls back: what is not answered by its deadline is told so."""

import heapq
import threading
import time
from collections.abc import Callable
from itertools import count


class Deadlines:
    """Calls back at given times, in a thread of its own."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="padim-deadlines", daemon=True)
        self._thread.start()

    def at(self, time_s: float, call: Callable[[], None]) -> None:
        """Have something called at a time of the monotonic clock; it must not take long."""
        with self._changed:
            heapq.heappush(self._heap, (time_s, next(self._number), call))
            if self._heap[0][0] == time_s:
                self._changed.notify()

    def close(self) -> None:
        """End the thread; what was to be called is not."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._is_closed and not self._due():
                    wait_s = self._heap[0][0] - time.monotonic() if self._heap else None
                    self._changed.wait(wait_s)
                if self._is_closed:
                    return
                _, _, call = heapq.heappop(self._heap)
            call()

    def _due(self) -> bool:
        return bool(self._heap) and self._heap[0][0] <= time.monotonic()
