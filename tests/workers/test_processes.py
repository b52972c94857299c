import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from padim.errors import DatasetError, PadimError
from padim.files import write_whole
from padim.temporary import TemporaryFolder
from padim.workers.processes import Processes
from padim.workers.protocol import Ended, Shared, Tell, take_result


def _square(number: int, tell: Tell) -> int:
    tell(f"squaring {number}")
    if number == 13:
        raise DatasetError("13 is not liked.")
    if number == 666:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 99:
        raise ZeroDivisionError
    if number == 28:
        raise OSError(errno.ENOSPC, "No space left on device")
    if number == 40:
        raise MemoryError
    if number == 77:
        raise _StaysAtHomeError("here", "there")
    return number**2


def _ignore(content: object) -> None:
    pass


class _StaysAtHomeError(Exception):
    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"neither {one} nor {other}")


def _sleep(path: Path, tell: Tell) -> None:
    with write_whole(path) as partial:
        partial.write_text(str(os.getpid()))
    tell("asleep")
    time.sleep(60)


def test_work_is_done_a_few_at_a_time() -> None:
    told: list[str] = []
    ended = list(Processes(2).map(_square, [1, 2, 3], told.append))
    assert sorted((one.item, one.result) for one in ended) == [(1, 1), (2, 4), (3, 9)]
    assert sorted(told) == [f"squaring {i}" for i in (1, 2, 3)]


def test_what_others_need_is_taken_or_said_to_be_missing() -> None:
    assert take_result(Ended(3, 9, None)) == 9
    with pytest.raises(PadimError, match=r"^13 is not liked\.$"):
        take_result(Ended(13, None, ("DatasetError", "13 is not liked.")))
    with pytest.raises(PadimError, match=r"^A worker gave nothing\.$"):
        take_result(Ended(3, None, None))


def test_a_failure_or_a_death_stops_nothing_else() -> None:
    ended = {one.item: one for one in Processes(3).map(_square, [13, 666, 2], _ignore)}
    assert ended[2].result == 4
    assert ended[13].failure == ("DatasetError", "13 is not liked.")
    assert ended[666].failure is not None
    kind, message = ended[666].failure
    assert kind == "ProcessDied"
    assert "ended by signal 9" in message


def test_a_full_disk_or_memory_stops_nothing_else() -> None:
    ended = {one.item: one for one in Processes(1).map(_square, [28, 40, 2], _ignore)}
    assert ended[2].result == 4
    assert ended[28].failure == (
        "OSError",
        "No space left on device. Free the disk or choose another folder.",
    )
    kind, message = ended[40].failure or ("", "")
    assert kind == "MemoryError"
    assert message.startswith("The memory ran out.")


def test_a_mistake_in_the_work_is_raised_with_its_place() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        list(Processes(1).map(_square, [99], _ignore))
    assert "in _square" in caught.value.__notes__[0]


def test_a_mistake_that_cannot_travel_is_raised_in_words() -> None:
    with pytest.raises(RuntimeError, match="_StaysAtHomeError: neither here nor there") as caught:
        list(Processes(1).map(_square, [77], _ignore))
    assert "in _square" in caught.value.__notes__[0]


def test_what_a_process_leaves_can_be_removed_when_it_is_gone(tmp_path: Path) -> None:
    gone: list[object] = []
    list(Processes(1).map(_square, [13, 666, 2], _ignore, gone.append))
    assert gone == [666]

    def interrupted(content: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(Processes(1).map(_sleep, [tmp_path / "a"], interrupted, gone.append))
    assert gone == [666, tmp_path / "a"]


def _leave(number: int, tell: Tell) -> None:
    folder = TemporaryFolder()
    tell(folder.path)
    os.kill(os.getpid(), signal.SIGKILL)


def test_temporary_files_of_a_process_that_died_go() -> None:
    told: list[Path] = []
    ((_, _, failure),) = Processes(1).map(_leave, [1], told.append)
    assert failure is not None
    (left,) = told
    assert not left.parent.exists()


def _give(number: int, tell: Tell, *, numbers: Shared[list[int]]) -> int:
    return numbers.get()[number]


def test_what_is_shared_reaches_each_process() -> None:
    workers = Processes(2)
    work = partial(_give, numbers=workers.put([5, 7]))
    assert sorted(one.result or 0 for one in workers.map(work, [0, 1], _ignore)) == [5, 7]


def test_no_process_outlives_its_parent(tmp_path: Path) -> None:
    path = tmp_path / "number"
    program = (
        "from pathlib import Path\n"
        "from padim.workers.processes import Processes\n"
        "from test_processes import _sleep\n"
        f"list(Processes(1).map(_sleep, [Path({str(path)!r})], print))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", program], env=environment) as parent:
        assert _soon(path.exists)
        parent.kill()
    number = int(path.read_text())
    assert _soon(lambda: not _is_running(number))


def _soon(happens: Callable[[], bool]) -> bool:
    end = time.monotonic() + 30
    while not happens():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _is_running(number: int) -> bool:
    try:
        # Who has ended, but whose new parent has not yet asked, is a Z.
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_no_process_is_left_behind(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]

    def interrupted(content: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(Processes(2).map(_sleep, paths, interrupted))
    for path in paths:
        if path.exists():
            with pytest.raises(ProcessLookupError):
                os.kill(int(path.read_text()), 0)
