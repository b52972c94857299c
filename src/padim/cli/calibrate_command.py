"""``padim calibrate``."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from padim.cli import options
from padim.cli.console import progress, result, say
from padim.cli.images import Unreadable, threshold_words
from padim.datasets import expand, normal_images
from padim.errors import DatasetError, PathMissingError, UsageError, listed
from padim.scoring.calibration import HELD_OUT, Collector, least_cost
from padim.scoring.engines import GRAPH_ENGINES
from padim.scoring.prediction import decide


def calibrate(
    model: options.Model,
    good: Annotated[Path, typer.Argument(help="Folder of good images that were not fitted on.")],
    opening: options.Opening,
    anomalous: Annotated[
        Path | None,
        typer.Option("--anomalous", metavar="DIR", help="Images of known defects: least cost."),
    ] = None,
    miss_cost: Annotated[
        float | None, typer.Option("--miss-cost", metavar="X", help="Of a defect missed: 1.")
    ] = None,
    false_alarm_cost: Annotated[
        float | None, typer.Option("--false-alarm-cost", metavar="X", help="Of a false alarm: 1.")
    ] = None,
    recursive: options.Recursive = False,
    skip_unreadable: options.SkipUnreadable = False,
) -> None:
    """Set a model's threshold by other good images. Known defects help if there are some."""
    if not model.is_file():
        raise PathMissingError(model)
    if anomalous is None and (miss_cost, false_alarm_cost) != (None, None):
        raise UsageError("Costs need known defects to weigh. Name them with --anomalous.")
    costs = tuple(1.0 if cost is None else cost for cost in (miss_cost, false_alarm_cost))
    if not (min(costs) > 0 and max(costs) < math.inf):
        raise UsageError("A cost needs to be a number above 0. Leave it out for 1.")
    normal = normal_images(good, recursive=recursive)
    defective = expand([anomalous], recursive=True) if anomalous else ()
    from padim.model.opening import load

    predictor = load(model, **opening)
    fitted = set(predictor.description["image_sha256"])
    hashes = _require_unseen(normal, fitted) | fitted
    if both := [path for path in defective if _sha256(path) in hashes]:
        raise DatasetError(
            f"{listed(both)}: images of known defects cannot be good ones as well, of this folder "
            "or of the fit. Name a folder of defects only with --anomalous."
        )
    say(f"{len(normal)} good and {len(defective)} anomalous images. Engine: {predictor.engine}.")
    unreadable = Unreadable(skip_unreadable)
    collectors = Collector(), Collector()
    with progress("calibrate", len(normal) + len(defective)) as advance:
        for collector, paths in zip(collectors, (normal, defective), strict=True):
            for prediction in predictor.stream(paths, unreadable.callback):
                collector.add(prediction.anomaly_map[None], prediction.score)
                advance(1)
    unreadable.report()
    if not collectors[0].count or (defective and not collectors[1].count):
        raise DatasetError("No image could be read. Name a folder of images.")
    calibration = collectors[0].calibration(HELD_OUT)
    if defective:
        chosen = least_cost(calibration.image_score, collectors[1].image_scores(), *costs)
        calibration = replace(calibration, chosen=chosen)
    if model.suffix in GRAPH_ENGINES:
        from padim.scoring.description import write_description

        description = {**predictor.description, "calibration": calibration.to_json()}
        write_description(model, json.dumps(description, sort_keys=True))
    else:
        from padim.model.file import load_state, save_state

        save_state(replace(load_state(model), calibration=calibration), model)
    decision = decide(calibration)
    document = {
        "model": str(model),
        "n_good": calibration.count,
        "n_anomalous": collectors[1].count,
        "unreadable": unreadable.paths,
        "threshold": asdict(decision.threshold),
        "pixel_threshold": decision.pixel_threshold,
    }
    result(document, f"{model}: {threshold_words(decision)}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_unseen(paths: Sequence[Path], fitted: set[str]) -> set[str]:
    """Make sure that a model was not fitted on images.

    Returns:
        Their sha256.

    Raises:
        DatasetError: It was.
    """
    hashes = {path: _sha256(path) for path in paths}
    if known := [str(path) for path, digest in hashes.items() if digest in fitted]:
        raise DatasetError(
            f"The model was fitted on {len(known)} of the {len(paths)} images, and scores those "
            f"too low for a threshold: {listed(known)}. Name others, or fit it anew without "
            "--no-calibrate, which leaves each out in turn."
        )
    return set(hashes.values())
