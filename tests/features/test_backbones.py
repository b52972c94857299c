"""Every fact of the backbone table against the network it speaks of."""

import functools
import random
from dataclasses import asdict
from pathlib import PurePosixPath

import pytest
import timm
import torch
from msgspec import ValidationError, convert
from oracle import NETWORKS, hooked, tap_names, whole_network
from torch import nn
from torchvision.models import get_model_weights

from padim.backbones import BACKBONES, DEFAULT_BACKBONE, TWO_TAPS, BackboneSpec, backbone
from padim.errors import UnknownNameError, UsageError
from padim.features.trunk import AnyTrunk, build_trunk, with_taps
from padim.method.pyramid import build_pyramid
from padim.recipes import RECIPES

SPECS = [pytest.param(spec, id=name) for name, spec in BACKBONES.items()]
SIDE_PX = 256

# The table of the design: channels of the taps; 384, 344 and 432 where the original says less.
CHANNELS = {
    "resnet18": (64, 128, 256),
    "wide_resnet50_2": (256, 512, 1024),
    "efficientnet_b5_ns": (40, 128, 176),
    "efficientnet_b6_ns": (40, 144, 200),
    "efficientnet_b7_ns": (48, 160, 224),
    "efficientnet_l2_ns_475": (104, 344, 480),
    "efficientnet_v2_m": (48, 80, 160),
    "efficientnet_v2_l": (64, 96, 192),
    "efficientnetv2_m_in21ft1k": (80, 160, 304),
    "efficientnetv2_xl_in21ft1k": (64, 192, 256),
    "efficientnet_lite0": (24, 40, 112),
    "efficientnet_lite1": (24, 40, 112),
    "efficientnet_lite2": (24, 48, 120),
}


@functools.cache
def whole(name: str) -> nn.Module:
    """The whole network on the meta device."""
    return whole_network(name, device="meta")


@functools.cache
def trunk_of(spec: BackboneSpec) -> AnyTrunk:
    return build_trunk(spec)


def test_the_table_has_the_backbones_of_the_design() -> None:
    assert {name: spec.channels for name, spec in BACKBONES.items()} == CHANNELS
    assert all(spec.name == name for name, spec in BACKBONES.items())
    assert DEFAULT_BACKBONE == "efficientnet_lite0"


@pytest.mark.parametrize(
    ("name", "n_dims"),
    [
        ("efficientnet_lite0", 176),
        ("efficientnet_b5_ns", 344),
        ("efficientnet_b6_ns", 384),
        ("efficientnet_b7_ns", 432),
        ("resnet18", 448),
        ("wide_resnet50_2", 1792),
        ("efficientnetv2_xl_in21ft1k", 512),
    ],
)
def test_all_tapped_channels_are_counted(name: str, n_dims: int) -> None:
    assert backbone(name).n_dims == n_dims


