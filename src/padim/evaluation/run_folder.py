"""The folder that a benchmark writes: a record for each category, and what follows from them."""

import csv
import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from padim.datasets import MVTEC_OBJECTS, MVTEC_TEXTURES
from padim.errors import DatasetError, PathMissingError
from padim.evaluation.category import interval_words, intervals, metric_words, shown
from padim.files import safe_name, write_text, written_whole

SCHEMA_VERSION = 2
METRICS = (
    "image_auroc",
    "pixel_auroc",
    "image_f1_max",
    "pixel_f1_max",
    "image_average_precision",
    "image_recall_at_0",
    "image_recall_at_1",
    "pixel_average_precision",
    "aupro_30",
    "aupro_05",
    "aupimo",
    "spro_05",
)
COLUMNS = (
    "category",
    "n_train",
    "n_test",
    *METRICS,
    "fit_s",
    "score_s",
    "fit_peak_bytes",
    "model_bytes",
)
GROUPS = {"texture": MVTEC_TEXTURES, "object": MVTEC_OBJECTS}
_TITLES = {
    "texture": "All texture classes",
    "object": "All object classes",
    "all": "All classes",
}

_FEW_COLUMNS = 4

Resampled = dict[str, NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Record:
    """What is kept of a category that was done once.

    Attributes:
        name: Of its files, as ``record_name`` gives it.
        data: Plain data: ``row``, ``images``, ``curves``, ``by_defect``, ``fingerprint``...
        resampled: Every metric of bootstrap samples of the test images, shape ``(B,)``.
    """

    name: str
    data: dict[str, Any]
    resampled: Resampled

    @property
    def category(self) -> str:
        """Name of the category."""
        return str(self.data["row"]["category"])

    def save(self, out: Path) -> None:
        """Write it; the part that says that it is there comes last."""
        path = out / "records" / f"{self.name}.npz"
        with written_whole(path) as partial, partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **self.resampled)
        write_text(out / "records" / f"{self.name}.json", json.dumps(self.data))


def read_record(out: Path, name: str) -> Record | None:
    """A record of before; None where there is none that can be read."""
    try:
        data = json.loads((out / "records" / f"{name}.json").read_text(encoding="utf-8"))
        with (out / "records" / f"{name}.npz").open("rb") as file:
            resampled = dict(np.load(file, allow_pickle=False))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    wanted = {"schema_version", "fingerprint", "row", "images", "curves", "unreadable"}
    if not isinstance(data, dict) or not wanted <= data.keys():
        return None
    if data["schema_version"] != SCHEMA_VERSION:
        return None
    return Record(name, data, resampled)


def document_of(
    settings: Mapping[str, Any], records: Sequence[Record], failed: Sequence[Mapping[str, str]]
) -> dict[str, Any]:
    """The contents of ``results.json``.

    Args:
        settings: What everything was done with.
        records: Of the finished categories, one for each seed.
        failed: Category, type and message of what went wrong.
    """
    by_category: dict[str, list[Record]] = {}
    for record in records:
        by_category.setdefault(record.category, []).append(record)
    rows = [_row(seeds) for seeds in by_category.values()]
    resampled = {name: mean_resampled(seeds) for name, seeds in by_category.items()}
    means: dict[str, Any] = {}
    mean_intervals: dict[str, Any] = {}
    for group in (*GROUPS, "all"):
        chosen = [row for row in rows if group == "all" or row["category"] in GROUPS[group]]
        means[group] = _means(chosen)
        mean_intervals[group] = means[group] and intervals(
            _averaged([resampled[row["category"]] for row in chosen]), means[group]
        )
    return {
        "schema_version": SCHEMA_VERSION,
        "settings": settings,
        "rows": rows,
        "means": means,
        "mean_intervals": mean_intervals,
        "failed": list(failed),
        "unreadable": [path for record in records for path in record.data["unreadable"]],
    }


def write_results(document: Mapping[str, Any], records: Sequence[Record], out: Path) -> None:
    """Write ``results.json``, ``.csv``, ``.md`` and ``images.jsonl``."""
    write_text(out / "results.json", json.dumps(document, indent=2) + "\n")
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(document["rows"])
    write_text(out / "results.csv", table.getvalue())
    write_text(out / "results.md", markdown(document))
    lines = [json.dumps(image) for record in records for image in record.data["images"]]
    write_text(out / "images.jsonl", "".join(line + "\n" for line in lines))


