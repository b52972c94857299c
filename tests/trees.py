"""Small generated categories in the layout of MVTec AD."""

from pathlib import Path

import numpy as np
from PIL import Image

from padim.cli import main
from padim.evaluation.record import Curves, Fingerprint, ImageResult, Record, Row, Settings
from padim.metrics.resamples import N_RESAMPLES
from padim.metrics.table import METRICS


def lay_out(root: Path, *names: str) -> Path:
    """Make empty files below a folder, with the folders that they need."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def striped(seed: int, side_px: int = 72, *, spot: bool = False) -> Image.Image:
    """A striped surface with some noise, and with a dark spot when it is to be defective."""
    generator = np.random.default_rng(seed)
    columns = np.sin(np.arange(side_px) / 4) * 40 + 128
    surface = np.broadcast_to(columns, (side_px, side_px)) + generator.normal(0, 6, (side_px,) * 2)
    if spot:
        y, x = generator.integers(16, side_px - 32, 2)
        surface[y : y + 14, x : x + 14] = 10
    grey = surface.clip(0, 255).astype(np.uint8)
    return Image.fromarray(np.repeat(grey[..., None], 3, axis=2))


def make_category(folder: Path, *, n_train: int = 6, n_test: int = 3, masks: bool = True) -> Path:
    """Write a category of good images and of images with a spot.

    Args:
        folder: The category's folder.
        n_train: Good images to fit on.
        n_test: Good images, and as many with a spot, to test on.
        masks: Whether the spots come with their masks.
    """
    for place in ("train/good", "test/good", "test/spot", "ground_truth/spot"):
        (folder / place).mkdir(parents=True)
    for i in range(n_train):
        striped(i).save(folder / f"train/good/{i}.png")
    for i in range(n_test):
        striped(100 + i).save(folder / f"test/good/{i}.png")
        spotted = striped(200 + i, spot=True)
        spotted.save(folder / f"test/spot/{i}.png")
        if masks:
            mask = (np.asarray(spotted.convert("L")) < 20).astype(np.uint8) * 255
            Image.fromarray(mask).save(folder / f"ground_truth/spot/{i}_mask.png")
    return folder


def make_two_categories(root: Path) -> Path:
    """Write a texture with masks and an object without any."""
    make_category(root / "carpet")
    make_category(root / "bottle", n_train=4, masks=False)
    return root


def benchmark(root: Path, out: Path, *more: str) -> int:
    """Run ``padim benchmark`` on small inputs; its exit status."""
    return main(["benchmark", str(root), "-o", str(out), "--size", "64", *more])


def make_settings(backbone: str = "resnet18", n_dims: int = 448) -> Settings:
    """Of a benchmark that was never run."""
    return {
        "recipe": "standard",
        "backbone": backbone,
        "size_px": [16, 24],
        "crop_fraction": 1.0,
        "resample": "bilinear",
        "n_dims": n_dims,
        "versions": {"numpy": "2.0"},
        "n_seeds": 1,
    }


def make_fingerprint(backbone: str = "resnet18") -> Fingerprint:
    """Of a category without a file."""
    return Fingerprint(make_settings(backbone), (), (), (), "MVTec AD", "inferno")


def make_record(
    category: str,
    images: tuple[ImageResult, ...] = (),
    masks: tuple[tuple[str, ...], ...] = (),
    metrics: dict[str, float] | None = None,
) -> Record:
    """What is kept of a category that was never done."""
    nothing: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
    values = {name: (metrics or {}).get(name) for name in METRICS}
    return Record(
        name=category,
        resampled={name: np.full(N_RESAMPLES, value) for name, value in (metrics or {}).items()},
        root="/data",
        masks=masks,
        threshold=None,
        row=Row(category, 3, len(images), values, 1.0, 0.5, None, 1000),
        by_defect={},
        images=images,
        curves=Curves(nothing, nothing, nothing),
        unreadable=(),
        fingerprint=make_fingerprint(),
    )
