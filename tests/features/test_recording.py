"""When a batch is recorded and when it is replayed; what a GPU does then is ``test_gpu.py``'s."""

from collections.abc import Callable, Sequence

import oracle
import pytest
import torch
from torch import Tensor, nn

from padim.features import recording
from padim.features.recording import Recorded


class FakeRecording:
    def __init__(self, compute: Callable[[Tensor], Sequence[Tensor]], images: Tensor) -> None:
        self.shape = images.shape

    def replay(self, images: Tensor) -> Sequence[Tensor]:
        assert images.shape == self.shape
        return [torch.tensor(-1)]


def computed(images: Tensor) -> list[Tensor]:
    return [torch.tensor(len(images))]


@pytest.fixture
def _on_gpu_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(recording, "_Recording", FakeRecording)


def call(recorded: Recorded, n_images: int, dtype: torch.dtype = torch.uint8) -> int:
    (found,) = recorded(torch.zeros(n_images, 8, 8, 3, dtype=dtype))
    return int(found)


@pytest.mark.usefixtures("_on_gpu_simulated")
def test_a_batch_is_replayed_when_its_size_comes_again() -> None:
    recorded = Recorded(computed, oracle.small_fitter(engine="torch").features)
    assert [call(recorded, 3) for _ in range(3)] == [3, -1, -1]
    assert call(recorded, 2) == 2
    assert call(recorded, 3, torch.float32) == 3
    assert call(recorded, 3) == -1


@pytest.mark.usefixtures("_on_gpu_simulated")
def test_sizes_that_come_once_take_no_place() -> None:
    recorded = Recorded(computed, oracle.small_fitter(engine="torch").features)
    for n_images in range(1, 20):
        assert call(recorded, n_images) == n_images
    assert [call(recorded, n) for n in (1, 2, 3, 4, 5, 5, 4)] == [-1, -1, -1, -1, 5, 5, -1]


@pytest.mark.usefixtures("_on_gpu_simulated")
def test_a_network_that_may_look_at_numbers_is_not_recorded() -> None:
    recorded = Recorded(computed, nn.Identity())
    assert [call(recorded, 3) for _ in range(3)] == [3, 3, 3]


def test_a_cpu_replays_nothing() -> None:
    recorded = Recorded(computed, oracle.small_fitter(engine="torch").features)
    assert [call(recorded, 3) for _ in range(3)] == [3, 3, 3]
