"""``padim evaluate``."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from padim.cli import options
from padim.cli.bars import progress
from padim.cli.console import result, say, table, warn
from padim.cli.images import Unreadable, measure_sizes, say_left_out, say_threshold
from padim.datasets import describe
from padim.datasets.left_out import find_left_out_of
from padim.images.facts import describe_differences
from padim.metrics.resamples import Intervals
from padim.scoring.calibration import Threshold


@dataclass(frozen=True)
class Measured:
    """What ``evaluate --json`` says beside the metrics; what is of a threshold is null without."""

    model: str
    category: str
    n_test: int
    unreadable: list[str]
    engine: str
    intervals: Intervals
    bounds: Intervals
    threshold: Threshold | None
    n_false_alarms: int | None
    n_missed: int | None
    score_s: float
    mask_flaws: dict[str, int]  # how many masks have each


def evaluate(
    model: options.Model,
    data: Annotated[Path, typer.Argument(help="A category in any known layout, or a dataset.")],
    opening: options.Opening,
    category: options.OneCategory = None,
    layout: options.Layout = None,
    false_alarm_rate: options.FalseAlarmRate = None,
    skip_unreadable: options.SkipUnreadable = False,
) -> None:
    """Measure a model on the test images of one category."""
    from padim.evaluation.category import evaluate as evaluate_category
    from padim.evaluation.category import read_test_category
    from padim.metrics.table import METRICS, format_interval, format_metric
    from padim.model.opening import load

    found = read_test_category(data, category, layout)
    say(f"{describe([found])}.\n{found.describe()}\nImages: {measure_sizes(found.images())[1]}.")
    say_left_out(find_left_out_of([found]))
    loaded = load(model, **opening).at(false_alarm_rate)
    say(f"Engine: {loaded.engine}.")
    unreadable = Unreadable(skip_unreadable)
    with progress("score", len(found.test)) as advance:
        evaluation = evaluate_category(
            loaded, found, advance=advance, unreadable=unreadable.callback
        )
    unreadable.report()
    if words := describe_differences(one.differences for one in evaluation.predictions):
        warn(words)
    for words in evaluation.describe_flaws():
        warn(words)
    rows = [
        (METRICS[name].label, format_metric(value) + format_interval(evaluation.intervals[name]))
        for name, value in evaluation.metrics.items()
    ]
    threshold = None
    n_false_alarms = n_missed = None
    if loaded.decision is not None:
        say_threshold(loaded.decision)
        threshold = loaded.decision.threshold
        n_false_alarms, n_missed = evaluation.count_mistakes(threshold.score)
        n_anomalous = int(evaluation.is_anomalous.sum())
        rows += [
            ("false alarms", f"{n_false_alarms} of {len(evaluation.samples) - n_anomalous}"),
            ("missed", f"{n_missed} of {n_anomalous}"),
        ]
    measured = Measured(
        model=str(model),
        category=found.name,
        n_test=len(evaluation.samples),
        unreadable=unreadable.paths,
        engine=loaded.engine,
        intervals=evaluation.intervals,
        bounds=evaluation.pixel_metrics.bounds(),
        threshold=threshold,
        n_false_alarms=n_false_alarms,
        n_missed=n_missed,
        score_s=round(evaluation.score_s, 3),
        mask_flaws={flaw: len(paths) for flaw, paths in evaluation.mask_flaws.items()},
    )
    result(asdict(measured) | evaluation.metrics, table(("metric", found.name), rows))
