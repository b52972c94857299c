"""Whether the outliers of a fit are the defective images in a folder called good.

Anomalous test images are planted among the good ones, three draws of each share, and are then no
test images any more. What the fit lists as outliers is compared with what was planted, and the
model with one that drops them. The alternative is the fit that keeps them; both are tested on the
same images. More planted images mean fewer to test on, so compare within a row. What is listed
where none is planted is good by its label: it says how often the list is wrong, and how often it
is by design stands in its rate.

Reported are the means over the draws and, in brackets, their least and greatest. Features are
computed once and moments of chosen images merged, which gives what a fit on them gives.

The solar cells come with the ``demo`` extra. The magnetic tiles are read from the folder that the
environment variable PADIM_DATA names, and are left out, saying so, where it is unset. The figures
are the same in every run, so each is taken once.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
from cells import THREE_LEVELS
from features import Features
from numpy.typing import NDArray

from padim.datasets import Category, read_category
from padim.datasets.solar_cells import lay_out_solar_cells
from padim.evaluation.run import settings_of
from padim.fitting.prepare import prepare
from padim.fitting.review import OUTLIER_RATE, outlier_p_values
from padim.fitting.settings import FitSettings, settings_with
from padim.method.leave_one_out import LeaveOneOut
from padim.method.moments import Moments
from padim.metrics.images import ImageMetrics

TILES = "magnetic_tile"
PLANTED_FRACTIONS = (0.0, 0.02, 0.05, 0.1)  # of the number of good images
N_DRAWS = 3
EVERY_QUICK = 10  # a quick run takes every so many images
RATIOS = ("recall", "precision", "image_auroc_kept", "image_auroc_dropped")


def find_categories(folder: Path, data: str | None) -> list[Category]:
    """The categories to measure.

    Args:
        folder: Where the solar cells are laid out.
        data: Folder that holds the magnetic tiles, if they are here.
    """
    categories = [read_category(lay_out_solar_cells(folder, kind)) for kind in ("mono", "poly")]
    if data is None:
        measure.say("PADIM_DATA is unset: the magnetic tiles are left out.")
    else:
        categories.append(read_category(Path(data) / TILES))
    return categories


def image_auroc(labels: Sequence[bool], scores: NDArray[np.floating]) -> float:
    """Of the test images."""
    return float(ImageMetrics.of(labels, scores).resampled(None)["image_auroc"])


def run_draw(
    images: Features, good: Moments, planted: Sequence[int], anomalous: Sequence[bool]
) -> dict[str, Any]:
    """Fit on good and planted images, with and without dropping outliers.

    Args:
        images: The good images and then the test images.
        good: Moments of the former.
        planted: Which of the test images are planted, by their places in ``images``.
        anomalous: Whether each test image is.
    """
    kept = good.merge(images.moments(planted)) if planted else good
    fitted = [*range(good.count), *planted]
    test = [i for i in range(good.count, good.count + len(anomalous)) if i not in planted]
    labels = [anomalous[i - good.count] for i in test]
    eps, head = images.solved(kept)
    leave_one_out = LeaveOneOut(kept, eps, images.fitter.encoder.pyramid)
    image_score = images.scored(fitted, lambda embeddings: leave_one_out(embeddings)[0])
    listed = [fitted[i] for i in np.flatnonzero(outlier_p_values(image_score) <= OUTLIER_RATE)]
    n_found = len(set(listed) & set(planted))
    auroc_kept = auroc_dropped = image_auroc(labels, images.scored(test, head))
    if listed:
        _, head = images.solved(kept.without(images.moments(listed)))
        auroc_dropped = image_auroc(labels, images.scored(test, head))
    return {
        "n_listed": len(listed),
        "n_planted_listed": n_found,
        "recall": n_found / len(planted) if planted else None,
        "precision": n_found / len(listed) if listed and planted else None,
        "image_auroc_kept": auroc_kept,
        "image_auroc_dropped": auroc_dropped,
    }


def run_category(images: Features, category: Category) -> list[dict[str, Any]]:
    """Plant each share of anomalous images, the larger with the smaller among them."""
    n_good = len(category.train)
    good = images.moments(range(n_good))
    anomalous = [sample.is_anomalous for sample in category.test]
    rows = []
    for planted_fraction in PLANTED_FRACTIONS:
        measure.say(f"{category.name}, {planted_fraction:.0%} planted")
        n_planted = round(planted_fraction * n_good)
        draws = []
        for seed in range(N_DRAWS if n_planted else 1):
            order = np.random.default_rng(seed).permutation(np.flatnonzero(anomalous))
            planted = [n_good + int(i) for i in order[:n_planted]]
            draws.append(run_draw(images, good, planted, anomalous))
        rows.append(
            {
                "category": category.name,
                "planted_fraction": planted_fraction,
                "n_good": n_good,
                "n_planted": n_planted,
                "n_test_normal": category.n_normal,
                "n_test_anomalous": sum(anomalous) - n_planted,
                "draws": draws,
            }
        )
    return rows


def shown(draws: Sequence[dict[str, Any]], key: str) -> str:
    """Mean of the draws, least and greatest."""
    values = [draw[key] for draw in draws if draw[key] is not None]
    if not values:
        return "-"
    form = ".3f" if key in RATIOS else "g"
    if len(values) == 1:
        return f"{values[0]:{form}}"
    mean = f"{np.mean(values):{form if key in RATIOS else '.1f'}}"
    return f"{mean} [{min(values):{form}}, {max(values):{form}}]"


@torch.inference_mode()
def main() -> None:
    """Run the benchmark."""
    quick = measure.arguments(__doc__).quick
    about = measure.facts(["elpv-dataset"])
    fitter = prepare(settings_with(FitSettings(device="cpu"), **THREE_LEVELS))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for category in find_categories(Path(folder), os.environ.get("PADIM_DATA")):
            if quick:
                train, test = category.train[::EVERY_QUICK], category.test[::EVERY_QUICK]
                category = replace(category, train=train, test=test)
            paths = [*category.train, *(sample.path for sample in category.test)]
            rows += run_category(Features.of(category.name, paths, fitter), category)
    keys = ("n_listed", "n_planted_listed", *RATIOS)
    measure.print_table(
        ("category", "planted", "n_good", "n_planted", *keys),
        [
            (
                row["category"],
                f"{row['planted_fraction']:.0%}",
                row["n_good"],
                row["n_planted"],
                *(shown(row["draws"], key) for key in keys),
            )
            for row in rows
        ],
    )
    chosen = {"settings": settings_of(fitter), "outlier_rate": OUTLIER_RATE, "n_draws": N_DRAWS}
    measure.finish("good_folder", about, {**chosen, "rows": rows}, quick=quick)


if __name__ == "__main__":
    main()
