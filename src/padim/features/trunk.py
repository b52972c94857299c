"""The part of a pretrained network up to its last tap: images in, feature maps out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from padim.backbones import BACKBONES, BackboneSpec
from padim.errors import UsageError, WeightsError, join_names
from padim.features.intermediates import (
    Intermediates,
    build_intermediates,
    convert_tensors,
    describe_network,
    measure_maps,
)
from padim.features.watching import count_bytes, watch_maps

_ANY_PX = (256, 256)  # what a convolutional network is looked at with


class Trunk(nn.Module):
    """A backbone that stops at its last tap: what lies behind is taken out of the network.

    The tensors keep the names they have in the whole network.
    """

    def __init__(self, network: nn.Module, spec: BackboneSpec) -> None:
        super().__init__()
        blocks = [spec.block.format(i) for i in range(spec.first_block, spec.taps[-1] + 1)]
        self.stages = (*spec.stem, *blocks)
        self.tapped = frozenset(spec.block.format(tap) for tap in spec.taps)
        used = {stage.partition(".")[0] for stage in self.stages}
        for name, child in list(network.named_children()):
            if name not in used:
                delattr(network, name)
            elif f"{name}.0" in self.stages:
                setattr(network, name, child[: spec.taps[-1] + 1])  # type: ignore[index]  # a Sequential
        self.network = network

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute a feature map per tap, fine to coarse, shape ``(N, C, H / stride, W / stride)``.

        ``images`` are normalised, shape ``(N, 3, H, W)``.
        """
        feature_maps = []
        for name in self.stages:
            images = self.network.get_submodule(name)(images)
            if name in self.tapped:
                feature_maps.append(images)
        return feature_maps


AnyTrunk = Trunk | Intermediates


def build_trunk(spec: BackboneSpec, size_px: tuple[int, int] | None = None) -> AnyTrunk:
    """Build a trunk on the meta device: all shapes, no numbers, no memory.

    Args:
        spec: Facts of the backbone.
        size_px: (height, width) of what it sees, where its tensors depend on that.

    Raises:
        WeightsError: The network lacks a part that the backbone's facts name.
        UsageError: It does not take such a size.
    """
    if spec.is_of_timm:
        return build_intermediates(spec, size_px).to("meta")
    trunk = Trunk(_build_network(spec), spec).float().eval().requires_grad_(False)
    parts = {name for name, _ in trunk.network.named_modules()}
    if missing := [name for name in trunk.stages if name not in parts]:
        raise WeightsError(
            f"{spec.architecture} has no part {missing[0]}, but the backbone needs it. Take the "
            "model's file anew, or the release of the library that it was fitted with."
        )
    return trunk


def with_taps(spec: BackboneSpec, taps: Sequence[int]) -> BackboneSpec:
    """The facts of a backbone with other taps, fine to coarse, read off the network itself.

    Raises:
        UsageError: The network has no such block, or they are not in order.
    """
    if spec.is_of_timm:
        return describe_network(spec.name, taps)
    if list(taps) == sorted(set(taps)) and (kept := spec.keep_taps(taps)) is not None:
        return kept
    network = _build_network(spec)
    names = {name for name, _ in network.named_modules()}
    blocks = [i for i in range(spec.first_block, 100) if spec.block.format(i) in names]
    if not taps or any(tap not in blocks for tap in taps) or list(taps) != sorted(set(taps)):
        raise UsageError(
            f"The taps are {join_names(taps)}, but {spec.name} has the blocks {blocks[0]} to "
            f"{blocks[-1]}, each to be named once and in order. Try "
            f"{','.join(map(str, spec.taps))}."
        )
    unknown = (0,) * len(taps)  # until the network has been asked
    tapped = replace(spec, taps=tuple(taps), channels=unknown, strides=unknown)
    channels, strides = measure_maps(Trunk(network, tapped).eval(), _ANY_PX)
    return replace(tapped, channels=channels, strides=strides)


