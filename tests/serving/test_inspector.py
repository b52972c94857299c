import hashlib
import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from padim.errors import ModelFileError
from padim.line.protocols import Part
from padim.scoring.predictor import Outputs
from padim.serving.inspector import BusyError, Inspector, StoppingError
from padim.serving.job import Answer
from padim.serving.recipes import Opened, Recipes
from padim.serving.station import Computing, RecipeSettings
from padim.store.inspection import Arrival, Verdict, name_inspection
from padim.store.pictures import Pictures
from padim.store.store import Store
from padim.store.writer import Writer

MODEL = Path(__file__).parents[1] / "kept/v1/model.onnx"


def picture(seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (80, 100, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def arrive(recipe: str = "part", key: str | None = None) -> Arrival:
    now_s = time.time()
    return Arrival(name_inspection(now_s), recipe, now_s, "test", key)


def note_nothing(_name: str, _opened: Opened) -> None:
    pass


class Station:
    """An inspector with a real database, and what it says."""

    def __init__(self, folder: Path) -> None:
        settings = {"part": RecipeSettings(MODEL, deadline_ms=20_000)}
        self.recipes = Recipes(settings, Computing(n_threads=1), folder / "models", note_nothing)
        self.store = Store.open(str(folder / "history.db"))
        self.writer = Writer(self.store, {"part": ("sink",)})
        self.pictures = Pictures(folder / "pictures")
        self.answers: list[Answer] = []
        self.inspector = Inspector(
            self.recipes,
            self.writer,
            self.pictures,
            self.answers.append,
            lambda _comparison: None,
            lambda _recipe, _prediction, _name: "quiet",
        )

    def hold(self) -> threading.Event:
        """Let scoring wait until an event is set."""
        gate, predictor = threading.Event(), self.recipes.use("part").predictor
        score = predictor.score

        def wait(images: np.ndarray) -> Outputs:
            assert gate.wait(30)
            return score(images)

        predictor.score = wait
        return gate

    def close(self) -> None:
        self.inspector.close(30)
        self.writer.close(30)
        self.inspector.release()
        self.recipes.close()
        self.store.close()


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    opened = Station(tmp_path)
    yield opened
    opened.close()


def test_a_verdict_is_written_before_it_is_answered(station: Station) -> None:
    arrival, content = arrive(), picture()
    answer = station.inspector.inspect(arrival, content).result(30)
    expected = station.recipes.use("part").predictor.predict(content)
    assert answer.inspection.verdict.value == ("NOK" if expected.label == "anomalous" else "OK")
    findings = answer.inspection.findings
    assert findings is not None
    assert findings.score == expected.score
    assert findings.p_value == expected.p_value
    assert findings.level_scores == expected.level_scores
    assert list(findings.regions) == expected.defects()[0]
    assert station.store.get(arrival.id) == answer.inspection
    assert station.store.take_outbox("sink", 10) == [answer.inspection]
    assert answer.inspection.image_bytes == len(content)
    assert station.pictures.read(answer.inspection.image_sha256 or "") == content


def test_what_is_no_picture_is_not_inspected_and_written(station: Station) -> None:
    arrival = arrive()
    found = station.inspector.inspect(arrival, b"GIF89a no picture").result(30).inspection
    assert found.verdict is Verdict.NOT_INSPECTED
    assert "cannot be read" in found.reason
    assert station.store.get(arrival.id) == found
    assert station.pictures.read(found.image_sha256 or "") == b"GIF89a no picture"


def test_a_score_that_is_no_number_is_not_inspected(station: Station) -> None:
    def fail(_images: np.ndarray) -> Outputs:
        raise ModelFileError("The score is no finite number.")

    station.recipes.use("part").predictor.score = fail
    found = station.inspector.inspect(arrive(), picture()).result(30).inspection
    assert found.verdict is Verdict.NOT_INSPECTED
    assert found.reason == "The picture cannot be scored: The score is no finite number."


def test_what_is_late_is_answered_by_its_deadline_and_keeps_that_verdict(station: Station) -> None:
    gate, arrival = station.hold(), arrive()
    started_s = time.monotonic()
    answer = station.inspector.inspect(arrival, picture(), deadline_s=0.3).result(30)
    assert answer.is_late
    assert time.monotonic() - started_s < 2  # far from the 30 s that scoring waits for
    assert answer.inspection.verdict is Verdict.NOT_INSPECTED
    gate.set()
    station.inspector.inspect(arrive(), picture()).result(30)
    assert station.store.get(arrival.id) == answer.inspection


def test_the_picture_of_what_was_late_before_it_was_decoded_is_found(station: Station) -> None:
    content = picture()
    answer = station.inspector.inspect(arrive(), content, deadline_s=1e-6).result(30)
    assert answer.is_late
    assert answer.inspection.image_sha256 == hashlib.sha256(content).hexdigest()


def test_a_database_that_stood_still_once_makes_no_later_picture_late(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = station.store.write
    with monkeypatch.context() as patch:
        patch.setattr(station.store, "write", lambda *words: time.sleep(3) or write(*words))
        station.inspector.inspect(arrive(), picture(), 60).result(30)
    for seed in range(3):
        answer = station.inspector.inspect(arrive(), picture(seed), 2.0).result(30)
        assert answer.inspection.verdict is not Verdict.NOT_INSPECTED


def test_a_picture_that_would_be_late_is_not_admitted(station: Station) -> None:
    gate, content = station.hold(), picture()
    futures: list[Future[Answer]] = []

    def send_many() -> None:
        for _ in range(100_000):
            futures.append(station.inspector.inspect(arrive(), content, 0.1))

    with pytest.raises(BusyError, match="Send the picture later"):
        send_many()
    assert futures
    gate.set()
    verdicts = {one.result(30).inspection.verdict for one in futures}
    assert verdicts <= set(Verdict)
    assert not station.store.list_pending()


def test_a_part_waits_for_its_turn(station: Station) -> None:
    gate = station.hold()
    futures = [
        station.inspector.inspect_part(Part(picture(n), f"key {n}", time.time(), "part"), "line")
        for n in range(40)
    ]
    gate.set()
    assert all(one.result(30).findings for one in futures)


def test_a_part_that_was_inspected_before_gets_the_same_answer(station: Station) -> None:
    part = Part(picture(), "key", time.time(), "part", serial="7", tags={"shift": "2"})
    first = station.inspector.inspect_part(part, "line").result(30)
    assert station.inspector.inspect_part(part, "line").result(30) == first
    assert station.store.find() == [first]
    assert (first.arrival.serial, first.arrival.tags) == ("7", {"shift": "2"})
    other = station.inspector.inspect_part(part, "another line").result(30)
    assert other.arrival.id != first.arrival.id


def test_a_part_that_was_pending_at_a_crash_is_inspected_under_its_id(station: Station) -> None:
    before = Arrival(name_inspection(1.0), "part", 1.0, "line", "key")
    station.store.accept([before])
    part = Part(picture(), "key", time.time(), "part")
    found = station.inspector.inspect_part(part, "line").result(30)
    assert found.arrival == before
    assert found.findings is not None
    assert station.store.list_pending() == []


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (
            Part(None, "k", 1.0, "part", "The camera gave no picture."),
            "The camera gave no picture.",
        ),
        (Part(b"x", "k", 1.0, "prat"), "There is no recipe 'prat'. Did you mean 'part'?"),
    ],
)
def test_every_trigger_is_written(station: Station, part: Part, reason: str) -> None:
    found = station.inspector.inspect_part(part, "line").result(30)
    assert found.verdict is Verdict.NOT_INSPECTED
    assert found.reason.startswith(reason)
    assert station.store.find() == [found]


def test_what_was_admitted_is_answered_when_the_service_stops(station: Station) -> None:
    gate = station.hold()
    futures = [station.inspector.inspect(arrive(), picture(n)) for n in range(20)]
    threading.Timer(0.2, gate.set).start()
    assert station.inspector.close(30)
    assert all(one.done() for one in futures)
    with pytest.raises(StoppingError):
        station.inspector.inspect(arrive(), picture())


def test_a_picture_in_flight_finishes_on_the_model_that_it_came_for(station: Station) -> None:
    gate = station.hold()
    future = station.inspector.inspect(arrive(), picture())
    station.recipes.change("part")
    second = station.inspector.inspect(arrive(), picture(1)).result(30)
    assert second.inspection.findings is not None
    assert not future.done()
    gate.set()
    assert future.result(30).inspection.findings is not None


def test_pictures_inside_are_counted_and_let_go(station: Station) -> None:
    gate = station.hold()
    futures = [station.inspector.inspect(arrive(), picture(n)) for n in range(5)]
    assert station.recipes.use("part").lane.n_inside == station.inspector.n_open == 5
    gate.set()
    for one in futures:
        one.result(30)
    deadline_s = time.monotonic() + 10
    while station.inspector.n_open and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert station.recipes.use("part").lane.n_inside == station.inspector.n_open == 0


def test_a_drift_alarm_that_fails_takes_no_verdict_with_it(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_words: object) -> str:
        raise ValueError("a mistake")

    monkeypatch.setattr(station.inspector, "_look", fail)
    found = station.inspector.inspect(arrive(), picture()).result(30).inspection
    assert found.verdict is not Verdict.NOT_INSPECTED
    assert found.findings is not None
    assert found.findings.monitor == "failed"
