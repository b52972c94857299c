"""Fit and evaluate every category of a dataset, and write down what came out.

Each finished category leaves a record and is not done again while nothing it rests on has changed;
an unfinished one leaves nothing.
"""

import csv
import io
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from padim.datasets import MVTEC_OBJECTS, MVTEC_TEXTURES, Category
from padim.errors import ImageReadError, PadimError
from padim.evaluation import Evaluation, evaluate, shown
from padim.figures import Curve, pictures, png, roc_figure
from padim.files import write_text, written_whole
from padim.fitting import Fitter
from padim.memory import peak_bytes, reset_peak
from padim.model import from_fitted
from padim.preprocess import Preprocess
from padim.state import installed_versions

SCHEMA_VERSION = 1
METRICS = ("image_auroc", "pixel_auroc", "image_f1_max", "pixel_f1_max")
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
_CURVE_POINTS = 500


class Watcher(Protocol):
    """Who is told what happens while a benchmark runs."""

    def say(self, text: str) -> None:
        """Hear a line."""

    def progress(self, description: str, n_images: int) -> Callable[[int], None]:
        """Hear that work on so many images begins; return what is told of each step."""


@dataclass(frozen=True)
class Result:
    """What a benchmark gives.

    Attributes:
        settings: What everything was done with.
        records: One per finished category, in order.
        failed: Category, type and message of what went wrong, one per failed category.
    """

    settings: dict[str, Any]
    records: list[dict[str, Any]]
    failed: list[dict[str, str]]

    def document(self) -> dict[str, Any]:
        """The contents of ``results.json``."""
        rows = [record["row"] for record in self.records]
        return {
            "schema_version": SCHEMA_VERSION,
            "settings": self.settings,
            "rows": rows,
            "means": {
                "texture": _means([row for row in rows if row["category"] in MVTEC_TEXTURES]),
                "object": _means([row for row in rows if row["category"] in MVTEC_OBJECTS]),
                "all": _means(rows),
            },
            "failed": self.failed,
            "unreadable": [path for record in self.records for path in record["unreadable"]],
        }


def run(
    categories: Sequence[Category],
    fitter: Fitter,
    out: Path,
    watcher: Watcher,
    *,
    skip_unreadable: bool = False,
) -> Result:
    """Fit and evaluate categories one after the other.

    Args:
        categories: What to do.
        fitter: How to do it.
        out: Folder for the results.
        watcher: Told of what happens.
        skip_unreadable: Whether images that cannot be read are left out and listed; else their
            category fails.

    Returns:
        What came out; a category that fails does not stop the others.
    """
    settings = settings_of(fitter)
    records, failed = [], []
    for category in categories:
        record_path = out / "records" / f"{category.name}.json"
        fingerprint = {"settings": settings, "images": _fingerprint(category)}
        known = _read_record(record_path)
        is_whole = known is not None and (skip_unreadable or not known["unreadable"])
        if known is not None and is_whole and known["fingerprint"] == fingerprint:
            watcher.say(f"{category.name}: finished before, nothing changed.")
            records.append(known)
            continue
        if known is not None:
            changed = _changed(known["fingerprint"], fingerprint)
            watcher.say(f"{category.name}: done again, because of {changed}.")
        record_path.unlink(missing_ok=True)
        try:
            record = _run_category(category, fitter, out, watcher, skip_unreadable)
        except PadimError as error:
            watcher.say(f"{category.name} failed: {error}")
            failed.append(
                {"category": category.name, "type": type(error).__name__, "message": str(error)}
            )
            continue
        record["fingerprint"] = fingerprint
        write_text(record_path, json.dumps(record))
        records.append(record)
    result = Result(settings, records, failed)
    _write_results(result, out)
    return result


def settings_of(fitter: Fitter) -> dict[str, Any]:
    """Everything that decides the numbers, as plain data."""
    settings = asdict(fitter.settings)
    return json.loads(  # type: ignore[no-any-return]  # what comes back is what went in
        json.dumps(
            {
                "recipe": settings.pop("name"),
                "backbone": fitter.spec.name,
                **settings,
                "taps": fitter.spec.taps,
                "n_dims": fitter.pyramid.n_dims,
                "engine": fitter.engine,
                "precision": fitter.precision,
                "store": fitter.store,
                "weights_sha256": fitter.weights_sha256,
                "versions": installed_versions(),
            }
        )
    )


def _run_category(
    category: Category,
    fitter: Fitter,
    out: Path,
    watcher: Watcher,
    skip_unreadable: bool,
) -> dict[str, Any]:
    left_out: list[str] = []

    def leave_out(error: ImageReadError) -> None:
        watcher.say(f"left out: {error}")
        left_out.append(str(error.path))

    unreadable = leave_out if skip_unreadable else None
    pictures_folder = out / "pictures" / category.name
    model_path = out / "models" / f"{category.name}.safetensors"
    shutil.rmtree(pictures_folder, ignore_errors=True)
    model_path.unlink(missing_ok=True)
    watcher.say(category.describe())
    can_measure = reset_peak()
    start = time.perf_counter()
    advance = watcher.progress(f"{category.name}: fit", len(category.train))
    fitted = fitter.fit(category.train, advance, unreadable)
    fit_s = time.perf_counter() - start
    fit_peak = peak_bytes() if can_measure else None
    model = from_fitted(fitter, fitted)
    advance = watcher.progress(f"{category.name}: score", len(category.test))
    evaluation = evaluate(model.predictor, category, advance, unreadable)
    advance = watcher.progress(f"{category.name}: draw", len(evaluation.samples))
    _draw(evaluation, category, fitter.preprocess, pictures_folder, advance)
    try:
        model.save(model_path)
    except BaseException:
        shutil.rmtree(pictures_folder)
        raise
    record = record_of(
        category,
        evaluation,
        n_train=fitted.state.count,
        fit_s=round(fit_s, 3),
        fit_peak_bytes=fit_peak,
        model_bytes=model_path.stat().st_size,
    )
    return record | {"unreadable": left_out}