def optimise(trunk: AnyTrunk) -> AnyTrunk:
    """Lay a trunk out for speed, in place: fewer passes over its feature maps, channels last.

    A batch norm of fixed statistics is one more pass over memory that the convolution before it can
    do on its way; what follows it, such as the activation of timm's ``BatchNormAct2d``, stays.
    TensorFlow's padding is a copy of the whole feature map, and a wider kernel does without. The
    tensors lose the names of the pretrained network. In a network that only timm knows, a part may
    stand beside a convolution and come from elsewhere: there both stay.
    """
    for parent in list(trunk.modules()):
        if isinstance(trunk, Trunk):
            for (_, conv), (name, norm) in pairwise(list(parent.named_children())):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    _fold(conv, norm)
                    setattr(parent, name, getattr(norm, "act", nn.Identity()))
        for name, conv in list(parent.named_children()):
            if isinstance(conv, nn.Conv2d):
                setattr(parent, name, _choose_conv(conv))
        if isinstance(trunk, Trunk):
            for (place, excite), (name, conv) in pairwise(list(parent.named_children())):
                if type(excite).__name__ == "SqueezeExcite" and isinstance(conv, _PixelConv2d):
                    setattr(parent, place, nn.Identity())
                    setattr(parent, name, _ExcitedConv2d(excite, conv))
    return trunk.to(memory_format=torch.channels_last)


def _choose_conv(conv: nn.Conv2d) -> nn.Conv2d:
    """A convolution that gives the same sums, sooner if there is one."""
    pads_itself = type(conv).__name__ == "Conv2dSame"  # timm's, of TensorFlow's networks
    is_odd = conv.kernel_size in ((3, 3), (5, 5), (7, 7)) and conv.dilation == (1, 1)
    if pads_itself and is_odd and conv.stride == (2, 2):
        return _EvenConv2d.of(conv)
    is_plain = type(conv) is nn.Conv2d and conv.groups == 1 and conv.padding in ((0, 0), "valid")
    return _PixelConv2d.of(conv) if is_plain and conv.kernel_size == conv.stride == (1, 1) else conv


