"""The alarm over streams of parts: what it finds, what it says, and what it keeps."""

import json
from collections.abc import Iterator

import numpy as np
import pytest

import padim
from padim.images.camera import MeanImage
from padim.monitor.alarm import Alarm
from padim.monitor.observation import Observation
from padim.monitor.order import look_at_order
from padim.scoring.calibration import HELD_OUT, LEAVE_ONE_OUT, Calibration
from padim.scoring.prediction import Decision, decide
from padim.scoring.reference import Reference

NAMES = ("score", "level_1", "grey", "sharpness")
FLAT = np.zeros((8, 8), np.float32)


def parts(n: int, seed: int = 0, **shifts: float) -> Iterator[Observation]:
    """Accepted parts whose statistics are normal, some of them moved."""
    for i, row in enumerate(np.random.default_rng(seed).normal(size=(n, len(NAMES)))):
        values = {name: float(value) for name, value in zip(NAMES, row, strict=True)}
        values |= {name: values[name] + shift for name, shift in shifts.items()}
        yield Observation(values, name=f"{seed}/{i}.png")


def watch(monitor: padim.Monitor, stream: Iterator[Observation]) -> list[Alarm]:
    states = [monitor.update(part) for part in stream]
    return [state.alarm for state in states if state.alarm is not None]


def decision(source: str, n: int = 200, *, stale: bool = False) -> Decision:
    rng = np.random.default_rng(9)
    scores = np.sort(rng.normal(size=n)).astype(np.float32)
    camera = rng.normal(size=(n, 3)).astype(np.float32)
    reference = Reference(rng.normal(size=(n, 1)).astype(np.float32), camera, FLAT)
    no_pixels = np.zeros(1, np.float32), np.ones(1, np.int64)
    return decide(Calibration(source, scores, *no_pixels, None, stale, reference))


@pytest.mark.parametrize(
    ("name", "shift", "words"),
    [
        ("sharpness", -2.0, "the sharpness is lower than before"),
        ("grey", 2.0, "the mean grey level is higher than before"),
        ("level_1", 2.0, "the score of level 1 is higher than before"),
    ],
)
def test_a_change_is_found_named_and_dated(name: str, shift: float, words: str) -> None:
    monitor = padim.Monitor(parts_between_alarms=1000)
    assert watch(monitor, parts(300)) == []
    (alarm, *_) = watch(monitor, parts(100, seed=1, **{name: shift}))
    assert alarm.culprit.statistic == name
    assert abs(alarm.culprit.since.number - 301) <= 20
    assert 305 < alarm.at.number < 360
    assert alarm.at.name == f"1/{alarm.at.number - 301}.png"
    assert words in alarm.sentence
    assert f"since part {alarm.culprit.since.number} (" in alarm.sentence
    assert "once in 1,000 parts" in alarm.sentence


def test_false_alarms_are_as_far_apart_as_promised() -> None:
    n, monitor = 20_000, padim.Monitor(parts_between_alarms=100, n_kept=100)
    alarms = watch(monitor, parts(n, seed=2))
    assert 0.5 * n / 100 < len(alarms) < 1.15 * n / 100  # 200 are promised, give or take 14


def test_defects_do_not_ring() -> None:
    def stream() -> Iterator[Observation]:
        for i, part in enumerate(parts(600, seed=3)):
            is_defective = i > 300 and i % 2 == 0
            values = {k: v + 5 * is_defective for k, v in part.values.items()}
            yield Observation(values, not is_defective)

    monitor = padim.Monitor()
    assert watch(monitor, stream()) == []
    assert monitor.state.n_accepted == 451
    assert monitor.state.notice == ""


def test_a_row_of_rejected_parts_is_noticed() -> None:
    monitor = padim.Monitor()
    for part in parts(20):
        state = monitor.update(Observation(part.values, is_accepted=False))
    assert state.n_rejected_in_a_row == 20
    assert state.notice.startswith("The last 20 parts were all rejected")
    assert monitor.update(next(parts(1))).notice == ""


def test_images_of_the_fit_give_way_to_the_first_parts() -> None:
    monitor = padim.Monitor(decision(LEAVE_ONE_OUT))
    states = [monitor.update(part) for part in parts(60)]
    assert {state.basis for state in states[:49]} == {"leave-one-out"}
    assert states[0].n_compared == 199 + 1  # one of 200 is above the threshold for 0.01
    assert states[49].basis == "parts"
    assert states[49].n_compared == 50
    assert states[49].total == 0
    assert states[59].n_compared == 60