def record_of(category: Category, evaluation: Evaluation, **fit_facts: Any) -> dict[str, Any]:
    """What is kept of a finished category: its row, its images and its ROC curves.

    Args:
        category: The category.
        evaluation: What its model made of its test images.
        **fit_facts: ``n_train``, ``fit_s``, ``fit_peak_bytes`` and ``model_bytes``.
    """
    facts = {
        "category": category.name,
        "n_test": len(evaluation.samples),
        **evaluation.metrics(),
        "score_s": round(evaluation.score_s, 3),
        **fit_facts,
    }
    return {
        "row": {column: facts[column] for column in COLUMNS},
        "images": [
            {
                "category": category.name,
                "path": category.name_of(sample.path),
                "label": "anomalous" if sample.is_anomalous else "normal",
                "defect": sample.defect,
                "score": float(score),
            }
            for sample, score in zip(evaluation.samples, evaluation.image_score, strict=True)
        ],
        "curves": {
            "image": [axis.tolist() for axis in evaluation.image_ranking.roc(_CURVE_POINTS)],
            "pixel": [axis.tolist() for axis in evaluation.pixel_ranking.roc(_CURVE_POINTS)],
        },
    }


def _draw(
    evaluation: Evaluation,
    category: Category,
    preprocess: Preprocess,
    folder: Path,
    advance: Callable[[int], None],
) -> None:
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for sample, picture in pictures(evaluation, preprocess):
            name = f"{sample.defect}_{sample.path.stem}.png"
            if (partial / name).exists():  # images of one stem keep their suffixes
                name = f"{sample.defect}_{sample.path.name}.png"
            if (partial / name).exists():  # those of several folders are told apart by them
                name = f"{sample.defect}_{category.name_of(sample.path).replace('/', '_')}.png"
            picture.save(partial / name, compress_level=1)
            advance(1)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _means(rows: list[dict[str, Any]]) -> dict[str, float | None] | None:
    if not rows:
        return None
    means: dict[str, float | None] = {}
    for metric in METRICS:
        values = [row[metric] for row in rows if row[metric] is not None]
        means[metric] = sum(values) / len(values) if values else None
    return means


def _fingerprint(category: Category) -> list[list[str | int]]:
    files = [*category.train, *(sample.path for sample in category.test)]
    files += [path for sample in category.test for path in sample.mask_paths]
    found: list[list[str | int]] = []
    for path in files:
        try:
            status = path.stat()
        except FileNotFoundError:  # a list may name what is not there; whoever reads it says so
            found.append([category.name_of(path), -1, -1])
            continue
        found.append([category.name_of(path), status.st_size, status.st_mtime_ns])
    return found


def _read_record(path: Path) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return (
        record
        if {"fingerprint", "row", "images", "curves", "unreadable"} <= record.keys()
        else None
    )


def _changed(before: dict[str, Any], now: dict[str, Any]) -> str:
    settings = [
        key for key in now["settings"] if before["settings"].get(key) != now["settings"][key]
    ]
    images = ["its images"] if before["images"] != now["images"] else []
    return ", ".join(settings + images) or "images that were left out"


def _write_results(result: Result, out: Path) -> None:
    document = result.document()
    write_text(out / "results.json", json.dumps(document, indent=2) + "\n")
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(document["rows"])
    write_text(out / "results.csv", table.getvalue())
    write_text(out / "results.md", markdown(document))
    lines = [json.dumps(image) for record in result.records for image in record["images"]]
    write_text(out / "images.jsonl", "".join(line + "\n" for line in lines))
    write_roc(result, out / "roc_curve.png")


def write_roc(result: Result, path: Path) -> None:
    """Draw the ROC curves of a benchmark into a file."""
    curves: dict[str, dict[str, Curve]] = {"image": {}, "pixel": {}}
    for record in result.records:
        for kind, (fpr, tpr) in record["curves"].items():
            auroc = record["row"][f"{kind}_auroc"]
            if auroc is not None:
                curves[kind][record["row"]["category"]] = (fpr, tpr, auroc)
    with written_whole(path) as partial:
        partial.write_bytes(png(roc_figure(curves["image"], curves["pixel"])))


def markdown(document: dict[str, Any]) -> str:
    """Two tables, image and pixel level, with the means of the groups that are there."""
    settings = document["settings"]
    column = f"{settings['backbone']} ({settings['recipe']})"
    groups = (
        ("texture", "All texture classes"),
        ("object", "All object classes"),
        ("all", "All classes"),
    )
    tables = []
    for kind in ("image", "pixel"):
        lines = [
            f"### {kind.capitalize()}-level ROC AUC",
            "",
            f"| category | {column} |",
            "|---|---|",
        ]
        lines += [
            f"| {row['category']} | {shown(row[f'{kind}_auroc'])} |" for row in document["rows"]
        ]
        lines += [
            f"| {title} | {shown(document['means'][group][f'{kind}_auroc'])} |"
            for group, title in groups
            if document["means"][group] is not None
        ]
        tables.append("\n".join(lines))
    return "\n\n".join(tables) + "\n"
