"""What is set around torch's work on a GPU; the switches are there without one."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import torch

from padim.features.device import computing

CUDNN, MATMUL = torch.backends.cudnn, torch.backends.cuda.matmul


def read_switches() -> tuple[object, ...]:
    if hasattr(CUDNN, "conv"):
        precisions = CUDNN.conv.fp32_precision, MATMUL.fp32_precision
    else:
        precisions = CUDNN.allow_tf32, MATMUL.allow_tf32
    return *precisions, CUDNN.deterministic, CUDNN.benchmark


EXACT = (*(("ieee",) * 2 if hasattr(CUDNN, "conv") else (False,) * 2), True, False)


@pytest.fixture
def rounding() -> Iterator[tuple[object, ...]]:
    """The switches of a user who lets torch round, and choose by timing."""
    MATMUL.allow_tf32 = CUDNN.benchmark = True
    yield read_switches()
    MATMUL.allow_tf32 = CUDNN.benchmark = False


def test_a_gpu_computes_with_all_digits_and_the_user_gets_his_own_back(
    rounding: tuple[object, ...],
) -> None:
    @computing(torch.device("cuda"))
    def fail() -> None:
        assert read_switches() == EXACT
        assert torch.is_inference_mode_enabled()
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    assert read_switches() == rounding
    assert MATMUL.allow_tf32  # by the name that the user set


def test_the_last_one_out_sets_the_switches_back(rounding: tuple[object, ...]) -> None:
    entered, may_leave = Event(), Event()

    def stay() -> None:
        with computing(torch.device("cuda")):
            entered.set()
            assert may_leave.wait(10)

    with ThreadPoolExecutor(1) as pool:
        with computing(torch.device("cuda")):
            other = pool.submit(stay)
            assert entered.wait(10)
        assert read_switches() == EXACT
        may_leave.set()
        other.result(10)
    assert read_switches() == rounding


def test_a_cpu_leaves_the_switches_alone(rounding: tuple[object, ...]) -> None:
    with computing(torch.device("cpu")):
        assert read_switches() == rounding
        assert torch.is_inference_mode_enabled()
