import threading
import time
import weakref

import numpy as np

from padim.errors import ModelFileError
from padim.images.ahead import Loaded
from padim.scoring.predictor import Outputs, Predictor
from padim.serving.deadlines import Deadlines
from padim.serving.lane import MOST_TOGETHER, Lane, Scored


def image(predictor: Predictor, level: int) -> Loaded:
    side_px = predictor.preprocess.size_px[0]
    return predictor.read(np.full((side_px, side_px, 3), level, np.uint8), hashed=True)


class Told:
    """What a lane says, and how many of it are waited for."""

    def __init__(self) -> None:
        self.scored: list[Scored] = []
        self._changed = threading.Condition()

    def __call__(self, scored: Scored) -> None:
        with self._changed:
            self.scored.append(scored)
            self._changed.notify()

    def wait(self, count: int) -> list[Scored]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.scored) >= count, 10)
        return self.scored


def test_what_waits_is_scored_together_and_in_order(predictor: Predictor) -> None:
    gate, sizes = threading.Event(), []
    score = predictor.score

    def slow(images: np.ndarray) -> Outputs:
        gate.wait(10)
        sizes.append(len(images))
        return score(images)

    predictor.score = slow
    lane, told = Lane(predictor, 0.01), Told()
    levels = list(range(100, 120))
    for level in levels:
        assert lane.enter()
        lane.put(image(predictor, level), lambda: True, told)
        while lane.n_waiting and level == levels[0]:
            time.sleep(0.001)  # the first one is alone
    gate.set()
    scores = [one.prediction.score for one in told.wait(len(levels)) if one.prediction]
    assert scores == [255 - level for level in levels]
    assert sizes == [1, MOST_TOGETHER, len(levels) - 1 - MOST_TOGETHER]
    assert [one.n_together for one in told.scored[:2]] == [1, MOST_TOGETHER]


def test_one_that_fails_spoils_no_other(predictor: Predictor) -> None:
    score = predictor.score

    def refuse_black(images: np.ndarray) -> Outputs:
        if not images.reshape(len(images), -1).any(axis=1).all():
            raise ModelFileError("A picture is black.")
        return score(images)

    gate = threading.Event()
    predictor.score = lambda images: gate.wait(10) and refuse_black(images)
    lane, told = Lane(predictor, 0.01), Told()
    for level in (200, 100, 0, 150):
        lane.enter()
        lane.put(image(predictor, level), lambda: True, told)
    gate.set()
    found = [one.prediction and one.prediction.score for one in told.wait(4)]
    assert found == [55, 155, None, 105]
    assert told.scored[2].failure == "The picture cannot be scored: A picture is black."


def test_what_nobody_wants_any_more_is_left_out(predictor: Predictor) -> None:
    lane, told = Lane(predictor, 0.01), Told()
    for level, is_wanted in ((10, True), (20, False), (30, True)):
        lane.enter()
        lane.put(image(predictor, level), lambda wanted=is_wanted: wanted, told)
    assert [one.prediction.score for one in told.wait(2) if one.prediction] == [245, 225]


def test_a_closed_lane_lets_none_in_and_ends_when_the_last_has_left(predictor: Predictor) -> None:
    lane, told = Lane(predictor, 0.01), Told()
    assert lane.enter()
    lane.close()
    assert not lane.enter()
    assert lane.is_running
    lane.put(image(predictor, 10), lambda: True, told)
    told.wait(1)
    lane.leave()
    lane.join(10)
    assert not lane.is_running


def test_the_pace_follows_what_is_measured(predictor: Predictor) -> None:
    lane, told = Lane(predictor, pace_s=100.0), Told()
    lane.enter()
    assert lane.estimate_s() == 200.0
    for count in range(1, 60):
        lane.put(image(predictor, 10), lambda: True, told)
        told.wait(count)
    assert lane.estimate_s() < 2.0


def test_a_deadline_that_is_let_go_holds_nothing() -> None:
    class Held:
        def __call__(self) -> None:
            raise AssertionError("it was let go")

    deadlines, later_s = Deadlines(), time.monotonic() + 60
    held = [Held() for _ in range(1000)]
    gone = [weakref.ref(one) for one in held]
    for let_go in [deadlines.at(later_s + n, one) for n, one in enumerate(held)]:
        let_go()
    let_go = deadlines.at(time.monotonic() + 0.01, Held())
    let_go()
    del held
    assert not any(one() for one in gone)
    assert len(deadlines._heap) <= 101
    time.sleep(0.05)
    deadlines.close()


def test_deadlines_come_in_their_order() -> None:
    deadlines, called, done = Deadlines(), [], threading.Event()
    now_s = time.monotonic()
    deadlines.at(now_s + 0.10, lambda: (called.append("late"), done.set()))
    deadlines.at(now_s + 0.02, lambda: called.append("soon"))
    deadlines.at(now_s - 1.00, lambda: called.append("past"))
    assert done.wait(10)
    deadlines.close()
    assert called == ["past", "soon", "late"]
