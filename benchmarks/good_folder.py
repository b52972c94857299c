"""Whether the outliers of a fit are the defective images in a folder called good.

Anomalous test images are planted among the good ones, and are then no test images any more. What
the fit lists as outliers is compared with what was planted, and the model with one that drops
them. The alternative is the fit that keeps them; both are tested on the same images. More planted
images mean fewer to test on, so compare within a row. What is listed where none is planted is good
by its label: precision is 0.

The solar cells come with the ``demo`` extra. The magnetic tiles are read from the folder that the
environment variable PADIM_DATA names, and are left out, saying so, where it is unset. The figures
are the same in every run, so each is taken once.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import measure
import numpy as np

from padim.benchmark import settings_of
from padim.datasets import Category, Sample, read_category
from padim.demo import lay_out_solar_cells
from padim.evaluation import shown
from padim.fitting import Fitted, Fitter
from padim.metrics import Ranking
from padim.model import from_fitted
from padim.preparing import prepare
from padim.review import OUTLIER_RATE

TILES = "magnetic_tile"
PLANTED_FRACTIONS = (0.0, 0.02, 0.05, 0.1)  # of the number of good images
SEED = 0
EVERY_QUICK = 10  # a quick run takes every so many images


@dataclass(frozen=True)
class Mixed:
    """A folder called good that is not, and what is left to test on.

    Attributes:
        train: The good images and the planted ones.
        planted: The planted ones.
        test: The test images that were not planted.
    """

    train: tuple[Path, ...]
    planted: frozenset[Path]
    test: tuple[Sample, ...]

    @classmethod
    def of(cls, category: Category, planted_fraction: float) -> "Mixed":
        """Plant anomalous images; a larger share has those of a smaller one among them.

        Args:
            category: Its images.
            planted_fraction: How many to plant, of the number of good images.
        """
        anomalous = [sample.path for sample in category.test if sample.is_anomalous]
        order = np.random.default_rng(SEED).permutation(len(anomalous))
        n_planted = round(planted_fraction * len(category.train))
        planted = [anomalous[i] for i in order[:n_planted]]
        return cls(
            (*category.train, *planted),
            frozenset(planted),
            tuple(sample for sample in category.test if sample.path not in planted),
        )


def find_categories(folder: Path, data: str | None) -> list[Category]:
    """The categories to measure.

    Args:
        folder: Where the solar cells are laid out.
        data: Folder that holds the magnetic tiles, if they are here.
    """
    categories = [read_category(lay_out_solar_cells(folder, "mono"))]
    if data is None:
        measure.say("PADIM_DATA is unset: the magnetic tiles are left out.")
    else:
        categories.append(read_category(Path(data) / TILES))
    return categories


def image_auroc(fitter: Fitter, fitted: Fitted, test: Sequence[Sample]) -> float | None:
    """Of a model, on test images."""
    predictor = from_fitted(fitter, fitted).predictor
    scores = [found.score for found in predictor.stream([sample.path for sample in test])]
    return Ranking.of([sample.is_anomalous for sample in test], scores).auroc()


def run_share(
    category: Category, planted_fraction: float, keeping: Fitter, dropping: Fitter
) -> dict[str, Any]:
    """Fit on good and planted images, with and without dropping outliers.

    Args:
        category: Its images.
        planted_fraction: How many to plant, of the number of good images.
        keeping: Fits on all images.
        dropping: Leaves outliers out.
    """
    measure.say(f"{category.name}, {planted_fraction:.0%} planted")
    mixed = Mixed.of(category, planted_fraction)
    kept = keeping.fit(mixed.train)
    dropped = dropping.fit(mixed.train)
    listed = {kept.paths[one.index] for one in kept.suspects if one.reason == "outlier"}
    n_found = len(listed & mixed.planted)
    n_normal = category.n_normal  # none of them is planted
    return {
        "category": category.name,
        "planted_fraction": planted_fraction,
        "n_good": len(category.train),
        "n_planted": len(mixed.planted),
        "n_listed": len(listed),
        "n_planted_listed": n_found,
        "n_dropped": len(dropped.dropped),
        "recall": n_found / len(mixed.planted) if mixed.planted else None,
        "precision": n_found / len(listed) if listed else None,
        "n_test_normal": n_normal,
        "n_test_anomalous": len(mixed.test) - n_normal,
        "image_auroc_kept": image_auroc(keeping, kept, mixed.test),
        "image_auroc_dropped": image_auroc(dropping, dropped, mixed.test),
    }


def main() -> None:
    """Run the benchmark."""
    quick = measure.arguments(__doc__).quick
    about = measure.facts(["elpv-dataset"])
    keeping = prepare(device="cpu")
    dropping = replace(keeping, drop_outliers=OUTLIER_RATE)
    with tempfile.TemporaryDirectory() as folder:
        categories = find_categories(Path(folder), os.environ.get("PADIM_DATA"))
        if quick:
            categories = [
                replace(c, train=c.train[::EVERY_QUICK], test=c.test[::EVERY_QUICK])
                for c in categories
            ]
        rows = [
            run_share(category, planted_fraction, keeping, dropping)
            for category in categories
            for planted_fraction in PLANTED_FRACTIONS
        ]
    counts = ("n_good", "n_planted", "n_listed", "n_planted_listed")
    ratios = ("recall", "precision", "image_auroc_kept", "image_auroc_dropped")
    measure.print_table(
        ("category", "planted", *counts, *ratios),
        [
            (
                row["category"],
                f"{row['planted_fraction']:.0%}",
                *(row[key] for key in counts),
                *(shown(row[key]) for key in ratios),
            )
            for row in rows
        ],
    )
    chosen = {"settings": settings_of(keeping), "outlier_rate": OUTLIER_RATE, "seed": SEED}
    measure.finish("good_folder", about, {**chosen, "rows": rows}, quick=quick)


if __name__ == "__main__":
    main()