def read_run(out: Path) -> tuple[dict[str, Any], dict[str, list[Record]]]:
    """Read what a benchmark wrote.

    Args:
        out: Its folder.

    Returns:
        The contents of ``results.json``, and the records of each category.

    Raises:
        PathMissingError: There is no such folder.
        DatasetError: It is none that this release's ``padim benchmark`` wrote.
    """
    if not out.is_dir():
        raise PathMissingError(out)
    try:
        document: dict[str, Any] = json.loads((out / "results.json").read_text(encoding="utf-8"))
        if document["schema_version"] != SCHEMA_VERSION:
            raise ValueError(document["schema_version"])
        names = [row["category"] for row in document["rows"]]
        n_seeds = document["settings"]["n_seeds"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DatasetError(
            f"{out} is no folder that padim benchmark of this release wrote. Name its -o."
        ) from error
    records = {}
    for name in names:
        found = [read_record(out, record_name(name, seed)) for seed in range(n_seeds)]
        whole = [record for record in found if record is not None]
        if len(whole) < n_seeds:
            raise DatasetError(f"{out} lacks the records of {name}. Run padim benchmark again.")
        records[name] = whole
    return document, records


def record_name(category: str, seed: int) -> str:
    """Name of the files of a record; later seeds are in a folder, since any name can be taken."""
    name = safe_name(category)
    return name if seed == 0 else f"seed{seed}/{name}"


def markdown(document: Mapping[str, Any], *, is_for_terminal: bool = False) -> str:
    """AUROC of images and pixels with the means of groups, every metric, and what is missing.

    Args:
        document: The contents of ``results.json``.
        is_for_terminal: Whether every metric is left out where its table would be too wide.
    """
    settings = document["settings"]
    column = f"{settings['backbone']} ({settings['recipe']})"
    groups = [group for group in _TITLES if document["means"][group] is not None]
    tables = []
    for kind in ("image", "pixel"):
        metric = f"{kind}_auroc"
        if kind == "pixel" and all(row[metric] is None for row in document["rows"]):
            continue
        lines = [
            f"### {kind.capitalize()}-level ROC AUC",
            "",
            f"| category | {column} |",
            "|---|---|",
        ]
        lines += [
            f"| {_cell(row['category'])} | {_with_interval(row, row.get('intervals'), metric)} |"
            for row in document["rows"]
        ]
        ends = document.get("mean_intervals", {})
        lines += [
            f"| {_TITLES[group]} "
            f"| {_with_interval(document['means'][group], ends.get(group), metric)} |"
            for group in groups
        ]
        tables.append("\n".join(lines))
    if not is_for_terminal or len(document["rows"]) + len(groups) <= _FEW_COLUMNS:
        tables.append("\n".join(_every_metric(document, groups)))
    notes = (
        "In brackets: 95% bootstrap intervals over the test images. F1-max and recall are oracles: "
        "their thresholds are set with the test labels. AUPIMO: at false positive rates from 1e-5 "
        "to 1e-4."
    )
    if settings["n_seeds"] > 1:
        notes += f" Behind ±: the standard deviation over {settings['n_seeds']} seeds."
    tables.append(notes)
    tables += [
        f"Failed, and in no mean: {_cell(failure['category'])}. {_cell(failure['message'])}"
        for failure in document["failed"]
    ]
    if document["unreadable"]:
        tables.append(f"Unreadable and left out: {', '.join(map(_cell, document['unreadable']))}.")
    return "\n\n".join(tables) + "\n"


def _every_metric(document: Mapping[str, Any], groups: Sequence[str]) -> list[str]:
    """The lines of a table; few categories are its columns."""
    metrics = [m for m in METRICS if any(row.get(m) is not None for row in document["rows"])]
    ends = document.get("mean_intervals", {})
    named = [(_cell(row["category"]), row, row.get("intervals")) for row in document["rows"]]
    named += [(_TITLES[group], document["means"][group], ends.get(group)) for group in groups]
    cells = [
        [name, *(_with_interval(values, found, metric) for metric in metrics)]
        for name, values, found in named
    ]
    header = ["category", *map(metric_words, metrics)]
    if len(cells) <= _FEW_COLUMNS:
        header, *cells = map(list, zip(header, *cells, strict=True))
        header[0] = "metric"
    lines = [f"| {' | '.join(line)} |" for line in (header, *cells)]
    return ["### Every metric", "", lines[0], "|---" * len(header) + "|", *lines[1:]]


def _cell(name: str) -> str:
    """A name that stays in its cell of a table."""
    return " ".join(name.replace("|", "\\|").splitlines())


def _with_interval(values: Mapping[str, Any], ends: Mapping[str, Any] | None, metric: str) -> str:
    text = shown(values.get(metric)) + interval_words(ends.get(metric) if ends else None)
    if values.get("spread", {}).get(metric) is not None:
        text += f" ± {values['spread'][metric]:.3f}"
    return text


def _row(seeds: Sequence[Record]) -> dict[str, Any]:
    """One category: the mean over the seeds, and their spread where there are several."""
    row = dict(seeds[0].data["row"])
    per_seed = [[record.data["row"][metric] for record in seeds] for metric in METRICS]
    for metric, values in zip(METRICS, per_seed, strict=True):
        row[metric] = None if None in values else float(np.mean(values))
    row["intervals"] = intervals(mean_resampled(seeds), row)
    row["by_defect"] = seeds[0].data["by_defect"]
    if len(seeds) > 1:
        row["spread"] = {
            metric: None if None in values else float(np.std(values, ddof=1))
            for metric, values in zip(METRICS, per_seed, strict=True)
        }
        row["per_seed"] = dict(zip(METRICS, per_seed, strict=True))
    return row


def mean_resampled(seeds: Sequence[Record]) -> Resampled:
    """The metrics of resamples of a category, the mean over its seeds."""
    return _averaged([record.resampled for record in seeds])


def _averaged(all_resampled: Iterable[Resampled]) -> Resampled:
    """The mean of each metric over those that have it."""
    found: dict[str, list[NDArray[np.float64]]] = {}
    for resampled in all_resampled:
        for metric, values in resampled.items():
            if not np.isnan(values).all():
                found.setdefault(metric, []).append(values)
    return {metric: np.mean(values, axis=0) for metric, values in found.items()}


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None] | None:
    if not rows:
        return None
    means: dict[str, float | None] = {}
    for metric in METRICS:
        values = [row[metric] for row in rows if row[metric] is not None]
        means[metric] = sum(values) / len(values) if values else None
    return means
