"""Image and pixel AUROC on real images with both recipes; writes docs/results.md.

The solar cells come with the ``demo`` extra. The magnetic tiles are read from the folder that the
environment variable PADIM_DATA names, and are left out, saying so, where it is unset.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from measure import machine, write

from padim.benchmark import shown
from padim.datasets import Category, read_category
from padim.demo import LICENCE, lay_out_solar_cells
from padim.evaluation import evaluate
from padim.fitting import prepare
from padim.model import from_fitted

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
_TILES = "magnetic_tile"


def measure(category: Category, recipe: str) -> dict[str, Any]:
    """Fit and evaluate one category."""
    fitter = prepare(recipe_name=recipe)
    model = from_fitted(fitter.fit(category.train))
    evaluation = evaluate(model, category)
    return {
        "category": category.name,
        "recipe": recipe,
        "n_train": len(category.train),
        "n_test_normal": category.n_normal,
        "n_test_anomalous": category.n_anomalous,
        **evaluation.metrics(),
    }


def page(rows: list[dict[str, Any]], tiles: bool) -> str:
    """The page that shows the rows."""
    facts = machine()
    lines = [
        "# Results",
        "",
        "Measured by `python benchmarks/results.py`"
        + (" with `PADIM_DATA` naming the folder of the magnetic tiles" if tiles else "")
        + f", {facts['date']}, {facts['cores']} cores of {facts['cpu']}, torch "
        f"{facts['packages']['torch']}, EfficientNet-Lite0. F1-max is the best F1 over all "
        "thresholds, chosen with the test labels: an upper bound, not a promise.",
        "",
        "| category | recipe | train | test normal / anomalous | image AUROC | pixel AUROC "
        "| image F1-max | pixel F1-max |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['category']} | {row['recipe']} | {row['n_train']} "
        f"| {row['n_test_normal']} / {row['n_test_anomalous']} "
        f"| {shown(row['image_auroc'])} | {shown(row['pixel_auroc'])} "
        f"| {shown(row['image_f1_max'])} | {shown(row['pixel_f1_max'])} |"
        for row in rows
    ]
    lines += [
        "",
        f"{LICENCE} They have no masks, so nothing can be said of their pixels. Normal are cells of "
        "defect probability 0, every third one for testing; anomalous those of probability 1.",
        "",
        "Magnetic tiles: Huang et al. 2018, Saliency of magnetic tile surface defects; images of "
        "many sizes and places, unaligned, which is hard on a method that expects each part at its "
        "place."
        if tiles
        else "The magnetic tiles were not measured: PADIM_DATA was unset.",
        "",
        "MVTec AD and the larger networks were not measured: neither the images nor the weights "
        "were at hand. `padim benchmark mvtec_anomaly_detection -o out --backbone "
        "efficientnet_b7_ns --recipe reference --dims all` gives that table where they are.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    data = os.environ.get("PADIM_DATA")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        categories = [
            read_category(lay_out_solar_cells(Path(folder), cells)) for cells in ("mono", "poly")
        ]
        if data is None:
            print("PADIM_DATA is unset: the magnetic tiles are left out")
        else:
            categories.append(read_category(Path(data) / _TILES))
        for category in categories:
            rows += [measure(category, recipe) for recipe in ("reference", "standard")]
    write("results", rows)
    PAGE.write_text(page(rows, data is not None), encoding="utf-8")
