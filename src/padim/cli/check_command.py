"""``padim check``."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from padim.cli import options
from padim.cli.console import progress, result, say, table
from padim.cli.images import say_left_out
from padim.datasets import describe, read_dataset
from padim.datasets.check import KINDS, SEVERE, Finding, n_images
from padim.datasets.check import check as check_category
from padim.datasets.left_out import find_left_out_of
from padim.errors import format_count
from padim.scoring.engines import choose_threads

_SHOWN = 10  # findings of a kind


def check(
    data: Annotated[Path, typer.Argument(help="Folder of categories, a category, or a manifest.")],
    category: options.Categories = None,
    layout: options.Layout = None,
    threads: options.Threads = None,
) -> None:
    """Look for what makes a dataset's numbers wrong. Exit with 1 if there is some."""
    n_threads = choose_threads(threads)
    categories = read_dataset(data, category or (), layout)
    say(f"{describe(categories)}.")
    say_left_out(find_left_out_of(categories))
    findings: list[Finding] = []
    n_all = sum(map(n_images, categories))
    with progress("check", n_all) as advance:
        for one in categories:
            say(one.describe())
            findings += check_category(one, n_threads, advance)
    findings.sort(key=lambda finding: list(KINDS).index(finding.kind))
    counts = Counter(finding.kind for finding in findings)
    is_sound = not any(finding.is_severe for finding in findings)
    document = {
        "data": str(data),
        "layout": categories[0].layout,
        "categories": [one.name for one in categories],
        "n_images": n_all,
        "is_sound": is_sound,
        "counts": {kind: counts[kind] for kind in KINDS},
        "findings": [
            asdict(one)
            | {
                "is_severe": one.is_severe,
                "path": str(one.path),
                "other": one.other and str(one.other),
            }
            for one in findings
        ],
    }
    result(document, _format(findings, counts, n_all))
    if not is_sound:
        raise typer.Exit(1)


def _format(findings: Sequence[Finding], counts: Counter[str], n_all: int) -> str:
    if not findings:
        return f"Nothing was found in {format_count(n_all, 'image')} and their masks."
    lines = []
    for kind, group in groupby(findings, key=lambda finding: finding.kind):
        of_kind = list(group)
        lines += [f"{kind}: {one.path}: {one.detail}" for one in of_kind[:_SHOWN]]
        if len(of_kind) > _SHOWN:
            lines.append(f"{kind}: and {len(of_kind) - _SHOWN} more, which --json lists")
    rows = [
        (kind, str(counts[kind]), "yes" if kind in SEVERE else "no", meaning)
        for kind, meaning in KINDS.items()
        if counts[kind]
    ]
    header = ("kind", "found", "makes numbers wrong", "what")
    return "\n".join([*lines, "", table(header, rows)])
