"""``padim fit``."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from padim.choices import require_model_place
from padim.cli import options
from padim.cli.bars import phases
from padim.cli.cluster import hire, require_cluster
from padim.cli.console import Output, detail, result, say, warn
from padim.cli.images import (
    Unreadable,
    describe_threshold,
    measure_sizes,
    name_outputs,
    require_apart,
    require_names,
    require_place,
    require_writable,
    say_left_out,
)
from padim.cli.options import option
from padim.cli.shards import Spreading, fit_shard
from padim.datasets import NormalImages, describe, find_normal, read_dataset
from padim.datasets.folder import folder_name
from padim.datasets.left_out import find_left_out, find_left_out_of
from padim.datasets.naming import means_not_good
from padim.errors import UsageError, format_count, join_names
from padim.files import lock_new
from padim.fitting.settings import FitChoices, FitSettings, recipe_of, settings_with
from padim.images.decode import decode
from padim.images.facts import describe_depth
from padim.images.heatmap import overlay, save_picture
from padim.images.regions import regions_above
from padim.memory import format_bytes, loading, watch_peak
from padim.scoring.engines import is_graph
from padim.scoring.prediction import decide

if TYPE_CHECKING:
    from padim.fitting.fitter import Fitter
    from padim.fitting.forecast import Forecast
    from padim.fitting.looks import Fitted
    from padim.workers.protocol import Cluster

_SHOWN = 10
_MOST_DRAWN = 100  # outliers, whatever the number of images
_HEADINGS = {  # of one image, and of several
    "outlier": ("scores as if it did not belong", "score as if they did not belong"),
    "duplicate": (
        "repeats another, and so makes the model surer than it should be",
        "repeat another, and so make the model surer than it should be",
    ),
    "size": ("is of another size than the rest", "are of another size than the rest"),
    "brightness": (
        "is of another brightness than the rest",
        "are of another brightness than the rest",
    ),
}


def fit(
    images: Annotated[Path, typer.Argument(help="Folder of good images, or a category.")],
    out: Annotated[Path, option("The model file.", "FILE", "-o", "--out")],
    choices: FitChoices,
    spreading: Spreading,
    category: options.OneCategory = None,
    layout: options.Layout = None,
    recursive: options.Recursive = False,
    skip_unreadable: options.SkipUnreadable = False,
    outlier_overlays: Annotated[
        Path | None,
        typer.Option(
            "--outlier-overlays",
            metavar="DIR",
            help="Draw each outlier with its map under the model fitted without it; 100 at most.",
            rich_help_panel="Output",
        ),
    ] = None,
) -> None:
    """Fit a model on good images."""
    settings, cluster = settings_with(**choices), spreading.get("cluster")
    if cluster is not None:
        _refuse_on_cluster(settings, outlier_overlays)
        require_cluster(cluster)
    found = _find_images(images, category, layout, recursive)
    chosen = found.paths
    if spreading.keys() - {"cluster"}:
        _refuse_of_shards(choices, spreading, outlier_overlays)
        fit_shard(out, settings, chosen, spreading, Unreadable(skip_unreadable))
        return
    _require_place(out, settings)
    if outlier_overlays is not None:
        require_apart(outlier_overlays, [images], recursive=recursive)
        require_writable(outlier_overlays)
    largest_px, words = measure_sizes(chosen, settings.reading)
    place = "" if found.category else f" in {images}"
    say(f"{format_count(len(chosen), 'good image')}{place}, {words}.")
    say_left_out(
        find_left_out_of([found.category])
        if found.category
        else replace(find_left_out([images], recursive=recursive), masks=found.masks)
    )
    with loading():  # torch
        from padim.fitting.prepare import find_source_px, find_white, require_outliers_known
    require_outliers_known(settings, outlier_overlays is not None)
    settings = find_white(settings, chosen)
    source_px = find_source_px(settings, chosen)
    fitter, forecast = prepare_within(
        settings, largest_px, len(chosen), source_px=source_px, scratch=out.parent
    )
    fitter = replace(fitter, n_maps=_MOST_DRAWN if outlier_overlays is not None else 0)
    encoder = fitter.encoder
    detail(
        f"Backbone {encoder.spec.name}, recipe {fitter.recipe.name}, "
        f"{encoder.pyramid.n_dims} dimensions, engine {encoder.engine}, "
        f"device {fitter.embedder.device.type}."
    )
    unreadable = Unreadable(skip_unreadable)
    with hire(cluster, settings.n_threads, fitter.embedder.device.type) as workers:
        fitted, peak = _fit_to(out, fitter, chosen, source_px, unreadable, workers)
    drawn: dict[int, str] = {}
    if outlier_overlays is not None:
        names = name_outputs(chosen, [images])
        drawn = _draw_outliers(fitted, {p: outlier_overlays / n for p, n in names.items()})
    unreadable.report()
    _warn_of(fitted)
    document = _document(out, fitted, drawn) | {
        "unreadable": unreadable.paths,
        "forecast_peak_bytes": forecast.peak_bytes,
        "peak_bytes": peak,
        "forecast_model_bytes": forecast.file_bytes,
    }
    pictures = f"\nOutliers drawn: {len(drawn)}, in {outlier_overlays}." if drawn else ""
    text = _summarise(fitted, out, peak, settings) + list_suspects(fitted)
    result(document, f"{text}{pictures}")


def _document(out: Path, fitted: "Fitted", drawn: dict[int, str]) -> dict[str, object]:
    """What a fit gave, for ``--json``; ``drawn`` are the pictures of outliers."""
    return {
        "model": str(out),
        "n_train": fitted.state.count,
        "engine": str(fitted.state.encoder.engine),
        "suspects": [
            asdict(suspect)
            | {"path": str(fitted.paths[suspect.index]), "overlay": drawn.get(suspect.index)}
            for suspect in fitted.suspects
        ],
        "order": fitted.order and asdict(fitted.order),
        "dropped": [str(fitted.paths[i]) for i in fitted.dropped],
        "model_bytes": out.stat().st_size,
    }


def _refuse_of_shards(choices: FitChoices, spreading: Spreading, drawn: Path | None) -> None:
    """Refuse options that a look at a shard would leave out."""
    is_second = "second_look" in spreading
    alien = {"calibrate", "drop_outliers"} & choices.keys()
    where = "the second look at a shard takes it from the model" if is_second else ""
    if is_second:
        alien = choices.keys() - {"n_threads", "weights", "drop_outliers"}
    elif alien:
        where = "a first look at a shard scores nothing; see docs/howto/many-machines.md"
    if drawn is not None:
        alien, where = {"outlier_overlays"}, "shards draw no outliers"
    if "cluster" in spreading:
        alien, where = {"cluster"}, "a cluster takes the looks at all shards itself"
    if alien:
        name = min(alien).replace("_", "-")
        raise UsageError(f"--{name} cannot be used here: {where}. Leave it out.")


def _refuse_on_cluster(settings: FitSettings, drawn: Path | None) -> None:
    """Refuse options of a fit that workers cannot do."""
    for name, is_given in (
        ("--tile-px", settings.tile_px is not None),
        ("--outlier-overlays", drawn is not None),
    ):
        if is_given:
            raise UsageError(f"{name} is not for a fit on a cluster. Leave it or --cluster out.")


def _warn_of(fitted: "Fitted") -> None:
    """Say what is doubtful about the images."""
    state, order = fitted.state, fitted.order
    for words in (
        describe_depth(state.images, state.preprocess.reading.white),
        order.sentence if order else "",
    ):
        if words:
            warn(words)


def _find_images(
    images: Path, category: str | None, layout: str | None, recursive: bool
) -> NormalImages:
    """The good images that a path stands for, of which it is said what was taken for what."""
    if category is None and layout is None:
        found = find_normal(images, recursive)
    else:
        categories = read_dataset(images, (category,) if category else (), layout)
        if len(categories) > 1:
            raise UsageError(f"{describe(categories)}. Name one with --category.")
        found = NormalImages(categories[0].train, categories[0])
    if found.category is not None:
        taken = found.category
        say(f"Layout: {taken.layout}. {taken.name}: {taken.describe_split()}.")
        return found
    inside = (path.parent for path in found.paths if images.is_dir())
    folders = sorted({path.relative_to(images).as_posix() for path in inside} - {"."})
    if folders:
        say(f"Learning from the folders inside as well, as good: {join_names(folders)}.")
    if means_not_good(folder_name(images)):
        warn(
            f"{images} is named as if its images were not good, but a model learns what is good. "
            "Rename it if they are."
        )
    return found


def _require_place(out: Path, settings: FitSettings) -> None:
    """Make sure that a model file can be written to a place."""
    require_names(out)
    if out.is_dir():
        raise UsageError(
            f"{out} is a folder, but -o needs to name a file. Try {out / 'model.safetensors'}."
        )
    if is_graph(out):
        raise UsageError(
            f"{out} would be taken for a graph, but fit writes a model file. Try "
            f"{out.with_suffix('.safetensors')}, and padim export after that."
        )
    require_place(out)
    require_model_place(out)
    if settings.keep_moments:
        from padim.model.pair import moments_path, next_moments_path

        require_place(moments_path(out), next_moments_path(out))


def _fit_to(
    out: Path,
    fitter: "Fitter",
    chosen: Sequence[Path],
    source_px: tuple[int, int] | None,
    unreadable: Unreadable,
    workers: "Cluster | None",
) -> "tuple[Fitted, int | None]":
    """Fit with a bar, write the model, and tell the peak memory in bytes as well, if known."""
    from padim.model.pair import save_alone, save_pair

    peak, settings, hear = watch_peak(), fitter.settings, unreadable.callback
    begun = out.with_name(f"{out.name}.begun")
    with lock_new(out, is_one_of_several=settings.keep_moments):
        with phases() as begin:
            if workers is None:
                fitted = fitter.fit(chosen, begin, hear)
            else:
                from padim.fitting.spread import fit_by

                settings = replace(settings, n_threads=workers.n_threads)
                with _telling_what_is_kept(begun):
                    fitted = fit_by(workers, chosen, settings, source_px, begun, begin, hear)
        if fitted.moments is not None:
            save_pair(fitted.state, fitted.moments, out)
        else:
            save_alone(fitted.state, out)
        if workers is not None:
            shutil.rmtree(begun)
    return fitted, peak()


@contextmanager
def _telling_what_is_kept(folder: Path) -> Iterator[None]:
    """Say how a fit that is stopped can go on."""
    try:
        yield
    except BaseException:
        if (folder / "fit.json").is_file():
            Output.advice = f"{folder} keeps what is done: the same command goes on."
        raise


def _summarise(fitted: "Fitted", out: Path, peak: int | None, settings: FitSettings) -> str:
    count = format_count(fitted.state.count, "image")
    text = f"{out}: fitted on {count}, {format_bytes(out.stat().st_size)}"
    if peak is not None:
        text += f", peak memory {format_bytes(peak)}"
    calibration = fitted.state.calibration
    threshold = (
        "No threshold: one image cannot be judged by itself. Fit on two at least, or run padim "
        "calibrate on other good images."
    )
    if calibration is not None:
        threshold = describe_threshold(decide(calibration))
    elif not settings.calibrate:
        threshold = "No threshold: --no-calibrate."
    return f"{text}.\n{threshold}"


def _draw_outliers(fitted: "Fitted", places: dict[Path, Path]) -> dict[int, str]:
    """Draw outliers with the regions above the pixel threshold; give the files by their index."""
    drawn: dict[int, str] = {}
    for i, anomaly_map in fitted.outlier_maps.items():
        path, calibration = fitted.paths[i], fitted.state.calibration
        assert path is not None
        assert calibration is not None
        image = decode(path, fitted.state.preprocess.reading)
        window = fitted.state.preprocess.window((image.height, image.width))
        _, inside = regions_above(anomaly_map, decide(calibration).pixel_threshold)
        drawn[i] = f"{places[path]}.jpg"
        save_picture(overlay(image, anomaly_map, inside, window), Path(drawn[i]))
    return drawn


def list_suspects(fitted: "Fitted") -> str:
    """What in the good images does not look as the rest does, in lines."""
    text = ""
    for reason, headings in _HEADINGS.items():
        found = [suspect for suspect in fitted.suspects if suspect.reason == reason]
        if not found:
            continue
        text += f"\n{format_count(len(found), 'image')} {headings[len(found) > 1]}"
        if reason == "outlier" and not fitted.dropped:
            text += f" (--drop-outliers leaves {'them' if len(found) > 1 else 'it'} out)"
        text += ":"
        for suspect in found[:_SHOWN]:
            text += f"\n  {fitted.paths[suspect.index]}: {suspect.detail}"
            if suspect.p_value is not None:
                text += f", p {suspect.p_value:.1g}"
            if suspect.other is not None:
                text += f" as {fitted.paths[suspect.other]}"
        if len(found) > _SHOWN:
            text += f"\n  and {len(found) - _SHOWN} more (--json lists all)"
    if fitted.dropped:
        outliers = "outlier was" if len(fitted.dropped) == 1 else "outliers were"
        text += f"\nThe {len(fitted.dropped)} {outliers} left out of the model."
    return text


def prepare_within(
    settings: FitSettings,
    largest_px: tuple[int, int],
    n_images: int,
    *,
    source_px: tuple[int, int] | None = None,
    scratch: Path | None = None,
) -> "tuple[Fitter, Forecast]":
    """Load what a fit needs, print its forecast and refuse it when it is too large."""
    from padim.fitting.prepare import prepare

    limit = settings.max_bytes
    fitter = prepare(settings, source_px=source_px, scratch=scratch)
    if recipe_of(settings).coarse_scale and not fitter.recipe.coarse_scale:
        say(f"No coarse head: {fitter.encoder.spec.name} takes no smaller copy of an image.")
    forecast = fitter.forecast(largest_px, n_images)
    say(
        f"Forecast: peak memory {format_bytes(forecast.peak_bytes)}, model file "
        f"{format_bytes(forecast.file_bytes)}."
    )
    forecast.check(limit)
    if forecast.warning:
        warn(forecast.warning)
    return fitter, forecast
