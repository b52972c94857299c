"""Any network of timm, by what timm says of it: where its feature maps are, and their numbers."""

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from padim.backbones import INTERMEDIATES, TIMM, BackboneSpec, backbone
from padim.errors import UsageError, WeightsError, join_names
from padim.features.watching import Building
from padim.features.weights import hush

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

_HUB_FILE = "model.safetensors"
_STRIDES = (4, 8, 16)  # of the taps of the built-in networks
_MOST_DIMS = 384  # drawn at random from wider ones, as PaDiM does, so that a model stays small

# What timm and torch raise of a network that cannot be: of a size, of tensors, without a part
_REFUSALS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Intermediates(nn.Module):
    """A network of timm that stops at its last tap, and keeps what its own code needs until there.

    The tensors keep the names they have in the whole network.
    """

    def __init__(self, network: nn.Module, taps: Sequence[int]) -> None:
        super().__init__()
        self.taps = list(taps)
        self.network = network

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute a feature map per tap, fine to coarse, shape ``(N, C, H / stride, W / stride)``.

        ``images`` are normalised, shape ``(N, 3, H, W)``. Tokens that are no patches are left out.
        """
        give: Any = self.network.forward_intermediates
        feature_maps: list[Tensor] = give(
            images, indices=self.taps, output_fmt="NCHW", intermediates_only=True
        )
        return feature_maps


def describe_network(name: str, taps: Sequence[int] | None = None) -> BackboneSpec:
    """The facts of a network of timm, as timm and the network itself give them.

    Args:
        name: ``timm:`` and a name that timm knows, with or without the tag of its weights.
        taps: Numbers of its feature maps, fine to coarse; proposed by their strides when None.

    Raises:
        UnknownNameError: timm has no such network or weights.
        UsageError: The network gives no feature maps that can be used, or has no such taps.
    """
    config = _find_config(name.removeprefix(TIMM))
    if config is None:
        raise _report_unknown(name)
    side = config.input_size[-1]
    try:
        network = _build(config, (side, side))
    except _REFUSALS as error:
        raise UsageError(f"{name} cannot be used: {_reason(error)}. Choose another.") from error
    if not hasattr(network, "forward_intermediates"):
        raise UsageError(
            f"{name} cannot be used: this release of timm gives no feature maps of it. Choose one "
            "that padim backbones --search lists."
        )
    n_bytes = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    offered = _offered_strides(network)
    if taps is None:
        taps = _propose_taps(offered)
    elif not taps or list(taps) != sorted(set(taps)) or not 0 <= taps[0] <= taps[-1] < len(offered):
        raise UsageError(
            f"The taps are {join_names(taps)}, but {name} has the feature maps 0 to "
            f"{len(offered) - 1}, each to be named once and in order. Try "
            f"{','.join(map(str, _propose_taps(offered)))}."
        )
    described = tuple(offered[tap] for tap in taps)
    channels, strides = _measure(_cut(network, taps), (side, side), name, described)
    return BackboneSpec(
        name=f"{TIMM}{_full_name(config.architecture, config.tag)}",
        library="timm",
        architecture=config.architecture or "",
        weights_tag=config.tag or "",
        stem=(),
        block=INTERMEDIATES,
        first_block=0,
        taps=tuple(taps),
        channels=channels,
        strides=strides,
        mean=_triple(config.mean),
        std=_triple(config.std),
        url=f"https://huggingface.co/{config.hf_hub_id}/resolve/main/{_HUB_FILE}"
        if config.hf_hub_id
        else str(config.url or ""),
        package="",
        weights_bytes=n_bytes,
        licence=config.license or "not stated",
        source=config.paper_name or config.origin_url or "timm",
        n_random_dims=_MOST_DIMS if sum(channels) > _MOST_DIMS else None,
    )


def find_backbone(name: str) -> BackboneSpec:
    """The facts of a backbone of the table, or of any network of timm by ``timm:`` and its name.

    Raises:
        UsageError: There is none of that name, or it cannot be used.
    """
    return describe_network(name) if name.startswith(TIMM) else backbone(name)


def find_names(text: str) -> list[str]:
    """Names of timm's pretrained networks that hold a text, with ``timm:`` before them."""
    import timm

    wanted = text.removeprefix(TIMM).lower()
    return [f"{TIMM}{name}" for name in timm.list_pretrained() if wanted in name.lower()]