class _EvenConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow does, for maps of even sides, by an even kernel.

    Every stage but the last tap's has such maps. TensorFlow pads one row and column more behind
    than in front. A kernel of one row and column of zeros more in front gives the same sums with as
    much padding on either side; of two more, too, which a GPU takes: even kernels are slow there.
    """

    @classmethod
    def of(cls, conv: nn.Conv2d) -> "_EvenConv2d":
        """The same as one of timm's, of stride 2, sharing its memory."""
        side = conv.kernel_size[0]
        channels, groups = (conv.in_channels, conv.out_channels), conv.groups
        even = cls(*channels, side + 1, 2, side // 2, groups=groups, device="meta")
        weight = nn.functional.pad(conv.weight, (1, 0, 1, 0))
        even.weight = nn.Parameter(weight, requires_grad=False)
        even.bias = conv.bias
        return even

    def forward(self, images: Tensor) -> Tensor:
        """Convolve feature maps, shape ``(N, C, H, W)``."""
        if not images.is_cuda:
            return super().forward(images)
        weight = nn.functional.pad(self.weight, (1, 0, 1, 0))
        padding = self.kernel_size[0] // 2
        return nn.functional.conv2d(images, weight, self.bias, 2, padding, groups=self.groups)


class _PixelConv2d(nn.Conv2d):
    """A convolution of one pixel: on a GPU a product, which adds the bias on its way."""

    @classmethod
    def of(cls, conv: nn.Conv2d) -> "_PixelConv2d":
        """The same as another, sharing its memory."""
        own = cls(conv.in_channels, conv.out_channels, 1, device="meta")
        own.weight, own.bias = conv.weight, conv.bias
        return own

    def forward(self, images: Tensor) -> Tensor:
        """Convolve feature maps, shape ``(N, C, H, W)``."""
        if not images.is_cuda:
            return super().forward(images)
        pixels = images.permute(0, 2, 3, 1)
        return nn.functional.linear(pixels, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class _ExcitedConv2d(nn.Module):
    """Channels weighed by squeeze and excitation, timm's, and then a convolution of one pixel.

    On a GPU each image has kernels of its own, weighed instead of its feature maps where those are
    clearly larger, which spares a pass over them.
    """

    def __init__(self, excite: nn.Module, conv: _PixelConv2d) -> None:
        super().__init__()
        self.excite = excite
        self.conv = conv

    def forward(self, images: Tensor) -> Tensor:
        """Convolve feature maps, shape ``(N, C, H, W)``."""
        n_images, channels, height, width = images.shape
        if not images.is_cuda or height * width < 2 * self.conv.out_channels:
            excited: Tensor = self.conv(self.excite(images))
            return excited
        excite: Any = self.excite
        squeezed = images.mean((2, 3), keepdim=True)
        weight = excite.gate(excite.conv_expand(excite.act1(excite.conv_reduce(squeezed))))
        kernels = self.conv.weight.flatten(1) * weight.view(n_images, 1, channels)
        pixels = images.permute(0, 2, 3, 1).flatten(1, 2)
        found = torch.bmm(pixels, kernels.transpose(1, 2))
        if self.conv.bias is not None:
            found += self.conv.bias
        return found.view(n_images, height, width, -1).permute(0, 3, 1, 2)


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = norm.bias.double() - norm.running_mean.double() * scale
    if conv.bias is not None:
        bias += conv.bias.double() * scale
    weight = conv.weight.double() * scale[:, None, None, None]
    dtype = conv.weight.dtype
    conv.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(dtype), requires_grad=False)


def _build_network(spec: BackboneSpec) -> nn.Module:
    """Build a network of a library by its name there; timm would fetch what else names may mean."""
    network: nn.Module | None = None
    with torch.device("meta"):
        if spec.library == "timm":
            import timm

            if timm.is_model(spec.architecture):
                network = timm.create_model(spec.architecture, pretrained=False)
        else:
            from torchvision.models import get_model, list_models

            if spec.architecture in list_models():
                network = get_model(spec.architecture, weights=None)
    if network is None:
        raise WeightsError(
            f"{spec.library} has no network {spec.architecture}, but the backbone needs it. Take "
            "the model's file anew, or the release of the library that it was fitted with."
        )
    return network


def load_trunk(
    spec: BackboneSpec,
    tensors: Mapping[str, Tensor],
    origin: object,
    size_px: tuple[int, int] | None = None,
) -> AnyTrunk:
    """Build a trunk and give it the weights of a state dict, which may hold more.

    ``size_px`` is (height, width) of what it sees, where its tensors depend on that.

    Raises:
        WeightsError: A tensor is missing or has another shape.
        UsageError: It does not take such a size.
    """
    trunk = build_intermediates(spec, size_px) if spec.is_of_timm else build_trunk(spec)
    known = BACKBONES.get(spec.name)
    if known is None or known.keep_taps(spec.taps) != spec:  # what a file says of it
        _check_maps(trunk, spec, origin, size_px or _ANY_PX)
    expected = trunk.network.state_dict()
    if spec.is_of_timm and any(
        name not in tensors or tensors[name].shape != one.shape for name, one in expected.items()
    ):
        tensors = convert_tensors(spec, size_px, tensors)
    if next(iter(expected)) not in tensors and next(iter(tensors), "") == "_conv_stem.weight":
        # The Lite checkpoints hold timm's tensors in timm's order under names of their own.
        tensors = dict(zip(expected, tensors.values(), strict=False))
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    if missing := [name for name in expected if name not in counters and name not in tensors]:
        raise WeightsError(
            f"{origin} has no tensor {join_names(missing, 3)}, but {spec.name} needs "
            f"{'it' if len(missing) == 1 else 'them'}. Bring the weights of {spec.architecture}."
        )
    # Counters are of training steps; some files lack them.
    chosen = {name: torch.zeros((), dtype=torch.int64) for name in counters}
    for name in filter(lambda name: name not in counters, expected):
        wanted, found = expected[name], tensors[name]
        if found.shape != wanted.shape:
            raise WeightsError(
                f"{origin} has {name} of shape {tuple(found.shape)}, but {spec.name} needs "
                f"{tuple(wanted.shape)}. Bring the weights of {spec.architecture}."
            )
        chosen[name] = found.to(wanted.dtype)
    trunk.network.load_state_dict(chosen, strict=True, assign=True)
    return trunk.requires_grad_(False)


def _check_maps(
    trunk: AnyTrunk, spec: BackboneSpec, origin: object, size_px: tuple[int, int]
) -> None:
    """Raise a `WeightsError` if a network gives other feature maps than its facts say, or none."""
    refusal = WeightsError(
        f"{origin} describes {spec.architecture} otherwise than it is. Copy it again."
    )
    try:
        if measure_maps(trunk, size_px) != (spec.channels, spec.strides):
            raise refusal
    except (RuntimeError, ValueError) as error:  # one part does not fit the next
        raise refusal from error


def activation_bytes(trunk: nn.Module, size_px: tuple[int, int]) -> int:
    """Most bytes of feature maps of one image alive at once, plus those of the taps."""
    images = torch.empty(1, 3, *size_px, dtype=torch.float32, device="meta")
    if isinstance(trunk, Intermediates):
        most, taps = watch_maps(trunk, images)
        return most + count_bytes(taps)
    most = 0

    def see(_module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        nonlocal most
        most = max(most, count_bytes((*inputs, output)))

    leaves = [module for module in trunk.modules() if not list(module.children())]
    hooks = [leaf.register_forward_hook(see) for leaf in leaves]
    with torch.inference_mode():
        taps = trunk(images)
    for hook in hooks:
        hook.remove()
    return most + count_bytes(taps)
