"""The Mahalanobis head: levels that share their whitening, against one dense inverse per place.

Measures, at 224 px and for one image and sixteen, the time from features to the distances of the
finest grid, and the bytes that have to be stored.

- *shared*: ``padim.method.head.Head``, from the features of each level.
- *shared, from maps*: the same with ``Pyramid.split`` before it, from the network's feature maps.
- *dense* (the alternative): the published PaDiM-EfficientNet script, whose line is

      delta = (embedding - mean).permute(2, 0, 1)
      (torch.matmul(delta, cov_inv) * delta).sum(2)

  on an embedding ``(N, D, L)`` that is already upsampled, concatenated and drawn from, with an
  inverse already laid out as ``(L, D, D)``. Both favour the alternative: the script spends time on
  the first for every image, and keeps ``(D, D, L)``, which has to be copied before the product.

The numbers in the large cases are random, since time does not depend on them; that both ways give
the same distances is checked first, on moments of random features of a small pyramid.
"""

import gc
from collections.abc import Callable
from typing import Any

import measure
import torch
from torch import Tensor

from padim.backbones import backbone
from padim.method.gaussian import factor
from padim.method.head import Head
from padim.method.moments import Moments
from padim.method.pyramid import Level, Pyramid, Splitter, build_pyramid

SIZE_PX = (224, 224)  # what the published script sees
CASES = ("efficientnet_lite0", "resnet18", "efficientnet_b7_ns", "wide_resnet50_2")
BATCHES = (1, 16)
N_ROUNDS = 15
N_DISTINCT = 64  # random matrices the large cases are tiled from


def dense_distance(embedding: Tensor, mean: Tensor, cov_inv: Tensor) -> Tensor:
    """The published script's distances, on a CPU as on a GPU.

    Args:
        embedding: Shape ``(N, D, L)``.
        mean: Shape ``(D, L)``.
        cov_inv: Shape ``(L, D, D)``.

    Returns:
        Shape ``(N, L)``.
    """
    delta = (embedding - mean).permute(2, 0, 1)
    return (torch.matmul(delta, cov_inv) * delta).sum(2).permute(1, 0).clamp(0).sqrt()


def check_equal() -> float:
    """Compare the two on the same moments.

    Returns:
        The largest relative difference.

    Raises:
        AssertionError: They differ by more than rounding.
    """
    pyramid = Pyramid(
        (
            Level((2, 3), (2,), (tuple(range(7)),)),
            Level((4, 6), (1,), (tuple(range(5)),)),
            Level((8, 12), (0,), (tuple(range(3)),)),
        )
    )
    generator = torch.Generator().manual_seed(0)
    n_images, eps = 40, 0.01
    maps = [
        torch.randn(
            n_images, len(level.channels[0]), *level.grid, generator=generator, dtype=torch.float64
        )
        for level in reversed(pyramid.levels)
    ]
    moments = Moments.of(Splitter(pyramid)(maps))
    rows = factor(moments, [eps] * len(pyramid.levels), n_images - 1)
    shared = Head(pyramid, moments.mean, rows, torch.float64)(Splitter(pyramid)(maps))
    fine = pyramid.levels[-1].grid
    embedding = torch.cat(
        [torch.nn.functional.interpolate(m, fine, mode="nearest") for m in maps], dim=1
    ).flatten(2)
    mean = embedding.mean(dim=0)
    centred = (embedding - mean).permute(2, 1, 0)  # (L, D, N)
    covariance = torch.bmm(centred, centred.transpose(1, 2)) / (n_images - 1)
    covariance += eps * torch.eye(pyramid.n_dims, dtype=torch.float64)
    dense = dense_distance(embedding, mean, torch.linalg.inv(covariance))
    error = float(((shared.flatten(1) - dense).abs() / dense).max())
    assert error < 1e-9, f"shared and dense distances differ by {error:.1e}"
    return error


