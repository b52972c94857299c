"""What a GPU does for a batch, recorded and replayed."""

import threading
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor, nn

from padim.features.features import Features
from padim.features.trunk import Trunk

_MOST = 4  # sizes of batches; each takes the memory of its feature maps
_turn = threading.Lock()  # a stream is recorded by one thread at a time


class Recorded:
    """A module whose work on a GPU is recorded for a size of batch that comes again.

    It is hundreds of small pieces, and to ask for them one by one takes longer than to do them for
    a few images. It is recorded where the trunk is one of ours, and of whole images: others may
    look at numbers on their way. One thread may call it at a time.

    Args:
        compute: From images ``(N, H, W, 3)`` to tensors; the same for the same.
        features: What it has the features from.

    Source:
        pytorch.org, *CUDA semantics*, CUDA graphs.
    """

    def __init__(self, compute: Callable[[Tensor], Sequence[Tensor]], features: nn.Module) -> None:
        self._compute = compute
        self._may_record = isinstance(features, Features) and isinstance(features.trunk, Trunk)
        self._seen: set[tuple[object, ...]] = set()
        self._recordings: dict[tuple[object, ...], _Recording] = {}

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        """Compute; on a GPU, what comes back may be overwritten by the next call."""
        if not images.is_cuda or not self._may_record:
            return self._compute(images)
        kind = *images.shape, images.dtype
        if kind not in self._recordings:
            if kind not in self._seen or len(self._recordings) == _MOST:
                self._seen.add(kind)
                return self._compute(images)
            self._recordings[kind] = _Recording(self._compute, images)
        return self._recordings[kind].replay(images)


class _Recording:
    """What is done with batches of one size."""

    def __init__(self, compute: Callable[[Tensor], Sequence[Tensor]], images: Tensor) -> None:
        self._images = images.clone()
        self._graph = torch.cuda.CUDAGraph()
        with _turn:
            stream = _find_stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                compute(self._images)  # sets up what this thread needs, which cannot be recorded
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                self._outputs = compute(self._images)

    def replay(self, images: Tensor) -> Sequence[Tensor]:
        self._images.copy_(images)
        self._graph.replay()
        return self._outputs


@cache
def _find_stream() -> torch.cuda.Stream:
    """The one stream that is recorded: cuBLAS keeps memory for each."""
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's own, of no types
