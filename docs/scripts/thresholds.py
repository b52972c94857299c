"""The page of false alarms and outliers, from what the benchmarks found."""

from typing import Any

from speed import load_result, source, table

_CHOSEN = "rank, capped"  # the rule of the package, in benchmarks/few_rules.py
_LEAST_PARETO = 20  # images: it has no threshold for so few
_SPLITS = {"random": "at random", "consecutive": "neighbours in the set"}


def thresholds_page() -> str:
    """How thresholds held on good images, and what the list of outliers found."""
    alarms, folder = load_result("false_alarms"), load_result("good_folder")
    few = load_result("few_images_report")
    n_splits = alarms["settings"]["n_splits"]
    return "\n".join(
        (
            "# Thresholds and outliers",
            "",
            "Written by `python docs/scripts/write_pages.py` from `benchmarks/results/`. "
            "EfficientNet-Lite0. *Few good images*: the recipe `fast`. All else: the recipe "
            "`standard` of before, with three levels, a blur of 4 px, the mean of the hottest 1% "
            "of the pixels as score, and no coarse head.",
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
            *_few_section(few),
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


def _few_section(result: dict[str, Any]) -> list[str]:
    """How rules for few images do."""
    counts = sorted({row["n"] for row in result["rows"]})
    n_draws = result["settings"]["n_draws"]["report"]
    return [
        "## Few good images",
        "",
        f"A model is fitted on {counts[0]} to {counts[-1]} good images of mono cells, poly cells "
        f"or tiles ({n_draws} draws each), and once more with one defective image among them that "
        "somebody took for good. *False alarms*: of unseen good images, over what the threshold "
        "promises; 1 is as promised. *Found*: share of defective images above the threshold, a "
        "mean over five kinds. The rules are written out in `benchmarks/few_rules.py`; "
        f"*{_CHOSEN}* is what a fit does with 5 to 49 images. Recipe `fast`.",
        "",
        "The lowest rate that n ranks serve, 1 / (n + 1):",
        "",
        *table(
            (
                "n",
                "rate",
                "false alarms: rank",
                "capped",
                "found: rank",
                "capped",
                "found, one planted: rank",
                "capped",
            ),
            [_few_row(result, n) for n in counts],
        ),
        "",
        "All rules that were tried, means over n (*Pareto*: over 31 and 50):",
        "",
        *table(
            ("rule", "false alarms", "in the worst set", "found", "found, one planted"),
            _rule_rows(result, 0.0),
        ),
        "",
        "At 0.01, which so few ranks do not serve (*rank* gives 1 / (n + 1) instead):",
        "",
        *table(
            ("rule", "false alarms", "in the worst set", "found", "found, one planted"),
            [row for row in _rule_rows(result, 0.01) if "rank" not in row[0] or row[0] == "rank"],
        ),
        *source(result),
    ]


def _few_row(result: dict[str, Any], n: int) -> tuple[str, ...]:
    rank, capped = (
        next(r for r in result["rows"] if (r["rule"], r["rate"], r["n"]) == (rule, 0.0, n))
        for rule in ("rank", _CHOSEN)
    )
    alarms = (f"{_mean(row['alarms']):.2f}" for row in (rank, capped))
    found = (f"{_mean(row[key]):.0%}" for key in ("found", "found_odd") for row in (rank, capped))
    return (str(n), f"1 in {n + 1}", *alarms, *found)


def _rule_rows(result: dict[str, Any], rate: float) -> list[tuple[str, ...]]:
    rows = []
    for rule in dict.fromkeys(row["rule"] for row in result["rows"]):
        own = [r for r in result["rows"] if (r["rule"], r["rate"]) == (rule, rate)]
        own = [r for r in own if rule != "Pareto" or r["n"] > _LEAST_PARETO]
        by_set = [sum(r["alarms"][name] for r in own) / len(own) for name in own[0]["alarms"]]
        found = (sum(_mean(r[key]) for r in own) / len(own) for key in ("found", "found_odd"))
        mean = sum(by_set) / len(by_set)
        rows.append((rule, f"{mean:.2f}", f"{max(by_set):.2f}", *(f"{f:.1%}" for f in found)))
    return rows


def _mean(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values)


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
