"""What happens to tensors while a network is built or run."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_FILLING = frozenset(
    (
        Tensor.copy_,
        Tensor.normal_,
        Tensor.uniform_,
        Tensor.erfinv_,
        Tensor.mul_,
        Tensor.add_,
        Tensor.clamp_,
        Tensor.fill_,
        Tensor.zero_,
    )
)  # what draws or sets a parameter


class Building(TorchFunctionMode):
    """Lets a network be built without drawing its parameters, and sees what each is given."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: dict[int, Tensor] = {}  # of each tensor that was copied to, by its id

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.copy_:
            self.sources[id(args[0])] = args[1]
        if func in _FILLING and isinstance(args[0], nn.Parameter):
            return args[0]
        return func(*args, **(kwargs or {}))


def watch_maps(trunk: nn.Module, images: Tensor) -> tuple[int, list[Tensor]]:
    """Most bytes of feature maps alive at once, of each operation, and what the trunk gives."""
    alive = _Alive()
    with torch.no_grad(), alive:
        taps = trunk(images)
    return alive.most, taps


def count_bytes(values: Iterable[object]) -> int:
    """Bytes of the float32 tensors among some values."""
    return sum(value.numel() * 4 for value in values if isinstance(value, Tensor))


class _Alive(TorchFunctionMode):
    """Sees what each operation takes and gives; in an attention, how much each patch sees each."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if isinstance(output, Tensor) and not output._is_view():
            taken = [one for one in args if not isinstance(one, nn.Parameter)]
            n_bytes = count_bytes((*taken, output))
            if func is nn.functional.scaled_dot_product_attention:
                query, key = args[:2]
                n_bytes += 4 * query.shape[:-1].numel() * key.shape[-2]
            self.most = max(self.most, n_bytes)
        return output
