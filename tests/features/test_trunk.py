"""How a trunk is laid out for speed: the ways that a GPU takes are walked on a CPU."""

import copy
from collections.abc import Callable

import oracle
import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from padim.features import trunk as trunks
from padim.features.trunk import optimise


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
    trunk = oracle.random_trunk(name)
    drawn = torch.Generator().manual_seed(1)
    for tensor in trunk.state_dict().values():
        if tensor.ndim == 1:
            tensor.add_(torch.rand(tensor.shape, generator=drawn))
    images = torch.randn(2, 3, 64, 96, generator=drawn).to(memory_format=torch.channels_last)
    optimised = optimise(copy.deepcopy(trunk))
    kinds = {type(module).__name__ for module in optimised.modules()}
    assert laid_out <= kinds
    assert not any(isinstance(module, nn.BatchNorm2d) for module in optimised.modules())
    with torch.inference_mode():
        expected, on_cpu = trunk(images), optimised(images)
        monkeypatch.setattr(torch.Tensor, "is_cuda", True)
        products = count_products(monkeypatch)
        found = optimised(images)
    assert ("linear" in products) == ("_PixelConv2d" in laid_out)
    assert ("bmm" in products) == ("_ExcitedConv2d" in laid_out)
    for by_gpu, by_cpu, one in zip(found, on_cpu, expected, strict=True):
        close = {"rtol": 1e-4, "atol": 1e-4 * float(one.std())}
        torch.testing.assert_close(by_cpu, one, **close)
        torch.testing.assert_close(by_gpu, one, **close)


def count_products(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The kinds of products that are taken for convolutions from now on."""
    taken: set[str] = set()

    def count(owner: object, name: str) -> None:
        compute: Callable[..., torch.Tensor] = getattr(owner, name)

        def counted(*args: torch.Tensor) -> torch.Tensor:
            taken.add(name)
            return compute(*args)

        monkeypatch.setattr(owner, name, counted)

    count(nn.functional, "linear")
    count(torch, "bmm")
    return taken


def test_kernels_that_are_not_padded_by_one_side_more_stay() -> None:
    for side, dilation in ((1, 1), (3, 2)):
        conv = Conv2dSame(4, 4, side, stride=2, dilation=dilation)
        assert optimise(as_trunk(conv)).network.conv is conv
    even = optimise(as_trunk(Conv2dSame(4, 4, 3, stride=2))).network.conv
    assert type(even).__name__ == "_EvenConv2d"


def test_a_convolution_of_one_pixel_may_have_no_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = nn.Conv2d(4, 6, 1, bias=False).requires_grad_(False)
    images = torch.randn(2, 4, 8, 8)
    expected = conv(images)
    own = optimise(as_trunk(conv)).network.conv
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    torch.testing.assert_close(own(images), expected)


def as_trunk(conv: nn.Module) -> trunks.AnyTrunk:
    """A network of one convolution, as one that timm describes."""
    return trunks.Intermediates(nn.ModuleDict({"conv": conv}), [0])


def test_weights_rounded_once_give_the_bits_of_those_rounded_at_each_call() -> None:
    features = oracle.small_fitter(engine="torch", precision="bfloat16").features
    rounded = [module for module in features.modules() if isinstance(module, nn.Conv2d)]
    exact = [
        module
        for module in oracle.small_fitter(engine="torch").features.modules()
        if isinstance(module, nn.Conv2d)
    ]
    assert {module.weight.dtype for module in rounded} == {torch.bfloat16}
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        for ours, theirs in zip(rounded, exact, strict=True):
            images = torch.randn(1, ours.in_channels, 8, 8)
            assert torch.equal(ours(images), theirs(images))
