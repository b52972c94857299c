"""What torch does on a device: it computes exactly, takes pixels while it works, and has room."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock
from typing import Any

import torch
from torch import Tensor


class _Exact(AbstractContextManager[None]):
    """All digits of float32 on a GPU, and the same bytes each time, while any thread computes.

    Torch's switches are of the whole process: the last thread out sets them back.

    Source:
        pytorch.org, *CUDA semantics*: by default convolutions round float32 to ten bits of mantissa
        (TF32). A state read by the older switches is refused where the newer ones were set, so that
        only one kind is touched: the newer, where torch has it.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._n_inside = 0
        self._before: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> None:
        with self._lock:
            if not self._n_inside:
                switches = _list_switches()
                self._before = [(owner, name, getattr(owner, name)) for owner, name, _ in switches]
                for switch in switches:
                    setattr(*switch)
            self._n_inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._n_inside -= 1
            if not self._n_inside:
                for switch in self._before:
                    setattr(*switch)


_exact = _Exact()


@contextmanager
def computing(device: torch.device) -> Iterator[None]:
    """Compute without gradients; on a GPU with all digits, and the same bytes each time."""
    here = nullcontext() if device.index is None else torch.cuda.device(device)
    with torch.inference_mode(), here, nullcontext() if device.type == "cpu" else _exact:
        yield


def send(pixels: Tensor, device: torch.device) -> Tensor:
    """Bring pixels to a device; a GPU fetches them while it works on those before."""
    if device.type == "cpu":
        return pixels
    return pixels.pin_memory().to(device, non_blocking=True)


def fetch(tensor: Tensor) -> Tensor:
    """Bring numbers from a device: a GPU's into memory that it writes to fast, not to be kept."""
    if tensor.device.type == "cpu":
        return tensor
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor)


def free_bytes() -> int:
    """Memory of the GPU that nobody uses, and that torch could have."""
    free, _ = torch.cuda.mem_get_info()
    return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def _list_switches() -> list[tuple[Any, str, Any]]:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    exact: list[tuple[Any, str, Any]] = [
        (cudnn, "deterministic", True),
        (cudnn, "benchmark", False),
    ]
    if hasattr(cudnn, "conv"):  # from torch 2.9 on
        return [(cudnn.conv, "fp32_precision", "ieee"), (matmul, "fp32_precision", "ieee"), *exact]
    return [(cudnn, "allow_tf32", False), (matmul, "allow_tf32", False), *exact]
