"""``padim predict``."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from padim.cli import options
from padim.cli.bars import progress
from padim.cli.cluster import hire_scorers, require_cluster
from padim.cli.console import Output, result, say, warn
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
from padim.cli.predict_bulk import require_bulk, score_bulk, tell_places
from padim.cli.tally import Tally, saying_how_far
from padim.datasets import expand
from padim.datasets.left_out import find_left_out
from padim.errors import ImageReadError, PadimError, PathMissingError, UsageError, format_count
from padim.files import lock_folder
from padim.images.ahead import content_sha256
from padim.images.facts import describe_differences
from padim.images.stream import STDIN, is_stdin, read_stdin
from padim.scoring.engines import N_BATCH, choose_threads
from padim.scoring.journal import Journal, Run
from padim.scoring.prediction import NOT_CALIBRATED, Prediction, PredictionRecord
from padim.scoring.writer import PredictionWriter

if TYPE_CHECKING:
    from padim.model.spread import Row, Scorers
    from padim.scoring.predictor import Predictor

_FOLDER = 16  # images that are scored as a folder: few come sooner one after the other
KEPT_PX = 1_000_000  # of a source image that is drawn from memory; larger ones are read again


class Scoring(options.Opening, total=False):
    """How a model is opened, and where."""

    cluster: Annotated[str, options.CLUSTER]


def predict(
    model: options.Model,
    images: Annotated[list[Path], typer.Argument(help="Images and folders; - for a pipe.")],
    out: Annotated[Path, option("Folder of the results.", "DIR", "-o", "--out")],
    scoring: Scoring,
    rates: options.Rates,
    recursive: options.Recursive = False,
    maps: Annotated[
        str | None,
        option("Write float32 maps at source size too; zarr with --parquet.", "npy|tiff|zarr"),
    ] = None,
    overlays: Annotated[bool, option("Draw each image with its map.")] = True,
    min_region_px: Annotated[int, option("Smallest region, in source pixels.", "N")] = 1,
    fail_on_anomaly: Annotated[
        bool, option("Exit with 1 when an image is labelled anomalous.", None, "--fail-on-anomaly")
    ] = False,
    parquet: Annotated[
        bool, option("For many images: Parquet, in parts, without pictures.", None, "--parquet")
    ] = False,
    skip_unreadable: options.SkipUnreadable = False,
) -> None:
    """Score images, and show where each is most anomalous."""
    if not model.is_file():
        raise PathMissingError(model)
    images = [STDIN if is_stdin(path) else path for path in images]
    require_apart(out, images, recursive=recursive)
    cluster = scoring.pop("cluster", None)
    opening: options.Opening = scoring
    if cluster is not None:
        if STDIN in images:
            raise UsageError("--cluster takes files, but - is a pipe. Leave --cluster out.")
        require_cluster(cluster)
    chosen = expand(images, recursive=recursive)
    require_writable(out)
    writer, names = None, {} if parquet else name_outputs(chosen, images)
    if parquet:
        require_bulk(chosen, maps)
    else:
        writer = _make_writer(out, names, overlays, maps, min_region_px)
    require_no_images(out)
    from padim.model.opening import load

    n_calls = 1 if cluster else _choose_calls(opening, len(chosen))
    if n_calls > 1:
        opening["n_threads"] = choose_threads(opening.get("n_threads")) // n_calls
    loaded = load(model, **opening, n_calls=n_calls).at(**rates)
    if fail_on_anomaly and loaded.decision is None:
        raise UsageError(f"{NOT_CALIBRATED} Until then, leave --fail-on-anomaly out.")
    count = format_count(len(chosen), "image")
    # To open each of a million files takes long.
    sizes = "" if parquet else f", {measure_sizes(chosen, loaded.preprocess.reading)[1]}"
    say(f"{count} to score{sizes}. Engine: {loaded.engine}.")
    if writer is not None and (out / "predictions.csv").is_file():
        say(f"The results in {out} are replaced by new ones.")
    say_left_out(find_left_out(images, recursive=recursive))
    if loaded.decision is not None:
        say_threshold(loaded.decision)
    unreadable = Unreadable(skip_unreadable)
    fitted = frozenset(loaded.description.facts["image_sha256"])
    tally = Tally(loaded.decision, fitted, keeps_all=Output.as_json and not parquet)
    with hire_scorers(cluster, model, opening, rates) as scorers:
        if writer is None:
            score_bulk(chosen, loaded, out, maps, min_region_px, unreadable, tally, scorers)
            places = tell_places(out, maps)
        else:
            _score(chosen, names, loaded, writer, unreadable, tally, scorers)
            places = _tell_places(writer)
    unreadable.report()
    facts = {"model": str(model), "engine": loaded.engine, "out": str(out)}
    _tell(tally, {**facts, "unreadable": unreadable.paths}, places)
    if not tally.n_images:
        raise PadimError(f"Nothing was judged: of {count} none could be read. Check the files.")
    if writer is not None:
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


def _make_writer(
    out: Path, names: Mapping[Path, Path], overlays: bool, maps: str | None, min_region_px: int
) -> PredictionWriter:
    """What writes tables and pictures into a folder."""
    if maps == "zarr":
        raise UsageError("--maps zarr is for --parquet. Add that, or take --maps npy.")
    if (out / "predictions.parquet").exists():
        raise UsageError(
            f"{out} has results in Parquet, but others need a folder of their own. Choose another, "
            "or add --parquet."
        )
    return PredictionWriter(
        out, lambda prediction: names[prediction.path or STDIN], overlays, maps, min_region_px
    )


def _tell_places(writer: PredictionWriter) -> str:
    """Where results are, in words."""
    out = writer.folder
    pictures = f" Pictures: {out / 'overlays'}." if writer.overlays else ""
    tables = f"{out / 'predictions.csv'}, {out / 'predictions.jsonl'}"
    return f"Scores and regions: {tables}.{pictures}"


def _tell(tally: Tally, facts: Mapping[str, object], places: str) -> None:
    """Say what was found, and what is doubtful about it."""
    shown, records = (
        ("predictions", tally.records) if tally.keeps_all else ("hottest", tally.hottest())
    )
    document = {**facts, **tally.document(), shown: [record.to_dict() for record in records]}
    result(document, f"{tally.words()}\n{places}")
    if words := describe_differences(tally.differences.elements()):
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


def _note(predictions: Iterable[Prediction], tally: Tally) -> Iterator[Prediction]:
    """Pass predictions on, and note how their images differ from those of the fit."""
    for prediction in predictions:
        tally.note(prediction.differences)
        yield prediction


def _note_rows(rows: "Iterable[Row]", tally: Tally) -> Iterator[PredictionRecord]:
    """Pass rows on, and note likewise."""
    for record, differences in rows:
        tally.note(differences)
        yield record


def _score(
    chosen: Sequence[Path],
    names: Mapping[Path, Path],
    loaded: "Predictor",
    writer: PredictionWriter,
    unreadable: Unreadable,
    tally: Tally,
    scorers: "Scorers | None",
) -> None:
    """Score images into a folder, here or by workers, and count them."""
    if STDIN in chosen:
        Output.can_skip = False  # what is piped is one image
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
        kept_px, told = KEPT_PX if writer.overlays else 0, unreadable.callback
        if scorers is not None:
            found = scorers.predict(waiting, names, loaded, writer, journal, told, kept_px=kept_px)
            rows = _note_rows(found, tally)
        else:
            given = [read_stdin() if path == STDIN else path for path in waiting]
            predictions = loaded.stream(given, told, kept_px=kept_px, traced=True)
            rows = writer.write(_note(predictions, tally), journal)
        with saying_how_far(tally, len(chosen)):
            for record in rows:
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
