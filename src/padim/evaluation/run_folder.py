"""The folder that a benchmark writes: a record for each category, and what follows from them."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from padim.datasets import MVTEC_OBJECTS, MVTEC_TEXTURES
from padim.documents import Document
from padim.errors import DatasetError, PathMissingError, join_names
from padim.evaluation.record import (
    SCHEMA_VERSION,
    Record,
    Resampled,
    Row,
    Settings,
    Version,
    nest_metrics,
    read_record,
    record_name,
    to_plain,
)
from padim.files import csv_cell, write_text
from padim.metrics.curves import Floats
from padim.metrics.resamples import Intervals, Values, intervals
from padim.metrics.table import METRICS, format_interval, format_metric

Group = Literal["texture", "object", "all"]
GROUPS: Mapping[Group, tuple[str, ...] | None] = {
    "texture": MVTEC_TEXTURES,
    "object": MVTEC_OBJECTS,
    "all": None,
}
_TITLES = {
    "texture": "All texture classes",
    "object": "All object classes",
    "all": "All classes",
}
COLUMNS = tuple(
    name for one in fields(Row) for name in one.metadata.get("columns", (one.name,))
)  # of results.csv, before the ends of intervals

_FEW_COLUMNS = 4


@dataclass(frozen=True)
class Failure:
    """Why a category has no numbers; ``type`` is the class of the error."""

    category: str
    type: str
    message: str


@dataclass(frozen=True)
class CategoryRow(Row):
    """A category in numbers, means over its seeds where there are several."""

    intervals: Intervals
    by_defect: dict[str, Values]  # every metric of each kind of defect, of its first seed
    # Of several seeds: the standard deviation of each metric, and each metric of each.
    spread: Values | None = None
    per_seed: dict[str, tuple[float | None, ...]] | None = None


class Line(NamedTuple):
    """What a table says of a category, or of the mean over a group, a key of ``GROUPS``."""

    name: str
    metrics: Values
    intervals: Intervals
    spread: Values | None = None
    group: str | None = None


@dataclass(frozen=True)
class Results:
    """The contents of ``results.json``; a group without any category has no mean."""

    settings: Settings
    rows: tuple[CategoryRow, ...]
    means: dict[Group, Values | None]
    mean_intervals: dict[Group, Intervals | None]
    failed: tuple[Failure, ...]
    unreadable: tuple[str, ...]
    threshold_warnings: dict[str, str] = field(default_factory=dict)  # by category

    def __post_init__(self) -> None:
        """Raise a ``ValueError`` if settings or means are not whole."""
        if "n_seeds" not in self.settings:
            raise ValueError("settings need n_seeds")
        if self.means.keys() != self.mean_intervals.keys():
            raise ValueError("means and mean_intervals need to be of the same groups")
        if any(mean is not None and METRICS.keys() - mean.keys() for mean in self.means.values()):
            raise ValueError("means need to have every metric")

    @classmethod
    def of(
        cls, settings: Settings, records: Sequence[Record], failed: Sequence[Failure]
    ) -> "Results":
        """Put records together, one for each seed of the finished categories."""
        seeds: dict[str, list[Record]] = {}
        for record in records:
            seeds.setdefault(record.row.category, []).append(record)
        resampled = {
            name: average_resampled(one.resampled for one in of_one)
            for name, of_one in seeds.items()
        }
        rows = {name: _join(of_one, resampled[name]) for name, of_one in seeds.items()}
        means: dict[Group, Values | None] = {}
        ends: dict[Group, Intervals | None] = {}
        for group, members in GROUPS.items():
            chosen = [name for name in rows if members is None or name in members]
            means[group] = mean = _means([rows[name].metrics for name in chosen])
            drawn = average_resampled(resampled[name] for name in chosen)
            ends[group] = intervals(drawn, mean) if mean is not None else None
        unreadable = tuple(path for record in records for path in record.unreadable)
        warnings = {
            name: of_one[0].threshold_warning
            for name, of_one in seeds.items()
            if of_one[0].threshold_warning
        }
        return cls(settings, tuple(rows.values()), means, ends, tuple(failed), unreadable, warnings)

    def lines(self) -> Iterator[Line]:
        """Every category, and then the mean of every group that has one."""
        for row in self.rows:
            yield Line(row.category, row.metrics, row.intervals, row.spread)
        for group, mean in self.means.items():
            if mean is not None:
                yield Line(_TITLES[group], mean, self.mean_intervals[group] or {}, group=group)

    def document(self) -> dict[str, object]:
        """All of it as plain data."""
        return {"schema_version": SCHEMA_VERSION, **to_plain(self)}


def write_results(results: Results, records: Sequence[Record], out: Path) -> None:
    """Write ``results.json``, ``.csv``, ``.md`` and ``images.jsonl``.

    A ``report.html`` of other results is removed.
    """
    text, path = json.dumps(results.document(), indent=2) + "\n", out / "results.json"
    if not path.exists() or path.read_text(encoding="utf-8", errors="replace") != text:
        (out / "report.html").unlink(missing_ok=True)
    write_text(path, text)
    write_text(out / "results.csv", _format_csv(results))
    write_text(out / "results.md", markdown(results))
    lines = [json.dumps(to_plain(image)) for record in records for image in record.images]
    write_text(out / "images.jsonl", "".join(line + "\n" for line in lines))


def read_results(out: Path) -> Results | None:
    """The tables of a benchmark; None where there are none that this release can read."""
    try:
        return _read_results(out)
    except (OSError, DatasetError):
        return None


def read_run(out: Path) -> tuple[Results, dict[str, list[Record]]]:
    """Read ``results.json`` of a benchmark, and the records of each category, one for each seed.

    Raises:
        PathMissingError: There is no such folder.
        DatasetError: It is none that this release's ``padim benchmark`` wrote.
    """
    if not out.is_dir():
        raise PathMissingError(out)
    try:
        results = _read_results(out)
    except OSError:
        results = None
    if results is None:
        raise DatasetError(
            f"{out} is no folder that padim benchmark of this release wrote. Name its -o."
        )
    n_seeds = results.settings["n_seeds"]
    records = {}
    for row in results.rows:
        found = [read_record(out, record_name(row.category, seed)) for seed in range(n_seeds)]
        records[row.category] = [record for record in found if record is not None]
        if len(records[row.category]) < n_seeds:
            raise DatasetError(
                f"{out} lacks the records of {row.category}. Run padim benchmark again."
            )
    sizes = {record.n_resamples for seeds in records.values() for record in seeds} - {0}
    if len(sizes) > 1:
        raise DatasetError(
            f"{out} has records of {join_names(sorted(sizes))} resamples, but needs as many of "
            "each. Run padim benchmark again."
        )
    return results, records


def _read_results(out: Path) -> Results | None:
    """The contents of a ``results.json``; None if another release wrote it.

    Raises:
        DatasetError: It is damaged.
    """
    path = out / "results.json"
    document = Document(path, DatasetError, "Run padim benchmark again.")
    data = document.read(path)
    if document.restore(data, Version).schema_version != SCHEMA_VERSION:
        return None
    if isinstance(rows := data.get("rows"), list):
        data |= {"rows": [nest_metrics(row) for row in rows]}
    results = document.restore(data, Results)
    # Settings that no table names are shown and compared as well.
    return replace(results, settings=data["settings"])


def markdown(results: Results, *, is_for_terminal: bool = False) -> str:
    """AUROC of images and pixels with the means of groups, every metric, and what is missing.

    On a terminal every metric is left out where its table would be too wide.
    """
    settings, lines = results.settings, list(results.lines())
    column = f"{settings['backbone']} ({settings['recipe']})"
    parts = []
    for kind in ("image", "pixel"):
        metric = f"{kind}_auroc"
        if kind == "image" or any(row.metrics[metric] is not None for row in results.rows):
            rows = [(_cell(line.name), _value(line, metric)) for line in lines]
            title = f"### {kind.capitalize()}-level ROC AUC"
            parts.append(f"{title}\n\n{format_table(('category', column), rows)}")
    if not is_for_terminal or len(lines) <= _FEW_COLUMNS:
        parts.append(_every_metric(results, lines))
    notes = (
        "In brackets: 95% bootstrap intervals over the test images. An oracle's threshold is set "
        "with the test labels. AUPIMO: at false positive rates from 1e-5 to 1e-4."
    )
    if settings["n_seeds"] > 1:
        notes += f" Behind ±: the standard deviation over {settings['n_seeds']} seeds."
    parts.append(notes)
    parts += [
        f"Failed, and in no mean: {_cell(failure.category)}. {_cell(failure.message)}"
        for failure in results.failed
    ]
    parts += [
        f"Threshold of {_cell(name)}: {_cell(warning)}"
        for name, warning in results.threshold_warnings.items()
    ]
    if results.unreadable:
        parts.append(f"Unreadable and left out: {', '.join(map(_cell, results.unreadable))}.")
    return "\n\n".join(parts) + "\n"


def list_measured(results: Results) -> list[str]:
    """Names of the metrics that at least one category has."""
    return [name for name in METRICS if any(row.metrics[name] is not None for row in results.rows)]


def _format_csv(results: Results) -> str:
    """A line for each category and each mean; the ends of the intervals come last."""
    ends = [f"{name}_{end}" for name in METRICS for end in ("low", "high")]
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, (*COLUMNS, *ends), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    facts = {row.category: to_plain(row) for row in results.rows}
    for line in results.lines():
        cells = {**(line.metrics if line.group else facts[line.name]), "category": line.name}
        for name, found in line.intervals.items():
            cells |= zip((f"{name}_low", f"{name}_high"), found or (None, None), strict=True)
        writer.writerow({name: csv_cell(value) for name, value in cells.items()})
    return table.getvalue()


def _every_metric(results: Results, lines: Sequence[Line]) -> str:
    """A table; few categories are its columns."""
    metrics = list_measured(results)
    cells = [[_cell(line.name), *(_value(line, name) for name in metrics)] for line in lines]
    header = ["category", *(METRICS[name].label for name in metrics)]
    if len(cells) <= _FEW_COLUMNS:
        header, *cells = map(list, zip(header, *cells, strict=True))
        header[0] = "metric"
    return f"### Every metric\n\n{format_table(header, cells)}"


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    first, *rest = (f"| {' | '.join(cells)} |" for cells in (header, *rows))
    return "\n".join([first, "|---" * len(header) + "|", *rest])


def _cell(name: str) -> str:
    """A name that stays in its cell of a table."""
    return " ".join(name.replace("|", "\\|").splitlines())


def _value(line: Line, metric: str) -> str:
    """A metric with its interval, and its spread where there are several seeds."""
    text = format_metric(line.metrics.get(metric)) + format_interval(line.intervals.get(metric))
    spread = line.spread and line.spread.get(metric)
    return text if spread is None else f"{text} ± {spread:.3f}"


def _join(seeds: Sequence[Record], resampled: Resampled) -> CategoryRow:
    """One category: the mean over the seeds, and their spread where there are several."""
    first = seeds[0]
    per_seed = {name: tuple(one.row.metrics[name] for one in seeds) for name in METRICS}
    known = {name: np.array(values) for name, values in per_seed.items() if None not in values}
    metrics: Values = {
        name: float(known[name].mean()) if name in known else None for name in METRICS
    }
    row = CategoryRow(
        **vars(replace(first.row, metrics=metrics)),
        intervals=intervals(resampled, metrics),
        by_defect=first.by_defect,
    )
    if len(seeds) == 1:
        return row
    spread: Values = {
        name: float(known[name].std(ddof=1)) if name in known else None for name in METRICS
    }
    return replace(row, spread=spread, per_seed=per_seed)


def average_resampled(all_resampled: Iterable[Resampled]) -> Resampled:
    """The mean of the resamples of each metric over those that have it."""
    found: dict[str, list[Floats]] = {}
    for resampled in all_resampled:
        for metric, values in resampled.items():
            if not np.isnan(values).all():
                found.setdefault(metric, []).append(values)
    return {metric: np.mean(values, axis=0) for metric, values in found.items()}


def _means(rows: Sequence[Values]) -> Values | None:
    """The mean of each metric over the categories that have it; None without any category."""
    means: Values = {}
    for name in METRICS:
        values = [value for row in rows if (value := row[name]) is not None]
        means[name] = sum(values) / len(values) if values else None
    return means if rows else None
