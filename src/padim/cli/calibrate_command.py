"""``padim calibrate``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from padim.cli import options
from padim.cli.bars import progress
from padim.cli.console import result, say
from padim.cli.images import Unreadable, describe_threshold, say_left_out
from padim.cli.options import option
from padim.datasets import expand_defects, find_normal
from padim.datasets.left_out import LeftOut, find_masks
from padim.errors import PathMissingError, UsageError
from padim.files import hold
from padim.scoring.cost import check_weights


def calibrate(
    model: options.Model,
    good: Annotated[Path, typer.Argument(help="Folder of good images that were not fitted on.")],
    opening: options.Opening,
    anomalous: Annotated[Path | None, option("Images of known defects: least cost.", "DIR")] = None,
    miss_cost: Annotated[float | None, option("Of a defect missed: 1.", "X")] = None,
    false_alarm_cost: Annotated[float | None, option("Of a false alarm: 1.", "X")] = None,
    defect_rate: Annotated[
        float | None, option("Share of parts that are defective, such as 0.01.", "X")
    ] = None,
    recursive: options.Recursive = False,
    skip_unreadable: options.SkipUnreadable = False,
) -> None:
    """Set a model's threshold by other good images. Known defects help if there are some."""
    if not model.is_file():
        raise PathMissingError(model)
    if anomalous is None and any(
        weight is not None for weight in (miss_cost, false_alarm_cost, defect_rate)
    ):
        raise UsageError(
            "Costs and a share of defects need known defects to weigh. Name them with --anomalous."
        )
    miss_cost = 1.0 if miss_cost is None else miss_cost
    false_alarm_cost = 1.0 if false_alarm_cost is None else false_alarm_cost
    check_weights(miss_cost, false_alarm_cost, defect_rate)
    found = find_normal(good, recursive)
    normal, left_out = found.paths, found.masks
    defects: tuple[Path, ...] = ()
    if anomalous:
        defects = expand_defects(anomalous)
        left_out += find_masks([anomalous], recursive=True).masks
    say_left_out(LeftOut(masks=left_out))
    from padim.fitting.calibrate import calibrate as set_thresholds
    from padim.fitting.calibrate import check_renewable, write_calibration
    from padim.model.opening import load

    unreadable = Unreadable(skip_unreadable)
    with hold(model) as check:
        predictor = load(model, **opening)
        check_renewable(predictor, model)
        say(f"Good images: {len(normal)}. Anomalous: {len(defects)}. Engine: {predictor.engine}.")
        with progress("calibrate", len(normal) + len(defects)) as advance:
            calibrated = set_thresholds(
                predictor,
                normal,
                defects,
                miss_cost=miss_cost,
                false_alarm_cost=false_alarm_cost,
                defect_rate=defect_rate,
                unreadable=unreadable.callback,
                advance=advance,
            )
        unreadable.report()
        check()
        write_calibration(calibrated, model)
    decision = calibrated.decision
    assert decision is not None
    document = {
        "model": str(model),
        "n_good": decision.calibration.count,
        "n_anomalous": sum(str(path) not in unreadable.paths for path in defects),
        "unreadable": unreadable.paths,
        "threshold": asdict(decision.threshold),
        "pixel_threshold": decision.pixel_threshold,
    }
    result(document, f"{model}: {describe_threshold(decision)}")
