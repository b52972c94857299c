"""Every metric on real images, of each recipe and of anomalib; writes docs/results.md.

The solar cells come with the ``demo`` extra. The magnetic tiles are read from the folder that the
environment variable PADIM_DATA names, and are left out, saying so, where it is unset. Each of the
EfficientNet-Lites is fitted with each recipe, and by anomalib 2.7.0 with the same weights and taps,
the whole image at 256 px. The metrics of all are taken by the same code, from maps and scores; they
are the same in every run, so each is taken once.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, cast

import measure
import numpy as np
import recipe_levers as levers
import recipe_scores
from numpy.typing import NDArray
from peer_env import score_with_peer

from padim.datasets import Category, read_category
from padim.datasets.solar_cells import LICENCE, lay_out_solar_cells
from padim.evaluation.category import Evaluation, evaluate
from padim.evaluation.compare import Difference, Pair
from padim.evaluation.record import Settings, to_plain
from padim.evaluation.run import settings_of
from padim.files import write_text
from padim.fitting.fit import build_model
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitSettings
from padim.images.decode import read_size_px
from padim.images.preprocess import Preprocess
from padim.metrics.table import format_interval, format_metric
from padim.scoring.prediction import Prediction
from padim.scoring.predictor import Predictor

PAGE = measure.ROOT / "docs" / "results.md"
BACKBONES = tuple(f"efficientnet_lite{i}" for i in range(3))
RECIPES = ("reference", "standard", "fast", "accurate")
PEER = "anomalib 2.7.0"
LEVERS = {  # how the benchmark of levers calls them
    "reference": "`reference`",
    levers.BEFORE: "`standard` of before",
    levers.BEFORE_FAST: "`fast`",
    levers.UNFUSED: "`standard` without its coarse head",
    levers.DEFAULT: "`standard`",
    levers.MIRRORED: "`standard`, mirrored",
    levers.ACCURATE: "`accurate`",
}
TILES = "magnetic_tile"
OF_IMAGES = {
    "image_auroc": "image AUROC",
    "image_average_precision": "image AP",
    "image_f1_max": "image F1-max (oracle)",
    "image_recall_at_0": "recall, no false alarm (oracle)",
    "image_recall_at_1": "recall, one (oracle)",
}
OF_PIXELS = {
    "pixel_auroc": "pixel AUROC",
    "pixel_average_precision": "pixel AP",
    "pixel_f1_max": "pixel F1-max (oracle)",
    "aupro_30": "AUPRO, to FPR 0.30",
    "aupro_05": "AUPRO, to FPR 0.05",
    "aupimo": "AUPIMO, FPR 1e-5 to 1e-4",
}
COMPARED = ("image_auroc", "image_average_precision", "pixel_average_precision", "aupro_30")
EVERY_QUICK = 20  # a quick run takes every so many images


def find_categories(folder: Path, data: str | None) -> list[Category]:
    """The categories to measure.

    Args:
        folder: Where the solar cells are laid out.
        data: Folder that holds the magnetic tiles, if they are here.
    """
    categories = [read_category(lay_out_solar_cells(folder, cells)) for cells in ("mono", "poly")]
    if data is None:
        measure.say("PADIM_DATA is unset: the magnetic tiles are left out.")
    else:
        categories.insert(0, read_category(Path(data) / TILES))
    return categories


@dataclass(frozen=True)
class PeerScores:
    """What the peer made of test images, where a predictor is wanted.

    Attributes:
        found: Map, shape ``(H, W)``, and score of each image.
        preprocess: How maps lie on images.
    """

    found: Mapping[Path, tuple[NDArray[np.float16], float]]
    preprocess: Preprocess
    decision: None = None

    def stream(self, paths: Sequence[Path], unreadable: object) -> Iterator[Prediction]:
        """The prediction of each image."""
        for path in paths:
            anomaly_map, score = self.found[path]
            values = anomaly_map.astype(np.float32)
            yield Prediction(path, score, values, (), read_size_px(path), self.preprocess)


def evaluate_peer(category: Category, backbone: str, preprocess: Preprocess) -> Evaluation:
    """Let anomalib fit and score a category, and measure what it gives."""
    test = [sample.path for sample in category.test]
    with tempfile.TemporaryDirectory() as folder:
        maps, scores = score_with_peer(backbone, category.train, test, Path(folder))
    found = dict(zip(test, zip(maps, scores.tolist(), strict=True), strict=True))
    return evaluate(cast(Predictor, PeerScores(found, preprocess)), category)


def run_category(
    category: Category, backbone: str, settings: Callable[[Settings], None]
) -> list[dict[str, Any]]:
    """Fit and evaluate one category with one network, each way.

    Args:
        category: Its images.
        backbone: The network.
        settings: Told what each recipe comes to.
    """
    evaluations = {}
    for recipe in RECIPES:
        measure.say(f"{category.name}, {backbone}, {recipe}")
        fitter = prepare(FitSettings(backbone=backbone, recipe=recipe, device="cpu"))
        settings(settings_of(fitter))
        model = build_model(fitter, fitter.fit(category.train))
        evaluations[recipe] = evaluate(model, category)
        if recipe == "standard":
            measure.say(f"{category.name}, {backbone}, {PEER}")
            evaluations[PEER] = evaluate_peer(category, backbone, fitter.encoder.preprocess)
    resampled = {method: found.resample() for method, found in evaluations.items()}
    measured = {method: found.metrics for method, found in evaluations.items()}
    rows = []
    for method, metrics in measured.items():
        less_peer = {}
        for metric in COMPARED:
            value, of_peer = metrics[metric], measured[PEER][metric]
            if value is None or of_peer is None:
                continue
            drawn = resampled[method][metric] - resampled[PEER][metric]
            less_peer[metric] = to_plain(Difference.of(Pair(value, of_peer, drawn)))
        rows.append(
            {
                "category": category.name,
                "backbone": backbone,
                "method": method,
                "n_train": len(category.train),
                "n_test_normal": category.n_normal,
                "n_test_anomalous": category.n_anomalous,
                **metrics,
                "intervals": evaluations[method].intervals,
                "less_peer": less_peer,
            }
        )
    return rows


def page(document: dict[str, Any]) -> str:
    """The page that shows a result."""
    machine, software = document["machine"], document["software"]
    has_tiles, rows = document["has_tiles"], document["rows"]
    lines = [
        "# Results",
        "",
        "Written by `python benchmarks/results.py`"
        + (" with `PADIM_DATA` naming the folder that holds `magnetic_tile`" if has_tiles else "")
        + f" on {document['date']}: {machine['cpu']}, {machine['cores']} cores, {machine['os']}, "
        f"torch {software['torch']}, commit {(document['commit'] or 'unknown')[:7]}"
        + ("" if document["tree_is_clean"] else " with changes that were not committed")
        + ".",
        "",
        "`reference` is the geometry, eps and score of the published PaDiM, `standard` the default "
        "([recipes](explanation/recipes.md)). anomalib's PaDiM has the same weights, the taps and "
        "dimensions of `reference`, the whole image at 256 px, and the blur and maximum that it "
        "has by itself. All metrics "
        "are taken by the same code. In brackets are 95% bootstrap intervals over the test images. "
        "F1-max is the best F1 over all thresholds, and recall is at no and at one false alarm "
        "among the normal test images: thresholds that the test labels set, upper bounds and no "
        "promise. The "
        "metrics of pixels of `reference` leave out what its crop does not show, and are not "
        "comparable.",
    ]
    for name in dict.fromkeys(row["category"] for row in rows):
        own = [row for row in rows if row["category"] == name]
        first = own[0]
        lines += [
            "",
            f"## {name}",
            "",
            f"{first['n_train']} normal images to fit on; {first['n_test_normal']} normal and "
            f"{first['n_test_anomalous']} anomalous ones to test on.",
            "",
            *metric_table(own, OF_IMAGES),
        ]
        if any(row["aupro_30"] is not None for row in own):
            lines += ["", *metric_table(own, OF_PIXELS)]
    lines += [
        "",
        "## `standard` less anomalib",
        "",
        "Paired over the same bootstrap samples of the test images; bold where the interval leaves "
        "0 out.",
        "",
        *difference_table([row for row in rows if row["method"] == "standard"]),
        "",
        *lever_lines(),
        "",
        "## The images",
        "",
        f"Solar cells. {LICENCE} They have no masks, so nothing can be said of their pixels. "
        "Normal are cells of defect probability 0, every third one for testing; anomalous those of "
        "probability 1.",
        "",
        "Magnetic tiles: Huang et al. 2018, Saliency of magnetic tile surface defects. Images of "
        "many sizes and places, unaligned, which is hard on a method that expects each part at its "
        "place."
        if has_tiles
        else "The magnetic tiles were not measured: `PADIM_DATA` was unset.",
        "",
        "MVTec AD and the larger networks were not measured: neither the images nor the weights "
        "were at hand. [How to](mvtec.md) where they are.",
    ]
    return "\n".join(lines) + "\n"


def metric_table(rows: Sequence[dict[str, Any]], metrics: Mapping[str, str]) -> list[str]:
    """Metrics of one category, a line for each network and method."""
    lines = [
        f"| backbone | method | {' | '.join(metrics.values())} |",
        f"|---|---|{'---|' * len(metrics)}",
    ]
    for row in rows:
        cells = [f"{format_metric(row[m])}{format_interval(row['intervals'][m])}" for m in metrics]
        lines.append(f"| {row['backbone']} | {row['method']} | {' | '.join(cells)} |")
    return lines


def difference_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """How much more than anomalib's each metric is."""
    names = OF_IMAGES | OF_PIXELS
    lines = [
        f"| category | backbone | {' | '.join(names[metric] for metric in COMPARED)} |",
        f"|---|---|{'---|' * len(COMPARED)}",
    ]
    for row in rows:
        cells = []
        for metric in COMPARED:
            if metric not in row["less_peer"]:
                cells.append("n/a")
                continue
            found = row["less_peer"][metric]
            low, high = found["interval"]
            words = f"{found['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
            cells.append(f"**{words}**" if found["holds"] else words)
        lines.append(f"| {row['category']} | {row['backbone']} | {' | '.join(cells)} |")
    return lines


