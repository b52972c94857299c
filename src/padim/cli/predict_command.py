"""``padim predict``."""

import csv
import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from PIL import Image

from padim.cli import options
from padim.cli.console import Output, progress, result, say, table
from padim.cli.images import (
    Unreadable,
    output_names,
    require_apart,
    require_writable,
    sizes,
    threshold_words,
    write_overlay,
)
from padim.datasets import expand
from padim.errors import PathMissingError, UnknownNameError, UsageError
from padim.files import written_whole
from padim.images.ahead import WRITE_BEHIND, WRITE_THREADS, mapped_ahead
from padim.images.decode import decode
from padim.images.heatmap import overlay
from padim.images.regions import Region, peak_region
from padim.scoring.prediction import NOT_CALIBRATED

if TYPE_CHECKING:
    from padim.scoring.prediction import Prediction

COLUMNS = (
    "path",
    "score",
    "label",
    "p_value",
    "peak_x",
    "peak_y",
    "x",
    "y",
    "width",
    "height",
    "area_px",
)
_SHOWN = 10
KEPT_PX = 1_000_000  # of a source image that is drawn from memory; larger ones are read again


def predict(
    model: options.Model,
    images: Annotated[list[Path], typer.Argument(help="Images and folders of images.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder of the results.")],
    opening: options.Opening,
    recursive: options.Recursive = False,
    maps: Annotated[
        str | None,
        typer.Option("--maps", metavar="npy|tiff", help="Write float32 maps at source size too."),
    ] = None,
    overlays: Annotated[
        bool, typer.Option("--overlays/--no-overlays", help="Draw each image with its map.")
    ] = True,
    false_alarm_rate: options.FalseAlarmRate = None,
    pixel_false_alarm_rate: options.PixelFalseAlarmRate = None,
    min_region_px: Annotated[
        int, typer.Option("--min-region-px", metavar="N", help="Smallest region, in source pixels.")
    ] = 1,
    fail_on_anomaly: Annotated[
        bool,
        typer.Option("--fail-on-anomaly", help="Exit with 1 when an image is labelled anomalous."),
    ] = False,
    skip_unreadable: options.SkipUnreadable = False,
) -> None:
    """Score images, and show where each is most anomalous."""
    if maps not in (None, "npy", "tiff"):
        raise UnknownNameError("kind of map", maps, ("npy", "tiff"))
    if not model.is_file():
        raise PathMissingError(model)
    if min_region_px < 1:
        raise UsageError(f"--min-region-px is {min_region_px}, but needs to be 1 or more. Try 1.")
    require_apart(out, images)
    chosen = expand(images, recursive=recursive)
    names = output_names(chosen, images)
    require_writable(out)
    from padim.model.opening import load

    loaded = load(model, **opening).at(false_alarm_rate, pixel_false_alarm_rate)
    if fail_on_anomaly and loaded.decision is None:
        raise UsageError(f"{NOT_CALIBRATED} Until then, leave --fail-on-anomaly out.")
    say(f"{len(chosen)} images to score, {sizes(chosen)[1]}. Engine: {loaded.engine}.")
    if loaded.decision is not None:
        say(threshold_words(loaded.decision))
    unreadable = Unreadable(skip_unreadable)
    rows: list[dict[str, Any]] = []  # all of them for JSON, else the hottest
    n_images = n_anomalous = 0

    def write(prediction: "Prediction") -> dict[str, Any]:
        return _write_pictures(prediction, names, out, overlays, maps, min_region_px)

    with ExitStack() as stack:
        advance = stack.enter_context(progress("predict", len(chosen)))
        lines = stack.enter_context(written_whole(out / "predictions.jsonl"))
        values = stack.enter_context(written_whole(out / "predictions.csv"))
        jsonl = stack.enter_context(lines.open("w", encoding="utf-8", newline="\n"))
        file = stack.enter_context(
            values.open("w", encoding="utf-8", errors="surrogateescape", newline="")
        )
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        predictions = loaded.stream(chosen, unreadable.callback, KEPT_PX if overlays else 0)
        for row in mapped_ahead(write, predictions, WRITE_THREADS, WRITE_BEHIND):
            rows.append(row)
            if len(rows) > 2 * _SHOWN and not Output.as_json:
                rows = _hottest(rows)
            writer.writerow({column: row[column] for column in COLUMNS})
            jsonl.write(json.dumps(row) + "\n")
            n_images += 1
            n_anomalous += row["label"] == "anomalous"
            advance(1)
    unreadable.report()
    document = {
        "model": str(model),
        "engine": loaded.engine,
        "out": str(out),
        "n_images": n_images,
        "n_anomalous": n_anomalous if loaded.decision else None,
        "threshold": asdict(loaded.decision.threshold) if loaded.decision else None,
        "pixel_threshold": loaded.decision and loaded.decision.pixel_threshold,
        "unreadable": unreadable.paths,
        "predictions": rows,
    }
    result(document, _summary(rows, n_images, out, overlays))
    if fail_on_anomaly and n_anomalous:
        raise typer.Exit(1)


def _write_pictures(
    prediction: "Prediction",
    names: dict[Path, Path],
    out: Path,
    overlays: bool,
    maps: str | None,
    min_region_px: int,
) -> dict[str, Any]:
    assert prediction.path is not None
    name = names[prediction.path]
    window = prediction.preprocess.window(prediction.source_px)
    region, inside = peak_region(prediction.anomaly_map)
    regions: list[Region] = []
    if prediction.decision is not None:
        regions, inside = prediction.defects(min_region_px)
    if overlays:
        image = prediction.picture or decode(prediction.path)
        picture = overlay(image, prediction.anomaly_map, inside, window)
        write_overlay(picture, out / "overlays" / name)
    if maps is not None:
        source_map = prediction.source_map()
        with written_whole(out / "maps" / name.with_name(f"{name.name}.{maps}")) as partial:
            if maps == "npy":
                np.save(partial, source_map)
            else:
                Image.fromarray(source_map).save(partial)
    return {
        "path": str(prediction.path),
        "score": prediction.score,
        "label": prediction.label,
        "p_value": prediction.p_value,
        **asdict(region.in_source(prediction.preprocess.size_px, window)),
        "regions": [asdict(found) for found in regions],
    }


def _hottest(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: -row["score"])[:_SHOWN]


def _summary(rows: list[dict[str, Any]], n_images: int, out: Path, overlays: bool) -> str:
    cells = [
        (
            row["path"],
            f"{row['score']:.3f}",
            f"{row['peak_x']},{row['peak_y']}",
            "" if row["label"] is None else f"{row['label']}, p {row['p_value']:.2g}",
        )
        for row in _hottest(rows)
    ]
    heading = "The most anomalous of " if n_images > _SHOWN else ""
    pictures = f" Pictures: {out / 'overlays'}." if overlays else ""
    return (
        f"{heading}{n_images} images:\n{table(('path', 'score', 'peak x,y', 'label'), cells)}\n"
        f"Scores and regions: {out / 'predictions.csv'}, {out / 'predictions.jsonl'}."
        f"{pictures}"
    )
