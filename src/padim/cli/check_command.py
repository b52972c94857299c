"""``padim check``."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from padim.cli import options
from padim.cli.bars import progress
from padim.cli.console import result, say, table
from padim.cli.images import say_left_out
from padim.datasets import Category, describe
from padim.datasets.check import (
    DOUBTFUL,
    KINDS,
    SEVERE,
    Finding,
    n_images,
    read_categories,
)
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
    categories, findings = read_categories(data, category or (), layout)
    say(f"{describe(categories)}.")
    say_left_out(find_left_out_of(categories))
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
        "categories": sorted({one.name for one in categories} | {one.category for one in findings}),
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
    result(document, _format(findings, counts, categories, n_all))
    if not is_sound:
        raise typer.Exit(1)


def _format(
    findings: Sequence[Finding],
    counts: Counter[str],
    categories: Sequence[Category],
    n_all: int,
) -> str:
    if not findings:
        return f"Nothing was found in {format_count(n_all, 'image')} and their masks."
    roots = {one.name: one.root for one in categories}
    lines = []
    for kind, group in groupby(findings, key=lambda finding: finding.kind):
        of_kind = list(group)
        lines += [f"{kind}: {_name_place(one, roots)}: {one.detail}" for one in of_kind[:_SHOWN]]
        if len(of_kind) > _SHOWN:
            lines.append(f"{kind}: and {len(of_kind) - _SHOWN} more, which --json lists")
    rows = [
        (kind, str(counts[kind]), weigh(kind), meaning)
        for kind, meaning in KINDS.items()
        if counts[kind]
    ]
    header = ("kind", "found", "makes numbers wrong", "what")
    return "\n".join([*lines, "", table(header, rows)])


def _name_place(finding: Finding, roots: Mapping[str, Path]) -> str:
    """Name the file, or the category where the finding is of all of it."""
    is_of_all = finding.path == roots.get(finding.category, finding.path)
    return finding.category if is_of_all else str(finding.path)


def weigh(kind: str) -> str:
    """Say whether a kind of finding makes numbers wrong."""
    if kind in SEVERE:
        return "yes"
    return "maybe" if kind in DOUBTFUL else "no"
