"""A clock that calls back: what is not answered by its deadline is told so."""

import heapq
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import count

_MOST_DROPPED = 100  # times that nobody waits for, kept so that few are looked through


class Deadlines:
    """Calls back at given times, in a thread of its own."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._calls: dict[int, Callable[[], None]] = {}  # by their numbers
        self._number = count()
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="padim-deadlines", daemon=True)
        self._thread.start()

    def at(self, time_s: float, call: Callable[[], None]) -> Callable[[], None]:
        """Have something called at a time of the monotonic clock; it must not take long.

        Returns:
            What lets go of it, when it is not to be called any more.
        """
        with self._changed:
            number = next(self._number)
            self._calls[number] = call
            heapq.heappush(self._heap, (time_s, number))
            if self._heap[0][0] == time_s:
                self._changed.notify()
        return partial(self._drop, number)

    def _drop(self, number: int) -> None:
        with self._changed:
            self._calls.pop(number, None)
            if len(self._heap) > 2 * len(self._calls) + _MOST_DROPPED:
                self._heap = [one for one in self._heap if one[1] in self._calls]
                heapq.heapify(self._heap)

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
                call = self._calls.pop(heapq.heappop(self._heap)[1], None)
            if call is not None:
                call()

    def _due(self) -> bool:
        return bool(self._heap) and self._heap[0][0] <= time.monotonic()
