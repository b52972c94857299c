"""The page of the drift alarm, from what its benchmark found."""

from typing import Any

from speed import load_result, source, table

_SHOWN = {"light": "light x", "blur": "blur, px", "shift": "shift, px", "dirt": "dirt x"}


def alarms_page() -> str:
    """How seldom the drift alarm rang falsely, and how soon it found a change."""
    result = load_result("monitor")
    settings = result["settings"]
    return "\n".join(
        (
            "# The drift alarm, measured",
            "",
            "Written by `python docs/scripts/write_pages.py` from `benchmarks/results/`. "
            f"EfficientNet-Lite0, the recipe `standard`, fitted on {settings['n_fit']} good images "
            "of each set. [What it promises](explanation/drift.md).",
            "",
            "## False alarms",
            "",
            "Good images that the fit did not see come in random orders, again and again. The "
            "promise c is the parts between two alarms, at least, on average.",
            "",
            *table(
                ("images", "begins with", "c", "parts", "promised", "rang"), _alarm_rows(result)
            ),
            "",
            "## Parts until a change is found",
            "",
            "The promise is 1,000 parts. Medians of the streams in which it was found; in brackets "
            "the share that were, where not all. *PSI*: windows of "
            f"{settings['window']} images of the population stability index: of the score at 0.20, "
            "the custom, and of the highest of all statistics at the limit that gives as few false "
            "alarms. *Rejected*: parts that the threshold rejects after the change, which the "
            "alarm leaves out.",
            "",
            *table(
                ("images", "change", "rejected", "alarm", "PSI 0.20", "PSI, same rate", "named"),
                _change_rows(result),
            ),
            "",
            "## What it costs",
            "",
            *table(
                ("images", "statistics of an image", "over a prediction"),
                [
                    (
                        row["set"],
                        f"{1e3 * row['cost']['seconds']['statistics']['median']:.2f} ms",
                        f"{row['cost']['ratio']['median']:.4f}",
                    )
                    for row in result["rows"]
                ],
            ),
            *source(result),
            "",
        )
    )


def _alarm_rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            row["set"],
            found["start"],
            f"{found['limit']:,}",
            f"{found['n_parts']:,}",
            f"{found['promised']:.0f}",
            str(found["n_alarms"]),
        )
        for row in result["rows"]
        for found in row["false_alarms"]
    ]


def _change_rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            row["set"],
            f"{_SHOWN[found['change']]} {found['strength']:g}",
            f"{found['rejected']:.0%}",
            *(_delay(found[way]) for way in ("monitor", "psi_score", "psi_highest")),
            found["culprit"],
        )
        for row in result["rows"]
        for found in row["changes"]
    ]


def _delay(found: dict[str, Any]) -> str:
    if found["median"] is None or found["found"] < 0.5:
        return f"({found['found']:.0%})"
    share = "" if found["found"] == 1 else f" ({found['found']:.0%})"
    return f"{found['median']:.0f}{share}"
