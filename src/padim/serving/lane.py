"""One model and the thread that scores by it: what waits is scored together."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from padim.errors import ModelFileError
from padim.images.ahead import Loaded
from padim.scoring.prediction import Prediction
from padim.scoring.predictor import Predictor

MOST_TOGETHER = 16  # pictures
_LEARNING = 0.1  # weight of a new measurement of the pace
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scored:
    """What a lane says of a picture: a prediction, or why there is none."""

    prediction: Prediction | None
    failure: str
    n_together: int
    queue_ms: float
    score_ms: float


@dataclass(frozen=True)
class _Waiting:
    image: Loaded
    since_s: float  # of the monotonic clock
    is_wanted: Callable[[], bool]
    tell: Callable[[Scored], None]


class Lane:
    """Scores pictures by one model, in the order in which they come.

    A picture enters, is put when it is decoded, and leaves when it has been answered. From how many
    are inside, and from the pace, follows when another one would be answered.

    Args:
        predictor: The model.
        pace_s: Seconds for one picture, as measured before.
    """

    def __init__(self, predictor: Predictor, pace_s: float) -> None:
        self.predictor = predictor
        self._pace_s = pace_s
        self._waiting: deque[_Waiting] = deque()
        self._n_inside = 0
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="padim-score", daemon=True)
        self._thread.start()

    @property
    def n_inside(self) -> int:
        """Pictures that have entered and not left."""
        return self._n_inside

    @property
    def n_waiting(self) -> int:
        """Pictures that are decoded and not scored."""
        return len(self._waiting)

    def estimate_s(self, n_more: int = 1) -> float:
        """Seconds until so many more pictures would be answered."""
        return (self._n_inside + n_more) * self._pace_s

    def enter(self) -> bool:
        """Let a picture in; not when the lane is closed."""
        with self._changed:
            if not self._is_closed:
                self._n_inside += 1
            return not self._is_closed

    def leave(self) -> None:
        """Let a picture out that has been answered."""
        with self._changed:
            self._n_inside -= 1
            self._changed.notify_all()

    def put(
        self, image: Loaded, is_wanted: Callable[[], bool], tell: Callable[[Scored], None]
    ) -> None:
        """Have a picture scored.

        Args:
            image: As the predictor reads it.
            is_wanted: Asked before it is scored; it is left out if not.
            tell: Called in the thread of the lane, which waits for it meanwhile.
        """
        with self._changed:
            self._waiting.append(_Waiting(image, time.monotonic(), is_wanted, tell))
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread once all that have entered have left."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    @property
    def is_running(self) -> bool:
        """Whether its thread has not ended."""
        return self._thread.is_alive()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until its thread has ended."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        last_s = time.monotonic()
        while batch := self._take():
            started_s = time.monotonic()
            wanted = [one for one in batch if one.is_wanted()]
            results = _judge(self.predictor, [one.image for one in wanted])
            ended_s = time.monotonic()
            if wanted:
                # Of a lane that is busy, the time between two batches holds all that is done.
                began_s = max(last_s, min(one.since_s for one in wanted))
                self._learn((ended_s - min(began_s, started_s)) / len(wanted))
            last_s = ended_s
            for one, result in zip(wanted, results, strict=True):
                one.tell(
                    Scored(
                        result if isinstance(result, Prediction) else None,
                        result if isinstance(result, str) else "",
                        len(wanted),
                        1e3 * (started_s - one.since_s),
                        1e3 * (ended_s - started_s),
                    )
                )

    def _take(self) -> list[_Waiting]:
        """Wait for pictures, and take what waits; none when the lane has ended."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._waiting or (self._is_closed and not self._n_inside)
            )
            n_taken = min(MOST_TOGETHER, len(self._waiting))
            return [self._waiting.popleft() for _ in range(n_taken)]

    def _learn(self, pace_s: float) -> None:
        self._pace_s += _LEARNING * (pace_s - self._pace_s)


def _judge(predictor: Predictor, images: Sequence[Loaded]) -> list[Prediction | str]:
    """Score pictures together; where that fails, each alone, so that one spoils no other."""
    if not images:
        return []
    try:
        return list(predictor.judge(images, traced=True))
    except Exception as error:  # whatever it is, each picture gets its answer
        if len(images) > 1:
            return [_judge(predictor, [image])[0] for image in images]
        _log.exception("a picture cannot be scored")
        if isinstance(error, ModelFileError | MemoryError):
            return [f"The picture cannot be scored: {error or 'memory is full'}"]
        return [f"The picture cannot be scored ({type(error).__name__}: {error})."]
