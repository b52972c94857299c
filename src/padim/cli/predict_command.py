"""``padim predict``."""

import csv
import json
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from PIL import Image

from padim.cli import options
from padim.cli.console import progress, result, say, table
from padim.cli.images import Unreadable, require_writable, sizes
from padim.datasets import expand
from padim.errors import PathMissingError, UnknownNameError, UsageError
from padim.files import written_whole
from padim.heatmap import overlay
from padim.images import read_image
from padim.regions import peak_region

if TYPE_CHECKING:
    from padim.model import Prediction

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


def predict(
    model: Annotated[Path, typer.Argument(help="A model file.")],
    images: Annotated[list[Path], typer.Argument(help="Images and folders of images.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder of the results.")],
    recursive: options.Recursive = False,
    maps: Annotated[
        str | None,
        typer.Option("--maps", metavar="npy|tiff", help="Write float32 maps at source size too."),
    ] = None,
    fail_on_anomaly: Annotated[
        bool,
        typer.Option("--fail-on-anomaly", help="Exit with 1 when an image is labelled anomalous."),
    ] = False,
    weights: options.Weights = None,
    device: options.Device = "auto",
    precision: options.Precision = None,
    skip_unreadable: options.SkipUnreadable = False,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Score images, and show where each is most anomalous."""
    if maps not in (None, "npy", "tiff"):
        raise UnknownNameError("kind of map", maps, ("npy", "tiff"))
    if not model.is_file():
        raise PathMissingError(model)
    chosen = expand(images, recursive=recursive)
    names = _output_names(chosen, images)
    require_writable(out)
    from padim.model import load

    loaded = load(model, weights=weights, device=device, precision=precision)
    if fail_on_anomaly:
        raise UsageError(
            f"{model} has no threshold, so no image can be labelled anomalous. Leave "
            "--fail-on-anomaly out and compare the scores instead."
        )
    say(f"{len(chosen)} images to score, {sizes(chosen)[1]}.")
    unreadable = Unreadable(skip_unreadable)
    rows: list[dict[str, Any]] = []
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
        for prediction in loaded.stream(chosen, unreadable.callback):
            row = _write_pictures(prediction, names, out, maps)
            rows.append(row)
            writer.writerow(row)
            jsonl.write(json.dumps(row) + "\n")
            advance(1)
    unreadable.report()
    document = {
        "model": str(model),
        "out": str(out),
        "n_images": len(rows),
        "unreadable": unreadable.paths,
        "predictions": rows,
    }
    result(document, _summary(rows, out))


def _write_pictures(
    prediction: "Prediction", names: dict[Path, Path], out: Path, maps: str | None
) -> dict[str, Any]:
    assert prediction.path is not None
    name = names[prediction.path]
    source_map = prediction.source_map()
    region, inside = peak_region(source_map)
    picture = overlay(read_image(prediction.path), source_map, inside)
    with written_whole(out / "overlays" / name.with_name(name.name + ".png")) as partial:
        picture.save(partial, compress_level=1)
    if maps is not None:
        with written_whole(out / "maps" / name.with_name(f"{name.name}.{maps}")) as partial:
            if maps == "npy":
                np.save(partial, source_map)
            else:
                Image.fromarray(source_map).save(partial)
    row = {
        "path": str(prediction.path),
        "score": prediction.score,
        "label": prediction.label,
        "p_value": prediction.p_value,
        **asdict(region),
    }
    return {column: row[column] for column in COLUMNS}


def _output_names(chosen: Sequence[Path], given: Sequence[Path]) -> dict[Path, Path]:
    """Name each image below the folders it was found through, without suffix where that is enough.

    Images of the same stem keep their suffixes, so that no two get one name.
    """
    plain = [Path(os.path.abspath(path)) for path in given]  # noqa: PTH100  # resolves .., not links
    root = os.path.commonpath([path if path.is_dir() else path.parent for path in plain])
    names = {path: Path(os.path.relpath(path, root)) for path in chosen}
    uses = Counter(name.with_suffix("") for name in names.values())
    return {
        path: name.with_suffix("") if uses[name.with_suffix("")] == 1 else name
        for path, name in names.items()
    }


def _summary(rows: list[dict[str, Any]], out: Path) -> str:
    hottest = sorted(rows, key=lambda row: -row["score"])[:_SHOWN]
    cells = [
        (row["path"], f"{row['score']:.3f}", f"{row['peak_x']},{row['peak_y']}") for row in hottest
    ]
    heading = "The most anomalous of " if len(rows) > _SHOWN else ""
    return (
        f"{heading}{len(rows)} images:\n{table(('path', 'score', 'peak x,y'), cells)}\n"
        f"Scores and regions: {out / 'predictions.csv'}, {out / 'predictions.jsonl'}. "
        f"Pictures: {out / 'overlays'}."
    )