def test_held_out_images_stay() -> None:
    monitor = padim.Monitor(decision(HELD_OUT))
    for part in parts(60):
        state = monitor.update(part)
    assert state.basis == "held-out"
    assert state.n_compared == 199 + 60
    (alarm, *_) = watch(monitor, parts(60, seed=1, grey=3.0))
    assert "higher than that of the good images" in alarm.sentence


def test_a_stale_calibration_begins_with_nothing() -> None:
    monitor = padim.Monitor(decision(HELD_OUT, stale=True))
    assert monitor.update(next(parts(1))).basis == "parts"
    assert monitor.state.n_compared == 1


@pytest.mark.parametrize("source", [LEAVE_ONE_OUT, HELD_OUT])
@pytest.mark.parametrize("n_before", [0, 3, 49, 50, 130])
def test_a_monitor_goes_on_where_it_was_saved(source: str, n_before: int) -> None:
    def make() -> padim.Monitor:
        return padim.Monitor(decision(source), n_kept=80, seed=7, every=2)

    whole, first = make(), make()
    stream = [*parts(n_before), *parts(150, seed=1, sharpness=-1.0)]
    expected = [whole.update(part) for part in stream]
    found = [first.update(part) for part in stream[:n_before]]
    second = padim.Monitor.restore(first.save())
    found += [second.update(part) for part in stream[n_before:]]
    assert found == expected
    assert second.save() == whole.save()
    assert json.loads(whole.save())["n_seen"] == len(stream)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "invalid enum value 2"),
        ({"rows": [[1.0]]}, "rows do not fit"),
        ({"usual_map": [[1.0]]}, "another size"),
        ({"n_seen": -1}, "n_seen"),
    ],
)
def test_a_state_that_is_none_is_refused(change: dict[str, object], reason: str) -> None:
    monitor = padim.Monitor()
    monitor.update(next(parts(1)))
    text = json.dumps(json.loads(monitor.save()) | change)
    with pytest.raises(padim.UsageError, match=reason):
        padim.Monitor.restore(text)


def test_only_one_in_so_many_accepted_parts_is_looked_at() -> None:
    monitor = padim.Monitor(every=10)
    for part in parts(100):
        state = monitor.update(part)
    assert state.n_accepted == 100
    assert state.n_compared == 10


@pytest.mark.parametrize(
    ("name", "value"), [("every", 0), ("parts_between_alarms", 1), ("n_kept", 10), ("seed", -1)]
)
def test_choices_out_of_range_are_refused(name: str, value: int) -> None:
    choices = {name: value}
    with pytest.raises(padim.UsageError, match=f"{name} is {value}"):
        padim.Monitor(**choices)


def test_a_part_without_a_statistic_is_refused() -> None:
    monitor = padim.Monitor()
    monitor.update(next(parts(1)))
    with pytest.raises(padim.ShapeError, match="has no level_1, grey, sharpness"):
        monitor.update(Observation({"score": 1.0}))
    with pytest.raises(padim.UsageError, match="needs to be finite"):
        monitor.update(Observation(dict.fromkeys(NAMES, float("nan"))))


def test_an_alarm_says_where_the_maps_have_risen() -> None:
    rng = np.random.default_rng(4)

    def stream(n: int, dirt: float) -> Iterator[Observation]:
        for part in parts(n, seed=n, score=dirt):
            coarse = rng.normal(3, 0.3, (8, 8))
            coarse[1, 6] += dirt
            yield Observation(part.values, True, tuple(map(tuple, coarse.tolist())))

    monitor = padim.Monitor()
    assert watch(monitor, stream(200, 0.0)) == []
    (alarm, *_) = watch(monitor, stream(60, 2.0))
    assert alarm.place is not None
    assert (alarm.place.right, alarm.place.down) == (6.5 / 8, 1.5 / 8)
    assert "81% from the left and 19% from the top" in alarm.sentence


def test_an_order_that_is_not_random_is_told() -> None:
    rng = np.random.default_rng(6)
    scores = rng.normal(size=300).astype(np.float32)
    camera = rng.normal(size=(300, 4)).astype(np.float32)
    small = MeanImage(np.zeros((8, 8), np.uint8))
    levels = rng.normal(size=(300, 2)).astype(np.float32)
    assert look_at_order(scores, Reference(levels, camera, FLAT, small)).sentence == ""
    camera[200:, 0] += 2
    found = look_at_order(scores, Reference(levels, camera, FLAT, small))
    assert found.statistic == "grey"
    assert abs(found.since - 200) < 20
    assert "the mean grey level changes from image" in found.sentence
    assert "padim monitor --every" in found.sentence
