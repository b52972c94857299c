"""``padim monitor``."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from padim.cli.console import align, result, warn
from padim.cli.options import option
from padim.documents import Document
from padim.errors import DatasetError, PathMissingError, UsageError, format_count
from padim.files import sha256
from padim.monitor.alarm import Alarm, MonitorState
from padim.monitor.monitor import PARTS_BETWEEN_ALARMS, Monitor
from padim.monitor.observation import ResultRow, describe_statistic
from padim.scoring.engines import is_graph
from padim.scoring.parts import FOLDER, read_rows
from padim.scoring.prediction import Decision, decide

_FILE = "predictions.jsonl"
_MOST_BYTES = 1 << 20  # of a line
_SHOWN = 10
_ADVICE = "Name what padim predict wrote."


def monitor(
    results: Annotated[
        Path, typer.Argument(help="What predict wrote, a folder or a .jsonl: parts in order.")
    ],
    model: Annotated[
        Path | None, option("Begin with the good images of this model.", "FILE")
    ] = None,
    parts_between_alarms: Annotated[
        int, option("Parts between two false alarms, on average.", "N")
    ] = PARTS_BETWEEN_ALARMS,
    every: Annotated[int, option("Look at one accepted part in so many.", "K")] = 1,
    seed: Annotated[int, option("Of the numbers that ties are broken by.", "N")] = 0,
    fail_on_alarm: Annotated[
        bool, option("Exit with 1 when the alarm rings.", None, "--fail-on-alarm")
    ] = False,
) -> None:
    """Say whether a line has drifted, since when, and by what."""
    path = _find_rows(results)
    rows = _read_parts(path) if path.is_dir() else _read_rows(path)
    first = next(rows, None)
    if first is None:
        raise DatasetError(f"{path} has no prediction. Name what padim predict wrote.")
    decision = None if model is None else _read_decision(model, first)
    watch = Monitor(decision, parts_between_alarms=parts_between_alarms, every=every, seed=seed)
    state = watch.update(first.observe())
    alarms: list[Alarm] = []
    most_rejected = state
    for row in rows:
        if row.model_sha256 != first.model_sha256:
            raise DatasetError(
                f"{path} has predictions of several models, whose scores cannot be compared. Give "
                "those of one at a time."
            )
        state = watch.update(row.observe())
        if state.alarm is not None:
            alarms.append(state.alarm)
        if state.n_rejected_in_a_row > most_rejected.n_rejected_in_a_row:
            most_rejected = state
    if most_rejected.notice:
        warn(f"Up to part {most_rejected.n_seen}: {most_rejected.notice}")
    document = _build_document(path, state, alarms)
    result(document, _summarise(state, alarms, parts_between_alarms))
    if alarms and fail_on_alarm:
        raise typer.Exit(1)


def _find_rows(results: Path) -> Path:
    """The rows in a folder of results, or those that are named."""
    parts = results / FOLDER
    if parts.is_dir():
        return parts
    return results / _FILE if results.is_dir() and results.name != FOLDER else results


def _read_parts(path: Path) -> Iterator[ResultRow]:
    """The predictions in a folder of Parquet files."""
    for number, row in enumerate(read_rows(path), 1):
        document = Document(f"Row {number} of {path}", DatasetError, _ADVICE)
        yield document.restore(row, ResultRow)


def _read_rows(path: Path) -> Iterator[ResultRow]:
    """The predictions of a file, line by line."""
    if not path.is_file():
        raise PathMissingError(path, "what padim predict wrote with -o")
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(_MOST_BYTES + 1), b""), 1):
            document = Document(f"Line {number} of {path}", DatasetError, _ADVICE)
            yield document.restore(document.parse(line, _MOST_BYTES), ResultRow)


def _read_decision(model: Path, first: ResultRow) -> Decision:
    """How the good images of a model score, and the threshold that the predictions are by."""
    if is_graph(model):
        from padim.scoring.description import Description
        from padim.scoring.graph_file import no_model, read_description, read_graph

        read_graph(model)
        said = read_description(model)
        if said is None:
            raise no_model(model)
        calibration = Description.read(said, model).calibration
    else:
        from padim.model.file import load_state

        calibration = load_state(model).calibration
    if calibration is None or calibration.reference is None:
        raise UsageError(
            f"{model} says nothing of its good images that a monitor could begin with. Leave "
            "--model out, or run padim calibrate on good images."
        )
    if calibration.stale:
        raise UsageError(
            f"{model} has changed since its good images were looked at. Leave --model out, or run "
            "padim calibrate on good images."
        )
    if first.model_sha256 not in (None, sha256(model)):
        warn(f"The predictions are of another model file than {model}.")
    decision = decide(calibration)
    if first.threshold is None:
        return decision
    return replace(decision, threshold=replace(decision.threshold, score=first.threshold))


def _build_document(path: Path, state: MonitorState, alarms: list[Alarm]) -> dict[str, object]:
    return {
        "results": str(path),
        "n_parts": state.n_seen,
        "n_accepted": state.n_accepted,
        "basis": state.basis,
        "total": state.total,
        "evidence": [asdict(one) for one in state.evidence],
        "alarms": [asdict(alarm) | {"sentence": alarm.sentence} for alarm in alarms],
    }


def _summarise(state: MonitorState, alarms: list[Alarm], rings_at: int) -> str:
    parts = f"{format_count(state.n_seen, 'part')}, {state.n_accepted} accepted"
    lines = [f"{parts}: {format_count(len(alarms), 'alarm')}." if alarms else f"{parts}: no drift."]
    lines += [alarm.sentence for alarm in alarms[:_SHOWN]]
    if len(alarms) > _SHOWN:
        lines.append(f"And {format_count(len(alarms) - _SHOWN, 'more alarm')} (--json has all).")
    if state.evidence:
        lines.append(
            f"Evidence of {'another change since the last alarm' if alarms else 'a change now'}. "
            "Without a change each grows by about 1 with each part. The alarm rings when all "
            f"together reach {rings_at:,}:"
        )
        shown = {describe_statistic(one.statistic): f"{one.value:.3g}" for one in state.evidence}
        lines.append(align(shown | {"all together": f"{state.total:.3g}"}))
    return "\n".join(lines)
