"""A benchmark as one HTML file that needs nothing else: numbers, curves, every image with its map.

Nothing in it is fetched: pictures are data, and a content security policy forbids the rest. Names
of files and folders are untrusted; the template escapes them.
"""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from padim.evaluation.run_folder import Line, Results, list_measured, read_run
from padim.files import plain_text, write_text
from padim.images.heatmap import COLOURS
from padim.metrics.table import HEADLINES, METRICS, format_metric
from padim.report.cards import Card, Part
from padim.report.charts import curve

_FEW_COLUMNS = 4
_FEW_CATEGORIES = 3  # whose curves are open from the start
# How opaque a map is at 0, 1/4, ... of its range: what is usual hides nothing.
_STRENGTH = (0, 0.45, 0.75, 0.9, 1)
_GROUP_TITLES = {"texture": "All textures", "object": "All objects", "all": "All categories"}
_ON_CARD_ALONE = ("wrong", "order", "map", "image")

Cell = tuple[str, str, str]  # a number, its spread over seeds and its interval, as text
Head = tuple[str, int | None]  # of a row or a column: its name, and the section it leads to


class Table(NamedTuple):
    """Metrics by category, or categories by metric; ``corner`` is what the rows are."""

    corner: str
    columns: list[Head]
    rows: list[tuple[Head, list[Cell]]]
    is_wide: bool


@dataclass(frozen=True)
class Report:
    """What was written."""

    path: Path
    n_images: int
    n_bytes: int
    changed: tuple[str, ...]  # images and masks of another size than when they were benchmarked


def write_report(
    run: Path,
    out: Path | None = None,
    *,
    full_size: bool = False,
    data: Path | None = None,
    begin: Callable[[int], Callable[[int], None]] = lambda n_images: lambda n_done: None,
) -> Report:
    """Write the report of a benchmark; the same folder and images give the same bytes.

    Without ``out`` the file is ``report.html`` in that folder; without ``data`` the dataset is
    where it was. With ``full_size`` images are kept at their size, else as thumbnails.

    Raises:
        PathMissingError: There is no such folder.
        DatasetError: It is no folder of a benchmark, it lacks the maps, or images are missing.
        ImageReadError: An image cannot be read.
        MaskReadError: A mask cannot be read.
    """
    results, by_category = read_run(run)
    parts = [Part.of(run, seeds[0], data) for seeds in by_category.values()]
    changed = [plain_text(f"{part.name}: {name}") for part in parts for name in part.find_changed()]
    n_images = sum(len(part.images) for part in parts)
    advance = begin(n_images)
    cards = [card for part in parts for card in part.cards(full_size, advance)]
    cards.sort(key=lambda card: card["order"])
    text = _page(results, parts, cards, changed)
    path = run / "report.html" if out is None else out
    write_text(path, text)
    return Report(path, n_images, len(text.encode()), tuple(changed))


def _page(
    results: Results,
    parts: Sequence[Part],
    cards: Sequence[Card],
    changed: Sequence[str],
) -> str:
    environment = Environment(
        loader=PackageLoader("padim.report", "files"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    environment.filters |= {
        "text": plain_text,
        "setting": _format_setting,
        "metric": format_metric,
        "path": curve,
    }
    files = {name: _file(environment, name) for name in ("report.css", "report.js")}
    digest = base64.b64encode(hashlib.sha256(files["report.js"].encode()).digest()).decode("ascii")
    details = [{k: v for k, v in card.items() if k not in _ON_CARD_ALONE} for card in cards]
    return environment.get_template("report.html.jinja").render(
        css=files["report.css"],
        js=files["report.js"],
        js_sha256=digest,
        results=results,
        settings=results.settings,
        n_seeds=results.settings["n_seeds"],
        title=parts[0].name if len(parts) == 1 else f"{len(parts)} categories",
        tiles=_make_tiles(results),
        is_judged=any(part.record.threshold is not None for part in parts),
        counts=Counter(card["verdict"] for card in cards),
        labels=Counter(card["label"] for card in cards),
        tables=_make_tables(results),
        n_open=_FEW_CATEGORIES,
        sections=parts,
        cards=cards,
        defects=Counter(card["defect"] for card in cards),
        changed=changed,
        palette=_make_palette(),
        gradient=_make_gradient(),
        strength=" ".join(f"{value:g}" for value in _STRENGTH),
        details=details,
    )


def _file(environment: Environment, name: str) -> Markup:
    assert environment.loader is not None
    return Markup(environment.loader.get_source(environment, name)[0])  # our own


def _make_palette() -> list[str]:
    """The colours of maps, as the tables of an SVG filter: red, green, blue."""
    entries = COLOURS[np.linspace(0, 255, 17).astype(int)] / 255
    return [" ".join(f"{value:.3f}" for value in channel) for channel in entries.T]


def _make_gradient() -> str:
    """The colours of maps as they lie on an image, from usual to hottest."""
    levels = np.linspace(0, 255, 18).astype(int)
    alphas = np.interp(levels / 255, np.linspace(0, 1, len(_STRENGTH)), _STRENGTH)
    return ", ".join(
        f"rgb({r} {g} {b} / {alpha:.2f})"
        for (r, g, b), alpha in zip(COLOURS[levels].tolist(), alphas, strict=True)
    )


def _format_setting(value: Any) -> str:
    return plain_text(value if isinstance(value, str) else json.dumps(value))


def _cell(line: Line, metric: str) -> Cell:
    interval = line.intervals.get(metric)
    spread = line.spread and line.spread.get(metric)
    return (
        format_metric(line.metrics.get(metric)),
        "" if spread is None else f"± {spread:.3f}",
        "{:.3f} – {:.3f}".format(*interval) if interval else "",
    )


def _make_tiles(results: Results) -> list[tuple[str, Cell]]:
    return [
        (METRICS[metric].heading, _cell(line, metric))
        for line in results.lines()
        for metric in HEADLINES
        if line.group == "all" and line.metrics[metric] is not None
    ]


def _make_tables(results: Results) -> list[Table]:
    """Every metric of every category, and the means.

    A few categories are the columns of one table; more are the rows of two, for a page is not
    wide enough for all metrics.
    """
    are_several = len(results.rows) > 1
    lines = [line for line in results.lines() if are_several or not line.group]
    heads: list[Head] = [
        (_GROUP_TITLES[line.group], None)
        if line.group
        else (plain_text(line.name), i if are_several else None)
        for i, line in enumerate(lines, 1)
    ]
    metrics = [METRICS[name] for name in list_measured(results)]
    if len(lines) <= _FEW_COLUMNS:
        body: list[tuple[Head, list[Cell]]] = [
            ((row.heading, None), [_cell(line, row.name) for line in lines]) for row in metrics
        ]
        return [Table("metric", heads, body, is_wide=False)]
    tables = []
    for is_of_pixels in (False, True):
        chosen = [row for row in metrics if row.is_of_pixels == is_of_pixels]
        columns: list[Head] = [(row.heading, None) for row in chosen]
        cells = [[_cell(line, row.name) for row in chosen] for line in lines]
        body = list(zip(heads, cells, strict=True))
        if chosen:
            tables.append(Table("category", columns, body, is_wide=True))
    return tables
