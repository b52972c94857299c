"""What an operation of torch is made of, counted from the shapes of its tensors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Work:
    """What an operation is made of, as its shapes say.

    Attributes:
        n_operations: Multiplications and additions of its products.
        n_bytes: Read and written.
    """

    n_operations: int
    n_bytes: int


class _Bytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types for it
    """Counts the bytes that operations read and write, views left out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types for it
        self.n_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if not func.is_view:
            leaves = tree_leaves((args, kwargs, output))
            tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
            self.n_bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return output


def count(run: Callable[[], object]) -> Work:
    """Count what an operation is made of."""
    operations, moved = FlopCounterMode(display=False), _Bytes()
    with torch.no_grad(), operations, moved:
        run()
    return Work(operations.get_total_flops(), moved.n_bytes)
