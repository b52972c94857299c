"""How a trunk is laid out for speed: the ways that a GPU takes are walked on a CPU."""

import copy

import pytest
import torch
from torch import nn

from padim.backbones import BACKBONES
from padim.features import trunk as trunks
from padim.features.trunk import build_trunk, optimise


@pytest.mark.parametrize(
    ("name", "laid_out"),
    [
        ("resnet18", set()),
        ("efficientnet_lite0", {"_EvenConv2d", "_PixelConv2d"}),
        ("efficientnet_b5_ns", {"_EvenConv2d", "_PixelConv2d", "_ExcitedConv2d"}),
        ("efficientnet_v2_m", {"_PixelConv2d"}),
    ],
)
def test_a_trunk_laid_out_for_speed_computes_the_same_on_a_gpu_too_simulated(
    name: str, laid_out: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = BACKBONES[name]
    trunk = build_trunk(spec).to_empty(device="cpu")
    drawn = torch.Generator().manual_seed(0)
    for key, tensor in trunk.state_dict().items():
        tensor.fill_(key.endswith(("running_var", ".weight")))
        if tensor.ndim > 1:
            tensor.copy_(torch.randn(tensor.shape, generator=drawn) / tensor[0].numel() ** 0.5)
        elif tensor.ndim == 1:
            tensor.add_(torch.rand(tensor.shape, generator=drawn))
    images = torch.randn(2, 3, 128, 192, generator=drawn).to(memory_format=torch.channels_last)
    optimised = optimise(copy.deepcopy(trunk))
    kinds = {type(module).__name__ for module in optimised.modules()}
    assert laid_out <= kinds
    assert not any(isinstance(module, nn.BatchNorm2d) for module in optimised.modules())
    with torch.inference_mode():
        expected, on_cpu = trunk(images), optimised(images)
        monkeypatch.setattr(torch.Tensor, "is_cuda", True)
        n_products = count_products(monkeypatch)
        found = optimised(images)
    assert bool(n_products) == bool(laid_out)
    for by_gpu, by_cpu, one in zip(found, on_cpu, expected, strict=True):
        close = {"rtol": 1e-4, "atol": 1e-4 * float(one.std())}
        torch.testing.assert_close(by_cpu, one, **close)
        torch.testing.assert_close(by_gpu, one, **close)


def count_products(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Where products are taken for convolutions, one entry each."""
    taken: list[None] = []
    linear = trunks.nn.functional.linear

    def counted(*args: torch.Tensor) -> torch.Tensor:
        taken.append(None)
        return linear(*args)

    monkeypatch.setattr(trunks.nn.functional, "linear", counted)
    return taken