def tiled(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random numbers of a shape, of which only the first few along the first axis are distinct."""
    few = torch.randn(min(N_DISTINCT, shape[0]), *shape[1:], generator=generator) * 0.1
    whole = torch.empty(shape)
    for start in range(0, len(whole), len(few)):
        part = whole[start : start + len(few)]
        part.copy_(few[: len(part)])
    return whole


def shared_case(pyramid: Pyramid, generator: torch.Generator) -> Head:
    """A head of random rows; the tensors it was made of are gone afterwards."""
    mean, rows = [], []
    for i, level in enumerate(pyramid.levels):
        width = pyramid.context_dims(i) + level.n_dims
        mean.append(tiled((level.n_cells, level.n_dims), generator))
        rows.append(tiled((level.n_cells, level.n_dims, width), generator))
    return Head(pyramid, mean, rows).eval()


def run_case(name: str, n_rounds: int) -> list[dict[str, Any]]:
    """Time one backbone's shapes, one row per batch size."""
    spec = backbone(name)
    pyramid = build_pyramid(spec, SIZE_PX, spec.n_random_dims)
    n_places, n_dims = pyramid.levels[-1].n_cells, pyramid.n_dims
    generator = torch.Generator().manual_seed(0)
    head = shared_case(pyramid, generator)
    mean = tiled((n_dims, n_places), generator)
    cov_inv = tiled((n_places, n_dims, n_dims), generator)
    stored = {
        "shared_float16": 2 * pyramid.n_entries + 4 * pyramid.n_features,
        "shared_float32": 4 * pyramid.n_entries + 4 * pyramid.n_features,
        "dense_float32": 4 * (cov_inv.numel() + mean.numel()),
    }
    rows = []
    for n_images in BATCHES:
        measure.say(f"{name}, {n_images} at a time")
        maps = [
            torch.randn(
                n_images, channels, *(side // stride for side in SIZE_PX), generator=generator
            ).to(memory_format=torch.channels_last)
            for channels, stride in zip(spec.channels, spec.strides, strict=True)
        ]
        candidates = _candidates(head, pyramid, maps, mean, cov_inv, generator)
        with torch.inference_mode():
            taken = measure.interleaved(candidates, n_rounds)
        rows.append(
            {
                "backbone": name,
                "n_dims": n_dims,
                "n_images": n_images,
                "seconds": {key: spread.to_json() for key, spread in taken.items()},
                "dense_over_shared": taken["dense"].over(taken["shared"]).to_json(),
                "dense_over_shared_from_maps": taken["dense"]
                .over(taken["shared_from_maps"])
                .to_json(),
                "stored_bytes": stored,
                "shown": _shown(name, n_images, taken, stored),
            }
        )
    return rows


def _candidates(
    head: Head,
    pyramid: Pyramid,
    maps: list[Tensor],
    mean: Tensor,
    cov_inv: Tensor,
    generator: torch.Generator,
) -> dict[str, Callable[[], object]]:
    embeddings = [embedding.contiguous() for embedding in Splitter(pyramid)(maps)]
    embedding = torch.randn(len(maps[0]), *mean.shape, generator=generator)
    return {
        "dense": lambda: dense_distance(embedding, mean, cov_inv),
        "shared": lambda: head(embeddings),
        "shared_from_maps": lambda: head(Splitter(pyramid)(maps)),
    }


def _shown(
    name: str, n_images: int, taken: dict[str, measure.Spread], stored: dict[str, int]
) -> list[str]:
    return [
        name,
        str(n_images),
        *(taken[key].shown(1e3) for key in ("dense", "shared", "shared_from_maps")),
        taken["dense"].over(taken["shared"]).shown(),
        taken["dense"].over(taken["shared_from_maps"]).shown(),
        *(f"{n_bytes / 1e6:.0f}" for n_bytes in stored.values()),
    ]


def main() -> None:
    """Run the benchmark."""
    quick = measure.arguments(__doc__).quick
    about = measure.facts()
    error = check_equal()
    rows = []
    for name in CASES[:1] if quick else CASES:
        rows += run_case(name, 2 if quick else N_ROUNDS)
        gc.collect()
    print(f"Both ways agree to {error:.0e}, relative, on the same moments (float64).\n")
    headers = (
        *("backbone", "images", "dense ms", "shared ms", "from maps ms", "dense/shared"),
        *("dense/from maps", "fp16 MB", "fp32 MB", "dense MB"),
    )
    measure.print_table(headers, [row.pop("shown") for row in rows])
    settings = {"size_px": SIZE_PX, "n_rounds": N_ROUNDS, "n_warm_up": 1}
    content = {"settings": settings, "largest_relative_difference": error, "rows": rows}
    measure.finish("head", about, content, quick=quick)


if __name__ == "__main__":
    main()
