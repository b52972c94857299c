import os
import signal
import time
from pathlib import Path

import pytest

from padim.errors import DatasetError
from padim.processes import Tell, in_processes


def _squared(number: int, tell: Tell) -> int:
    tell(f"squaring {number}")
    if number == 13:
        raise DatasetError("13 is not liked.")
    if number == 666:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 99:
        raise ZeroDivisionError
    return number**2


def _sleeping(path: Path, tell: Tell) -> None:
    path.write_text(str(os.getpid()))
    tell("asleep")
    time.sleep(60)


def test_work_is_done_a_few_at_a_time() -> None:
    told: list[tuple[int, str]] = []
    ended = list(in_processes(_squared, [1, 2, 3], 2, lambda *said: told.append(said)))
    assert sorted((one.item, one.result) for one in ended) == [(1, 1), (2, 4), (3, 9)]
    assert sorted(told) == [(i, f"squaring {i}") for i in (1, 2, 3)]


def test_a_failure_or_a_death_stops_nothing_else() -> None:
    ended = {
        one.item: one for one in in_processes(_squared, [13, 666, 2], 3, lambda item, content: None)
    }
    assert ended[2].result == 4
    assert ended[13].failure == ("DatasetError", "13 is not liked.")
    assert ended[666].failure is not None
    kind, message = ended[666].failure
    assert kind == "ProcessDied"
    assert "ended by signal 9" in message


def test_a_mistake_in_the_work_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_processes(_squared, [99], 1, lambda item, content: None))


def test_no_process_is_left_behind(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]

    def interrupted(item: Path, content: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(in_processes(_sleeping, paths, 2, interrupted))
    for path in paths:
        if path.exists():
            with pytest.raises(ProcessLookupError):
                os.kill(int(path.read_text()), 0)