def hub_place(spec: BackboneSpec) -> tuple[str, str] | None:
    """The repository and the file of a network's weights on timm's hub, as the timm here says.

    None if it is there not, or not by these names.
    """
    config = _find_config(_full_name(spec.architecture, spec.weights_tag))
    return (config.hf_hub_id, _HUB_FILE) if config is not None and config.hf_hub_id else None


def build_intermediates(
    spec: BackboneSpec, size_px: tuple[int, int] | None = None
) -> Intermediates:
    """Build a network of timm up to its last tap: buffers have numbers, parameters have none.

    Args:
        spec: Its facts.
        size_px: (height, width) of what it sees; what its weights were made for when None.

    Raises:
        WeightsError: timm has no such network here, or it has no such taps.
        UsageError: It does not take such a size.
    """
    config = _config_of(spec)
    try:
        network = _build(config, size_px)
    except _REFUSALS as error:
        side = config.input_size[-1]
        height, width = size_px or (side, side)
        raise UsageError(
            f"{spec.name} does not take {height}x{width} px: {_reason(error)}. Try {side}x{side}."
        ) from error
    try:
        return _cut(network, spec.taps)
    except (AssertionError, AttributeError) as error:
        raise WeightsError(
            f"{spec.architecture} has no feature maps {join_names(spec.taps)}, but the backbone "
            "needs them. Take the model's file anew, or the release of timm it was fitted with."
        ) from error


def takes_size(spec: BackboneSpec, built_px: tuple[int, int], size_px: tuple[int, int]) -> bool:
    """Whether a network built for images of one size takes those of another."""
    if not spec.is_of_timm:
        return True
    network = build_intermediates(spec, built_px).to("meta")
    try:
        network(torch.empty(1, 3, *size_px, dtype=torch.float32, device="meta"))
    except _REFUSALS:
        return False
    return True


def _config_of(spec: BackboneSpec) -> "PretrainedCfg":
    name = _full_name(spec.architecture, spec.weights_tag)
    if (config := _find_config(name)) is None:
        raise WeightsError(
            f"timm has no network {name}, but the backbone needs it. Take the model's file anew, "
            "or the release of timm that it was fitted with."
        )
    return config