def lever_lines() -> list[str]:
    """What the recipes gave on the half of the photographs that no choice was made on."""
    result = json.loads((measure.RESULTS / "recipe_levers_report.json").read_text(encoding="utf-8"))

    lines = [
        "## The choice of the recipe",
        "",
        f"`python benchmarks/recipe_levers.py --phase report`, {result['date']}, "
        f"commit {result['commit'][:7]}. Recipes were chosen on one half of the photographs and "
        "looked at once on the other, as [written down](decisions/0015-recipe-choice.md) before: "
        "fitted on 60 and on 300 good images, three draws each. *Harder* are polycrystalline "
        "cells, tiles with cracks and uneven ones; *small* are scratches, spots, holes and "
        "displaced patches of 4 to 16 px made anywhere on good images. Errors are 1 - AUROC of "
        "images; false alarms are those at a threshold for 5%; intervals are 95%, paired over the "
        "test images. The maps of `reference` do not "
        "show defects outside its crop, and are not comparable.",
    ]
    shown = measure.show_interval
    for (backbone, found), scope in product(result["backbones"].items(), ("harder", "small")):
        lines += [
            "",
            f"{backbone}, {scope}:",
            "",
            "| recipe | error over `reference` | error over `standard` of before | error, % "
            "| recall, one false alarm, % | false alarms at 5%, % | AUPRO-0.3, % | AUPRO-0.05, % "
            "| AUPIMO, % |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for summary in found["summaries"]:
            here = summary[f"{scope}, 60, 300"]
            error = [1 - here["image_auroc"][i] for i in (0, 2, 1)]
            metrics = (*recipe_scores.OF_IMAGES[2:], *recipe_scores.OF_MAPS)
            cells = [
                shown(here["error_over_reference"], 1, 2),
                shown(here[f"error_over_{levers.BEFORE}"], 1, 2),
                shown(error, 100, 1),
                *(shown(here.get(metric), 100, 1) for metric in metrics),
            ]
            lines.append(f"| {LEVERS[summary['lever']]} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Run the benchmark."""
    quick = measure.arguments(__doc__).quick
    about = measure.facts(["elpv-dataset"])
    data = os.environ.get("PADIM_DATA")
    settings: list[Settings] = []

    def noted(found: Settings) -> None:
        if found not in settings:
            settings.append(found)

    with tempfile.TemporaryDirectory() as folder:
        categories = find_categories(Path(folder), data)
        if quick:
            categories = [
                replace(c, train=c.train[::EVERY_QUICK], test=c.test[::EVERY_QUICK])
                for c in categories
            ]
        rows = [
            row
            for category in categories
            for backbone in BACKBONES[: 1 if quick else None]
            for row in run_category(category, backbone, noted)
        ]
    metrics = (*OF_IMAGES, *OF_PIXELS)
    measure.print_table(
        ("category", "backbone", "method", *metrics),
        [
            (
                *(row[key] for key in ("category", "backbone", "method")),
                *(format_metric(row[metric]) for metric in metrics),
            )
            for row in rows
        ],
    )
    content = {"settings": settings, "has_tiles": data is not None, "rows": rows}
    document = measure.finish("results", about, content, quick=quick)
    text = page(document)
    if not quick:
        write_text(PAGE, text)
        print(f"Written: {PAGE.relative_to(measure.ROOT).as_posix()}")


if __name__ == "__main__":
    main()
