"""The page of false alarms and outliers, from what the benchmarks found."""

from typing import Any

from speed import load_result, source, table

_SPLITS = {"random": "at random", "consecutive": "neighbours in the set"}


def thresholds_page() -> str:
    """How thresholds held on good images, and what the list of outliers found."""
    alarms, folder = load_result("false_alarms"), load_result("good_folder")
    n_splits = alarms["settings"]["n_splits"]
    return "\n".join(
        (
            "# Thresholds and outliers",
            "",
            "Written by `python docs/scripts/write_pages.py` from `benchmarks/results/`. "
            "EfficientNet-Lite0, the recipe `standard`.",
            "",
            "## False alarms",
            "",
            "A model is fitted on n good images of a set, and its threshold set at a rate. The "
            "good images that are left say how many are really called anomalous. That is done for "
            f"{n_splits['random']} draws at random, and {n_splits['consecutive']} times for n "
            "images that are neighbours in the set. In brackets: nine of ten draws lie within.",
            "",
            *table(
                ("images", "n", "drawn", "20% asked for", "10%", "5%", "2%"), _alarm_rows(alarms)
            ),
            "",
            "The same for thresholds that others use, with the highest n: in-sample scores, and "
            "scores of the last quarter, which is held out of the fit.",
            "",
            *table(
                ("images", "drawn", "way", "20% asked for", "10%", "5%", "2%"), _way_rows(alarms)
            ),
            "",
            "Neighbours in the sets of solar cells are alike: their features correlate by "
            + " and ".join(
                f"{alarms['neighbour_correlation'][name]:.2f} ({name})"
                for name in ("mono cells", "poly cells")
            )
            + ". A model of neighbours alone has seen too little, and its threshold does not hold "
            "for the rest.",
            *source(alarms),
            "",
            "## Outliers in the good folder",
            "",
            "Images of defects are put among the good ones, and a fit lists its outliers. *Found*: "
            "how many of those planted are listed. *Change*: of the image AUROC when all that is "
            f"listed is dropped, lowest to highest of {folder['n_draws']} draws.",
            "",
            *table(
                ("images", "planted", "listed", "found", "change of the image AUROC"),
                _folder_rows(folder),
            ),
            *source(folder),
            "",
        )
    )


def _alarm_rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (row["set"], str(row["n"]), _SPLITS[row["split"]], *_rates(row["ways"]["leave-one-out"]))
        for row in result["rows"]
    ]


def _way_rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    largest = max(row["n"] for row in result["rows"])
    return [
        (row["set"], _SPLITS[row["split"]], way, *_rates(row["ways"][way]))
        for row in result["rows"]
        if row["n"] == largest
        for way in ("in-sample", "hold-out")
    ]


def _rates(way: dict[str, Any]) -> list[str]:
    cells = []
    for rate in way["rates"]:
        low, high = rate["splits_5_95"]
        cells.append(f"{rate['actual']:.1%} [{low:.1%}, {high:.1%}]")
    return cells


def _folder_rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for row in result["rows"]:
        draws = row["draws"]
        n_found = sum(draw["n_planted_listed"] for draw in draws)
        n_planted = row["n_planted"] * len(draws)
        changes = [draw["image_auroc_dropped"] - draw["image_auroc_kept"] for draw in draws]
        listed = sorted({draw["n_listed"] for draw in draws})
        rows.append(
            (
                row["category"],
                f"{row['n_planted']} among {row['n_good']}",
                f"{listed[0]} to {listed[-1]}" if len(listed) > 1 else str(listed[0]),
                f"{n_found / n_planted:.0%}" if n_planted else "",
                f"{min(changes):+.4f} to {max(changes):+.4f}",
            )
        )
    return rows
