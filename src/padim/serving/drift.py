"""The drift alarm of each recipe: kept over restarts, and shown until somebody clears it."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from padim.errors import UsageError
from padim.monitor.monitor import Monitor, MonitorSettings
from padim.monitor.observation import Observation
from padim.scoring.prediction import Prediction
from padim.store.database import StoreError
from padim.store.store import Alarm, Store

Word = Literal["quiet", "alarm"]
_SAVED_EVERY = 100  # parts
_log = logging.getLogger(__name__)


@dataclass
class _Watched:
    """The monitor of one model of a recipe."""

    monitor: Monitor
    key: str
    n_unsaved: int = 0


class Drift:
    """Watches the parts of all recipes.

    Args:
        store: Where alarms are written, and what is to be known again after a restart.
        settings: Of a recipe's monitor, by its name.
        tell: Told of each alarm.
    """

    def __init__(
        self,
        store: Store,
        settings: Callable[[str], MonitorSettings],
        tell: Callable[[Alarm], None],
    ) -> None:
        self._store = store
        self._settings = settings
        self._tell = tell
        self._watched: dict[str, _Watched] = {}
        self._open = {one.recipe: one for one in store.list_open_alarms()}
        self._locks: dict[str, threading.Lock] = {}

    def look(self, recipe: str, prediction: Prediction, name: str) -> Word:
        """Look at a part, and say how its recipe stands.

        Args:
            recipe: What it was inspected by.
            prediction: What the model says of it.
            name: What a person knows it by.
        """
        with self._lock(recipe):
            watched = self._find(recipe, prediction)
            alarm = watched.monitor.update(Observation.of(prediction, name)).alarm
            watched.n_unsaved += 1
            if alarm is not None or watched.n_unsaved >= _SAVED_EVERY:
                self._save(watched)
            if alarm is not None:
                self._ring(Alarm(recipe, time.time(), alarm.sentence))
            return "alarm" if recipe in self._open else "quiet"

    def find_alarm(self, recipe: str) -> Alarm | None:
        """The alarm of a recipe that nobody has cleared."""
        return self._open.get(recipe)

    def measure(self, recipe: str) -> float:
        """The evidence for a change of a recipe; 0 before its first part."""
        watched = self._watched.get(recipe)
        return watched.monitor.state.total if watched else 0.0

    def clear(self, recipe: str) -> None:
        """Note that somebody has seen to the alarm of a recipe."""
        with self._lock(recipe):
            self._store.clear_alarms(recipe, time.time())
            self._open.pop(recipe, None)

    def close(self) -> None:
        """Write down where all monitors stand."""
        for recipe, watched in list(self._watched.items()):
            with self._lock(recipe):
                self._save(watched)

    def _lock(self, recipe: str) -> threading.Lock:
        """What keeps two threads from one recipe; others do not wait meanwhile."""
        return self._locks.setdefault(recipe, threading.Lock())

    def _find(self, recipe: str, prediction: Prediction) -> _Watched:
        """The monitor of a recipe's model: this process's, the one written down, or a new one."""
        sha256 = prediction.origin.model_sha256 if prediction.origin else None
        key = f"monitor of {recipe}, {sha256}"
        watched = self._watched.get(recipe)
        if watched is not None and watched.key == key:
            return watched
        if watched is not None:
            self._save(watched)
        settings = self._settings(recipe)
        monitor = None
        text = self._store.read_state(key)
        if text is not None:
            try:
                monitor = Monitor.restore(text)
            except UsageError as error:
                _log.warning("recipe %s: %s", recipe, error)
        if monitor is None or monitor.settings != settings:
            monitor = Monitor(
                prediction.decision,
                parts_between_alarms=settings.parts_between_alarms,
                every=settings.every,
                seed=settings.seed,
                n_kept=settings.n_kept,
            )
        self._watched[recipe] = _Watched(monitor, key)
        return self._watched[recipe]

    def _save(self, watched: _Watched) -> None:
        """Write down where a monitor stands; if that fails, it is tried again with later parts."""
        watched.n_unsaved = 0
        try:
            self._store.write_state(watched.key, watched.monitor.save())
        except StoreError as error:
            _log.warning("%s cannot be kept: %s", watched.key, error)

    def _ring(self, alarm: Alarm) -> None:
        _log.warning("recipe %s: %s", alarm.recipe, alarm.sentence)
        self._open[alarm.recipe] = alarm
        self._tell(alarm)
        try:
            self._store.add_alarm(alarm)
        except StoreError as error:  # it has rung, and takes no verdict with it
            _log.error("recipe %s: the alarm cannot be written: %s", alarm.recipe, error)
