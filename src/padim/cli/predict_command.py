"""``padim predict``."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from padim.cli import options
from padim.cli.bars import progress
from padim.cli.console import Output, result, say, table, warn
from padim.cli.images import (
    Unreadable,
    measure_sizes,
    name_outputs,
    require_apart,
    require_no_images,
    require_writable,
    say_left_out,
    say_threshold,
)
from padim.cli.options import option
from padim.datasets import expand
from padim.datasets.left_out import find_left_out
from padim.errors import ImageReadError, PadimError, PathMissingError, UsageError, format_count
from padim.files import lock_folder
from padim.images.ahead import content_sha256
from padim.images.facts import describe_differences
from padim.images.stream import STDIN, is_stdin, read_stdin
from padim.scoring.engines import N_BATCH, choose_threads
from padim.scoring.journal import Journal, Run
from padim.scoring.prediction import NOT_CALIBRATED, Decision, Prediction, PredictionRecord
from padim.scoring.writer import PredictionWriter

if TYPE_CHECKING:
    from padim.scoring.predictor import Predictor

_SHOWN = 10
_FOLDER = 16  # images that are scored as a folder: few come sooner one after the other
_MANY = 20  # images that are all alien are hardly all defective
KEPT_PX = 1_000_000  # of a source image that is drawn from memory; larger ones are read again


def predict(
    model: options.Model,
    images: Annotated[list[Path], typer.Argument(help="Images and folders; - for a pipe.")],
    out: Annotated[Path, option("Folder of the results.", "DIR", "-o", "--out")],
    opening: options.Opening,
    rates: options.Rates,
    recursive: options.Recursive = False,
    maps: Annotated[
        str | None, option("Write float32 maps at source size too.", "npy|tiff")
    ] = None,
    overlays: Annotated[bool, option("Draw each image with its map.")] = True,
    min_region_px: Annotated[int, option("Smallest region, in source pixels.", "N")] = 1,
    fail_on_anomaly: Annotated[
        bool, option("Exit with 1 when an image is labelled anomalous.", None, "--fail-on-anomaly")
    ] = False,
    skip_unreadable: options.SkipUnreadable = False,
) -> None:
    """Score images, and show where each is most anomalous."""
    if not model.is_file():
        raise PathMissingError(model)
    images = [STDIN if is_stdin(path) else path for path in images]
    require_apart(out, images, recursive=recursive)
    chosen = expand(images, recursive=recursive)
    names = name_outputs(chosen, images)
    writer = PredictionWriter(
        out, lambda prediction: names[prediction.path or STDIN], overlays, maps, min_region_px
    )
    require_writable(out)
    require_no_images(out)
    from padim.model.opening import load

    n_calls = _choose_calls(opening, len(chosen))
    if n_calls > 1:
        opening["n_threads"] = choose_threads(opening.get("n_threads")) // n_calls
    loaded = load(model, **opening, n_calls=n_calls).at(**rates)
    if fail_on_anomaly and loaded.decision is None:
        raise UsageError(f"{NOT_CALIBRATED} Until then, leave --fail-on-anomaly out.")
    count = format_count(len(chosen), "image")
    sizes = measure_sizes(chosen, loaded.preprocess.reading)[1]
    say(f"{count} to score, {sizes}. Engine: {loaded.engine}.")
    say_left_out(find_left_out(images, recursive=recursive))
    if loaded.decision is not None:
        say_threshold(loaded.decision)
    unreadable = Unreadable(skip_unreadable)
    tally = _Tally(loaded.decision, frozenset(loaded.description.facts["image_sha256"]))
    _score(chosen, loaded, writer, unreadable, tally)
    unreadable.report()
    facts = {"model": str(model), "engine": loaded.engine, "out": str(out)}
    _tell(tally, facts, unreadable.paths, out, overlays=overlays)
    if not tally.n_images:
        raise PadimError(f"Nothing was judged: of {count} none could be read. Check the files.")
    _require_pictures(writer)
    if fail_on_anomaly and tally.n_anomalous:
        raise typer.Exit(1)


def _choose_calls(opening: options.Opening, n_images: int) -> int:
    """Calls at a time, which share the threads: for a folder as many as it has batches for.

    A call of several threads answers sooner, but its threads wait for one another.
    """
    if n_images < _FOLDER or opening.get("device") == "cuda":
        return 1
    return min(choose_threads(opening.get("n_threads")), n_images // N_BATCH)


def _tell(
    tally: "_Tally",
    facts: Mapping[str, str],
    unreadable: Sequence[str],
    out: Path,
    *,
    overlays: bool,
) -> None:
    """Say what was found, and what is doubtful about it."""
    document = {
        **facts,
        **tally.document(),
        "unreadable": unreadable,
        "predictions": [record.to_dict() for record in tally.records],
    }
    pictures = f" Pictures: {out / 'overlays'}." if overlays else ""
    result(
        document,
        f"{tally.words()}\nScores and regions: {out / 'predictions.csv'}, "
        f"{out / 'predictions.jsonl'}.{pictures}",
    )
    if words := describe_differences(tally.differences):
        warn(words)
    if tally.n_fitted:
        warn(
            f"The model was fitted on {tally.n_fitted} of {format_count(tally.n_images, 'image')}, "
            "and scores what it has seen too low. Judge it by other images."
        )
    if tally.all_alien:
        warn(
            f"All {tally.n_images} images are as unlike the good ones as can be. If they are not "
            "all defective, this is a model of another part, or the camera or its light changed."
        )


def _note(
    predictions: Iterable[Prediction], differences: list[tuple[str, ...]]
) -> Iterator[Prediction]:
    """Pass predictions on, and note how their images differ from those of the fit."""
    for prediction in predictions:
        differences.append(prediction.differences)
        yield prediction


def _score(
    chosen: Sequence[Path],
    loaded: "Predictor",
    writer: PredictionWriter,
    unreadable: Unreadable,
    tally: "_Tally",
) -> None:
    """Score images into a folder, and count them."""
    with (
        lock_folder(writer.folder),
        Journal(writer.folder, _describe_run(loaded, writer), loaded.decision) as journal,
        progress("predict", len(chosen)) as advance,
    ):
        done = _find_done(chosen, journal, writer, loaded.n_batch)
        for one in done.values():
            tally.add(one)
        waiting = [path for path in chosen if path not in done]
        advance(tally.n_images)
        predictions = loaded.stream(
            [read_stdin() if path == STDIN else path for path in waiting],
            unreadable.callback,
            kept_px=KEPT_PX if writer.overlays else 0,
            traced=True,
        )
        with _saying_how_far(tally, len(chosen)):
            for record in writer.write(_note(predictions, tally.differences), journal):
                tally.add(record)
                advance(1)
            journal.finish(None if path == STDIN else str(path) for path in chosen)


def _require_pictures(writer: PredictionWriter) -> None:
    """Fail where the pictures of an image could not be written."""
    if writer.troubles:
        pictures = format_count(len(writer.troubles), "image")
        raise PadimError(
            f"The pictures of {pictures} are not there. {' '.join(writer.troubles[:3])}"
        )


def _describe_run(loaded: "Predictor", writer: PredictionWriter) -> Run:
    """What the rows to be rest on."""
    decision = loaded.decision
    return Run(
        *loaded.origin,
        threshold=decision.threshold.score if decision else None,
        false_alarm_rate=decision.threshold.rate if decision else None,
        pixel_threshold=decision.pixel_threshold if decision else None,
        overlays=writer.overlays,
        maps=writer.maps,
        min_region_px=writer.min_region_px,
    )


def _find_done(
    chosen: Sequence[Path], journal: Journal, writer: PredictionWriter, n_batch: int
) -> dict[Path, PredictionRecord]:
    """What a run has done that was stopped: whole batches, so that the others are as they were."""
    if journal.replaced:
        say(
            f"A run into {journal.folder} was stopped, but of another model or other options. "
            "This one begins anew."
        )
    done: dict[Path, PredictionRecord] = {}
    for path in chosen:
        entry = journal.find(str(path))
        is_done = False
        if entry is not None:
            with suppress(ImageReadError):  # who scores it says so
                is_done = writer.is_done(entry, content_sha256(path))
        if is_done and entry is not None and entry.record is not None:
            done[path] = entry.record
    n_kept = len(done) if len(done) == len(chosen) else len(done) // n_batch * n_batch
    if n_kept:
        count = format_count(n_kept, "image")
        say(f"{count} of a run that was stopped need not be scored again.")
    return dict(list(done.items())[:n_kept])


@contextmanager
def _saying_how_far(tally: "_Tally", n_images: int) -> Iterator[None]:
    """Say, when the work is stopped, how far it has come."""
    try:
        yield
    except BaseException:
        if tally.n_images:
            Output.advice = (
                f"{tally.n_images} of {n_images} images are done: the same command goes on."
            )
        raise


class _Tally:
    """Counts predictions and keeps those that are shown: all for JSON, else the hottest."""

    def __init__(self, decision: Decision | None, fitted: frozenset[str]) -> None:
        self.decision = decision
        self.fitted = fitted  # sha256 of the images of the fit
        self.records: list[PredictionRecord] = []
        self.differences: list[tuple[str, ...]] = []  # of each image from those of the fit
        self.n_images = self.n_anomalous = self.n_alien = self.n_fitted = 0

    def add(self, record: PredictionRecord) -> None:
        self.records.append(record)
        if len(self.records) > 2 * _SHOWN and not Output.as_json:
            self.records = self._hottest()
        self.n_images += 1
        self.n_fitted += record.origin is not None and record.origin.image_sha256 in self.fitted
        self.n_anomalous += record.label == "anomalous"
        if self.decision is not None and record.p_value is not None:
            self.n_alien += record.p_value <= self.decision.calibration.least_p_value

    @property
    def all_alien(self) -> bool:
        return self.n_alien == self.n_images >= _MANY

    def document(self) -> dict[str, object]:
        return {
            "n_images": self.n_images,
            "n_anomalous": self.n_anomalous if self.decision else None,
            "threshold": asdict(self.decision.threshold) if self.decision else None,
            "pixel_threshold": self.decision and self.decision.pixel_threshold,
        }

    def words(self) -> str:
        cells = [
            (
                record.path or "",
                f"{record.score:.3f}",
                f"{record.hottest.peak_x},{record.hottest.peak_y}",
                "" if record.label is None else f"{record.label}, p {record.p_value:.2g}",
            )
            for record in self._hottest()
        ]
        count = format_count(self.n_images, "image")
        if self.decision is not None:
            verb = "is" if 1 in (self.n_images, self.n_anomalous) else "are"
            count = f"{self.n_anomalous} of {count} {verb} anomalous"
        most = ". The most anomalous" if self.n_images > _SHOWN else ""
        return f"{count}{most}:\n{table(('path', 'score', 'peak x,y', 'label'), cells)}"

    def _hottest(self) -> list[PredictionRecord]:
        return sorted(self.records, key=lambda record: -record.score)[:_SHOWN]
