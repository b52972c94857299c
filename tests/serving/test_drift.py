import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from padim.monitor.alarm import Alarm as Change
from padim.monitor.alarm import Evidence, Moment, MonitorState
from padim.monitor.monitor import Monitor, MonitorSettings
from padim.monitor.observation import Observation
from padim.scoring.predictor import Predictor
from padim.serving.drift import Drift
from padim.store.database import UnavailableError
from padim.store.store import Alarm, Store


def test_an_alarm_that_cannot_be_written_rings_all_the_same(
    tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = Monitor.update

    def ring(monitor: Monitor, one: Observation) -> MonitorState:
        culprit = Evidence("score", 1e4, Moment(1), is_higher=True)
        change = Change(Moment(1), culprit, 1e4, "held-out", 10_000)
        return replace(update(monitor, one), alarm=change)

    def fail(*_words: object) -> None:
        raise UnavailableError("The database cannot be used.")

    file = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), 250, np.uint8)).save(file, "PNG")
    prediction = predictor.predict(file.getvalue())
    store = Store.open(str(tmp_path / "history.db"))
    monkeypatch.setattr(Monitor, "update", ring)
    monkeypatch.setattr(store, "write_state", fail)
    monkeypatch.setattr(store, "add_alarm", fail)
    told: list[Alarm] = []
    drift = Drift(store, lambda _recipe: MonitorSettings(), told.append)
    assert drift.look("part", prediction, "A1") == "alarm"
    assert drift.find_alarm("part") == told[0]
    drift.close()
    store.close()