@pytest.mark.parametrize("spec", SPECS)
def test_channels_and_strides_are_those_of_the_network(spec: BackboneSpec) -> None:
    network = whole(spec.name)
    images = torch.empty(1, 3, SIDE_PX, SIDE_PX, device="meta")
    feature_maps = hooked(network, tap_names(spec.name), images)
    assert spec.channels == tuple(m.shape[1] for m in feature_maps)
    assert spec.strides == tuple(SIDE_PX // m.shape[2] for m in feature_maps)
    assert spec.taps == NETWORKS[spec.name][2]


@pytest.mark.parametrize("spec", SPECS)
def test_the_trunk_gives_the_taps_in_order(spec: BackboneSpec) -> None:
    feature_maps = trunk_of(spec)(torch.empty(2, 3, SIDE_PX, SIDE_PX, device="meta"))
    assert [tuple(m.shape) for m in feature_maps] == [
        (2, channels, SIDE_PX // stride, SIDE_PX // stride)
        for channels, stride in zip(spec.channels, spec.strides, strict=True)
    ]


@pytest.mark.parametrize("spec", SPECS)
def test_the_trunk_ends_at_the_last_tap(spec: BackboneSpec) -> None:
    names = list(whole(spec.name).state_dict())
    last = max(i for i, n in enumerate(names) if n.startswith(f"{tap_names(spec.name)[-1]}."))
    assert list(trunk_of(spec).network.state_dict()) == names[: last + 1]


@pytest.mark.parametrize("spec", SPECS)
def test_weights_bytes_are_those_of_the_whole_network(spec: BackboneSpec) -> None:
    tensors = whole(spec.name).state_dict().values()
    assert spec.weights_bytes == sum(t.numel() * t.element_size() for t in tensors)


@pytest.mark.parametrize("spec", [s for s in SPECS if s.values[0].library == "timm"])
def test_facts_of_timm_weights_are_timms(spec: BackboneSpec) -> None:
    cfg = timm.get_pretrained_cfg(f"{spec.architecture}.{spec.weights_tag}")
    assert cfg is not None
    assert cfg.tag == spec.weights_tag
    assert (spec.mean, spec.std) == (cfg.mean, cfg.std)
    if timm.__version__ != "1.0.16":  # the oldest of the range names no licence
        assert cfg.license is not None
        assert spec.licence.lower() == cfg.license
    if not spec.package:
        assert spec.url == cfg.url


@pytest.mark.parametrize("spec", [s for s in SPECS if s.values[0].library == "torchvision"])
def test_facts_of_torchvision_weights_are_torchvisions(spec: BackboneSpec) -> None:
    weights = get_model_weights(spec.architecture)[spec.weights_tag]
    transform = weights.transforms()
    assert spec.url == weights.url
    assert (spec.mean, spec.std) == (tuple(transform.mean), tuple(transform.std))
    assert spec.licence == "not stated"  # torchvision says nothing of its weights' licence


@pytest.mark.parametrize("spec", SPECS)
def test_the_name_of_a_weights_file_carries_a_hash(spec: BackboneSpec) -> None:
    digits = PurePosixPath(spec.weights_file).stem.rpartition("-")[2]
    assert len(digits) == 8
    int(digits, 16)
    assert spec.weights_file == spec.url.rpartition("/")[2]


@pytest.mark.parametrize("spec", SPECS)
def test_every_backbone_takes_the_sizes_of_the_recipes(spec: BackboneSpec) -> None:
    for recipe in RECIPES.values():
        pyramid = build_pyramid(spec, recipe.size_px)
        assert pyramid.n_dims == spec.n_dims
        assert [level.grid for level in pyramid.levels] == sorted(
            {(recipe.size_px[0] // s, recipe.size_px[1] // s) for s in spec.strides}
        )


@pytest.mark.parametrize("spec", SPECS)
def test_two_levels_are_at_strides_8_and_16(spec: BackboneSpec) -> None:
    taps = TWO_TAPS[spec.name]
    assert with_taps(spec, taps).strides == (8, 16)
    assert taps[1] == max(t for t, s in zip(spec.taps, spec.strides, strict=True) if s <= 16)


@pytest.mark.parametrize(
    ("name", "n_random_dims", "millions"),
    [
        ("efficientnet_lite0", None, 20.5),  # 82 MB in float32
        ("resnet18", 100, 7.8),
        ("wide_resnet50_2", 550, 217),
        ("efficientnet_b7_ns", None, 94),
    ],
)
def test_entries_stored_are_those_of_the_design(
    name: str, n_random_dims: int | None, millions: float
) -> None:
    spec = backbone(name)
    assert spec.n_random_dims == n_random_dims
    n_entries = build_pyramid(spec, (224, 224), n_random_dims).n_entries
    assert n_entries / 1e6 == pytest.approx(millions, rel=0.005)


@pytest.mark.parametrize(("name", "n_dims"), [("resnet18", 448), ("wide_resnet50_2", 1792)])
def test_random_dims_of_the_resnets_are_the_published_ones(name: str, n_dims: int) -> None:
    spec = backbone(name)
    pyramid = build_pyramid(spec, (224, 224), spec.n_random_dims)
    starts = [0, spec.channels[0], spec.channels[0] + spec.channels[1]]
    ours = sorted(
        starts[tap] + channel
        for level in pyramid.levels
        for tap, channels in zip(level.taps, level.channels, strict=True)
        for channel in channels
    )
    random.seed(1024)
    assert ours == sorted(random.sample(range(n_dims), spec.n_random_dims or 0))


def test_an_unknown_backbone_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match=r"no backbone 'resnet81'\. Did you mean 'resnet18'"):
        backbone("resnet81")


def test_other_taps_bring_their_own_channels_and_strides() -> None:
    spec = with_taps(backbone("efficientnet_lite0"), (2, 3, 4))
    assert (spec.taps, spec.channels, spec.strides) == ((2, 3, 4), (40, 80, 112), (8, 16, 16))
    pyramid = build_pyramid(spec, (224, 224))
    assert [(level.grid, level.taps) for level in pyramid.levels] == [
        ((14, 14), (1, 2)),
        ((28, 28), (0,)),
    ]


@pytest.mark.parametrize("spec", SPECS)
def test_the_taps_of_the_table_read_off_the_network_give_the_table(spec: BackboneSpec) -> None:
    assert with_taps(spec, spec.taps) == spec


@pytest.mark.parametrize(
    ("name", "taps", "blocks"),
    [
        ("efficientnet_lite0", (1, 9), "0 to 6"),
        ("efficientnet_lite0", (2, 1), "0 to 6"),
        ("efficientnet_lite0", (1, 1), "0 to 6"),
        ("efficientnet_lite0", (), "0 to 6"),
        ("efficientnet_lite0", (-1,), "0 to 6"),
        ("resnet18", (0,), "1 to 4"),
    ],
)
def test_taps_that_cannot_be_are_refused(name: str, taps: tuple[int, ...], blocks: str) -> None:
    with pytest.raises(UsageError, match=rf"has the blocks {blocks}, each to be named once"):
        with_taps(backbone(name), taps)


def test_a_package_in_a_file_is_looked_for_and_never_imported() -> None:
    facts = asdict(BACKBONES["efficientnet_lite0"])
    assert convert(facts, BackboneSpec) == BACKBONES["efficientnet_lite0"]
    with pytest.raises(ValidationError, match=r"regex.*\$\.package"):
        convert(facts | {"package": "antigravity.models"}, BackboneSpec)


@pytest.mark.parametrize("spec", SPECS)
def test_some_of_the_taps_are_as_the_network_has_them(spec: BackboneSpec) -> None:
    few = spec.keep_taps(spec.taps[1:])
    assert few is not None
    network = build_trunk(few)
    maps = network(torch.empty(1, 3, SIDE_PX, SIDE_PX, device="meta"))
    assert tuple(one.shape[1] for one in maps) == few.channels
    assert tuple(SIDE_PX // one.shape[2] for one in maps) == few.strides
    assert spec.keep_taps((0,)) is None
