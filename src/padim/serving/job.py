"""A picture on its way through the service, and what becomes of it."""

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass

from padim.scoring.prediction import Prediction
from padim.serving.lane import Lane
from padim.store.inspection import Arrival, Findings, Inspection, refuse


@dataclass(frozen=True)
class Answer:
    """An inspection whose verdict is written, and what there is to draw of it."""

    inspection: Inspection
    prediction: Prediction | None
    is_late: bool = False  # whether it was not inspected for its deadline
    n_together: int = 0  # pictures that were scored with it, itself included


class Job:
    """A picture on its way. Whoever claims it first says what becomes of it."""

    def __init__(self, arrival: Arrival, picture: bytes, lane: Lane) -> None:
        self.arrival = arrival
        self.picture = picture
        self.lane = lane
        self.answer: Future[Answer] = Future()
        self.accepted: Future[Arrival | Inspection] = Future()
        self.arrived_s = time.monotonic()
        self.decode_ms: float | None = None
        self.claimed_s = self.arrived_s
        self.waited_ms = 0.0
        self.image_sha256: str | None = None
        self._lock = threading.Lock()
        self._is_claimed = False

    def refuse(self, reason: str) -> Inspection:
        """End it as not inspected, for a reason that is a sentence."""
        return refuse(
            self.arrival,
            reason,
            image_sha256=self.image_sha256,
            image_bytes=len(self.picture),
        )

    @property
    def is_open(self) -> bool:
        """Whether nobody has claimed it."""
        return not self._is_claimed

    def claim(self) -> bool:
        """Whether this is the first claim."""
        with self._lock:
            is_first, self._is_claimed = not self._is_claimed, True
            if is_first:
                self.claimed_s = time.monotonic()
            return is_first


def find(prediction: Prediction, min_region_px: int, monitor: str) -> Findings:
    """What a prediction says, as it is written."""
    decision, origin = prediction.decision, prediction.origin
    assert decision is not None
    assert prediction.p_value is not None
    assert prediction.label is not None
    return Findings(
        origin.model_sha256 if origin else None,
        prediction.score,
        prediction.p_value,
        decision.threshold.score,
        decision.threshold.kind,
        prediction.label,
        tuple(prediction.defects(min_region_px)[0]),
        prediction.level_scores,
        monitor,
    )
