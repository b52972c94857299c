"""``padim compare``."""

from pathlib import Path
from typing import Annotated

import typer

from padim.cli.console import result, table
from padim.errors import join_names

_DIGITS = range(3, 7)  # as few as tell what holds from 0


def compare(
    first: Annotated[Path, typer.Argument(help="Folder of a benchmark.")],
    second: Annotated[Path, typer.Argument(help="Another, of the same test images.")],
) -> None:
    """Say by how much one benchmark is better, and if that holds."""
    from padim.evaluation.compare import LEVEL
    from padim.evaluation.compare import compare as compare_runs
    from padim.evaluation.record import to_plain
    from padim.metrics.table import METRICS, format_metric

    found = compare_runs(first, second)
    compared = found.lines()
    rows = [
        (
            name,
            METRICS[metric].label,
            format_metric(one.first),
            format_metric(one.second),
            _interval(one.difference, one.interval, one.holds),
            "yes" if one.holds else "no",
            "yes" if one.holds_among_all else "no",
        )
        for name, metric, one in compared
    ]
    headers = ("category", "metric", "first", "second", "difference", "holds", "among all")
    lines = [
        f"{side}: {folder}, {settings['backbone']}, {settings['recipe']}"
        + (f", mean of {settings['n_seeds']} seeds" if settings["n_seeds"] > 1 else "")
        for folder, (side, settings) in zip(
            (found.first, found.second), found.settings.items(), strict=True
        )
    ]
    n = len(compared)
    n_hold = sum(one.holds for *_, one in compared)
    n_among_all = sum(one.holds_among_all for *_, one in compared)
    hold, all_hold = ("holds" if one == 1 else "hold" for one in (n_hold, n_among_all))
    by_chance = f"about {LEVEL * n:.0f} of {n} would by chance alone"
    lines += [
        table(headers, rows),
        "In brackets: 95% of bootstrap samples of the test images, the same for both. A difference "
        "holds when they leave 0 out.",
        f"{n_hold} of {n} differences {hold}, each for itself; {by_chance}. "
        f"{n_among_all} {all_hold} among all {n}: by Holm's correction, with a chance of "
        f"{LEVEL:.0%} that any of these is none.",
    ]
    if found.in_one:
        lines.append(f"Left out, since only one has them: {join_names(found.in_one)}.")
    if not found.same_pixels:
        lines.append(
            "Metrics of pixels are left out: the two look at other pixels (size or crop), so "
            "theirs cannot be compared."
        )
    counts = {"n_compared": n, "n_hold": n_hold, "n_hold_among_all": n_among_all}
    result(to_plain(found) | counts, "\n".join(lines))


def _interval(difference: float, interval: tuple[float, float], holds: bool) -> str:
    """A difference with its interval, in as many digits as show which side of 0 it is on."""
    nearest = min(map(abs, (difference, *interval)))
    digits = next((n for n in _DIGITS if not holds or round(nearest, n)), _DIGITS[-1])
    return f"{difference:+.{digits}f} [{interval[0]:+.{digits}f}, {interval[1]:+.{digits}f}]"