def convert_tensors(
    spec: BackboneSpec, size_px: tuple[int, int] | None, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Bring a published state dict to a network of a size as timm does.

    timm renames the tensors of other projects, and resamples position embeddings.

    Returns:
        The tensors under the names of the whole network; those alone that were given.

    Raises:
        WeightsError: timm cannot bring them to this network.
    """
    building = Building()
    try:
        network = _create(_config_of(spec), size_px, building, dict(tensors))
    except _REFUSALS as error:
        raise WeightsError(
            f"timm cannot bring these weights to {spec.name}: {_reason(error)}. Bring the weights "
            f"of {spec.architecture}."
        ) from error
    named = (*network.named_parameters(), *network.named_buffers())
    given = building.sources
    return {name: given[id(tensor)] for name, tensor in named if id(tensor) in given}


def _find_config(name: str) -> "PretrainedCfg | None":
    """What timm has of a name, of the usual weights when it names none; None if it knows it not.

    Nothing but what is registered in timm is looked at: other names would be fetched.
    """
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        return None
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:  # no such tag
        return None
    if config is None or (config.tag or "") != (tag or config.tag or ""):
        return None
    return replace(config, architecture=architecture)


def _report_unknown(name: str) -> UsageError:
    close = get_close_matches(name, find_names(""), n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return UsageError(
        f"There is no backbone {name!r}.{hint} padim backbones --search finds those of timm."
    )


def _reason(error: Exception) -> str:
    """The last line of what torch or timm says of a network that cannot be."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip().rstrip(".")


def _full_name(architecture: str | None, tag: str | None) -> str:
    return f"{architecture}.{tag}" if tag else str(architecture)


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue


def _build(config: "PretrainedCfg", size_px: tuple[int, int] | None) -> nn.Module:
    """Build a whole network but its classifier; parameters have shapes alone.

    What it computes at once, such as tables of positions, has its numbers.
    """
    network = _create(config, size_px, Building())

    def empty(tensor: Tensor) -> Tensor:
        return tensor.to("meta") if isinstance(tensor, nn.Parameter) else tensor

    network._apply(empty)  # type: ignore[no-untyped-call]  # torch's own, of no types
    return network.float().eval().requires_grad_(False)


def _create(
    config: "PretrainedCfg",
    size_px: tuple[int, int] | None,
    building: Building,
    tensors: dict[str, Tensor] | None = None,
) -> nn.Module:
    """Let timm create a network, and give it the tensors, if any."""
    import timm

    # Nothing is to be found anywhere: neither a file nor an address
    overlay = {"url": None, "file": None, "hf_hub_id": None, "custom_load": False, "source": None}
    create = partial(
        timm.create_model,
        _full_name(config.architecture, config.tag),
        pretrained=tensors is not None,
        pretrained_cfg_overlay=overlay | {"state_dict": tensors},
        num_classes=0,
    )
    if config.fixed_input_size and size_px is not None:
        create = partial(create, img_size=size_px)
    with building, _quiet_timm():
        network: nn.Module = create()
    return network


@contextmanager
def _quiet_timm() -> Iterator[None]:
    """Keep to itself what timm says of tensors behind the last tap, and torch of timm's ways."""
    with hush("timm"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _cut(network: nn.Module, taps: Sequence[int]) -> Intermediates:
    """Take what lies behind the last tap out of a network."""
    cut: Any = network.prune_intermediate_layers
    cut(list(taps), prune_norm=True, prune_head=True)
    return Intermediates(network, taps).eval()


def _offered_strides(network: nn.Module) -> list[int]:
    """The stride of each feature map that a network offers, as timm has it."""
    info: Any = network.feature_info
    return [int(one["reduction"]) for one in info]


def _propose_taps(offered: Sequence[int]) -> tuple[int, ...]:
    """The last feature map at each of the usual strides; the middle one if all are of one stride.

    Networks without the usual strides have their three finest tapped.
    """
    last = {stride: tap for tap, stride in enumerate(offered)}
    if len(last) == 1:
        return (len(offered) // 2,)
    chosen = [stride for stride in last if stride in _STRIDES] or sorted(last)[:3]
    return tuple(sorted(last[stride] for stride in chosen))


def measure_maps(
    trunk: nn.Module, size_px: tuple[int, int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The channels and the stride of each feature map; a ``ValueError`` if one has no stride."""
    images = torch.empty(1, 3, *size_px, dtype=torch.float32, device="meta")
    feature_maps = copy.deepcopy(trunk).to("meta")(images)
    strides = []
    for one in feature_maps:
        if not isinstance(one, Tensor) or one.ndim != 4 or 0 in one.shape:
            raise ValueError("what it gives is no feature map")
        stride = size_px[0] // one.shape[2]
        if tuple(one.shape[2:]) != tuple(side // stride for side in size_px):
            raise ValueError(f"{one.shape[2]}x{one.shape[3]} cells have no whole stride")
        if any(side % stride for side in size_px):
            raise ValueError(f"{size_px[0]}x{size_px[1]} px are no multiple of {stride}")
        strides.append(stride)
    return tuple(one.shape[1] for one in feature_maps), tuple(strides)


def _measure(
    trunk: Intermediates, size_px: tuple[int, int], name: str, described: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The channels and the stride of each feature map; the strides as timm ``described`` them."""
    try:
        channels, strides = measure_maps(trunk, size_px)
    except _REFUSALS as error:
        raise UsageError(f"{name} cannot be used: {_reason(error)}. Choose another.") from error
    if strides != described:  # as of ConvNeXt in timm 1.0.15
        raise UsageError(
            f"{name} cannot be used: this release of timm numbers its feature maps otherwise than "
            "it describes them. Choose another, or another release of timm."
        )
    if any(coarse % fine for fine, coarse in pairwise(sorted(strides))):
        raise UsageError(
            f"{name} cannot be used: the strides of its taps, {join_names(strides)}, do not nest. "
            "Choose taps whose strides divide each other."
        )
    return channels, strides
