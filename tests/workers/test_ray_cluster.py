"""A real Ray of two workers, of which one is killed."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from padim.errors import DatasetError
from padim.workers.protocol import Shared, Tell
from padim.workers.ray_cluster import MOST_DEATHS, RayCluster, connect


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patched.delenv("RAY_ADDRESS", raising=False)
        with connect() as found:
            yield found


def _work(number: int, tell: Tell, *, marks: Path, power: Shared[int]) -> int:
    """Give a power of a number; a few die, always or the first time."""
    tell(number)
    if number == 13:
        raise DatasetError("13 is not liked.")
    if number == 99:
        raise ZeroDivisionError
    if number in (666, 7):
        begun = marks / f"{number}-{time.monotonic_ns()}"
        begun.touch()
        if number == 666 or len(list(marks.glob("7-*"))) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    return int(number ** power.get())


def test_a_piece_whose_worker_dies_is_done_again_and_costs_no_other(
    cluster: RayCluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[int] = []
    gone: list[int] = []
    work = partial(_work, marks=tmp_path, power=cluster.put(2))
    ended = {
        one.item: one for one in cluster.map(work, [7, 13, 2, 666, 3], told.append, gone.append)
    }
    assert {item: one.result for item, one in ended.items()} == {
        7: 49,
        13: None,
        2: 4,
        666: None,
        3: 9,
    }
    assert ended[13].failure == ("DatasetError", "13 is not liked.")
    kind, message = ended[666].failure or ("", "")
    assert kind == "ProcessDied"
    assert message.startswith("Its worker died 3 times (WorkerCrashedError).")
    assert sorted(gone) == [7] + [666] * MOST_DEATHS
    assert {7, 13, 2, 3} <= set(told)
    assert capfd.readouterr() == ("", "")


def test_a_mistake_in_the_work_is_raised_with_its_place(
    cluster: RayCluster, tmp_path: Path
) -> None:
    work = partial(_work, marks=tmp_path, power=cluster.put(2))
    with pytest.raises(ZeroDivisionError) as caught:
        list(cluster.map(work, [99], print))
    assert "in _work" in caught.value.__notes__[0]
