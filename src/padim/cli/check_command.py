"""``padim check``."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from padim.cli import options
from padim.cli.console import progress, result, say, table
from padim.datasets import describe, read_dataset
from padim.datasets.check import KINDS, SEVERE, Finding, n_images
from padim.datasets.check import check as check_category
from padim.errors import say_number
from padim.scoring.engines import choose_threads

_SHOWN = 10  # findings of a kind


def check(
    data: Annotated[Path, typer.Argument(help="Folder of categories, a category, or a manifest.")],
    category: Annotated[
        list[str] | None, typer.Option("--category", metavar="NAME", help="Only this; repeatable.")
    ] = None,
    layout: options.Layout = None,
    threads: options.Threads = None,
) -> None:
    """Look for what makes a dataset's numbers wrong. Exit with 1 if there is some."""
    n_threads = choose_threads(threads)
    categories = read_dataset(data, category or (), layout)
    say(f"{describe(categories)}.")
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
        "findings": [_document(finding) for finding in findings],
    }
    result(document, _text(findings, counts, n_all))
    if not is_sound:
        raise typer.Exit(1)


def _document(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind,
        "is_severe": finding.is_severe,
        "category": finding.category,
        "path": str(finding.path),
        "detail": finding.detail,
        "other": None if finding.other is None else str(finding.other),
    }


def _text(findings: Sequence[Finding], counts: Counter[str], n_all: int) -> str:
    if not findings:
        return f"Nothing was found in {say_number(n_all, 'image')} and masks."
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
