"""Small generated categories in the layout of MVTec AD."""

from pathlib import Path

import numpy as np
from PIL import Image

from padim.cli import main


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
