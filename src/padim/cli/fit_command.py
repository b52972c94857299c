"""``padim fit``."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from padim.backbones import DEFAULT_BACKBONE
from padim.cli import options
from padim.cli.console import detail, progress, result, say
from padim.cli.images import (
    Unreadable,
    output_names,
    require_apart,
    require_writable,
    sizes,
    threshold_words,
    write_overlay,
)
from padim.datasets import describe, layout_title, normal_images, read_root
from padim.errors import UsageError
from padim.images.decode import decode
from padim.images.heatmap import overlay
from padim.images.regions import regions_above
from padim.images.roi import read_roi
from padim.memory import format_bytes, parse_bytes, watch_peak
from padim.recipes import DEFAULT_RECIPE
from padim.scoring.engines import GRAPH_ENGINES
from padim.scoring.prediction import decide

if TYPE_CHECKING:
    from padim.fitting.fitter import Fitted, Fitter

_SHOWN = 10
_HEADINGS = {
    "outlier": "score as if they did not belong",
    "duplicate": "repeat another, and so make the model surer than it should be",
    "size": "are of another size than the rest",
    "brightness": "are of another brightness than the rest",
}


def fit(
    images: Annotated[Path, typer.Argument(help="Folder of good images, or a category.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The model file.")],
    backbone: options.Backbone = DEFAULT_BACKBONE,
    recipe: options.Recipe = DEFAULT_RECIPE,
    category: options.OneCategory = None,
    layout: options.Layout = None,
    recursive: options.Recursive = False,
    size: options.Size = None,
    taps: options.Taps = None,
    dims: options.Dims = None,
    eps: options.Eps = None,
    eps_rule: options.EpsRule = None,
    sigma: options.Sigma = None,
    score_fraction: options.ScoreFraction = None,
    roi: options.Roi = None,
    tile_px: options.TilePx = None,
    tile_overlap_px: options.TileOverlapPx = None,
    weights: options.Weights = None,
    device: options.Device = "auto",
    precision: options.Precision = None,
    store: options.Store = "float16",
    engine: options.Engine = "auto",
    threads: options.Threads = None,
    include_backbone: Annotated[
        bool | None,
        typer.Option(
            "--include-backbone/--no-include-backbone",
            help="The network travels in the model file; by default when under 50 MB.",
        ),
    ] = None,
    keep_moments: Annotated[
        bool,
        typer.Option("--keep-moments", help="Write the float64 moments beside the model as well."),
    ] = False,
    samples: Annotated[
        bool,
        typer.Option(
            "--samples/--no-samples",
            help="A few of the images travel with the model, to compare engines on.",
        ),
    ] = True,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate/--no-calibrate",
            help="Find the threshold by leaving each good image out in turn.",
        ),
    ] = True,
    drop_outliers: Annotated[
        float,
        typer.Option(
            "--drop-outliers",
            metavar="RATE",
            help="Leave images out whose p-value by the bulk of the scores is at most this: 0.005.",
        ),
    ] = 0.0,
    outlier_overlays: Annotated[
        Path | None,
        typer.Option(
            "--outlier-overlays",
            metavar="DIR",
            help="Draw each outlier with its map under the model fitted without it; 100 at most.",
        ),
    ] = None,
    max_memory: options.MaxMemory = None,
    skip_unreadable: options.SkipUnreadable = False,
) -> None:
    """Fit a model on good images."""
    if category is None and layout is None:
        chosen = normal_images(images, recursive=recursive)
        title = layout_title(images)
    else:
        found = read_root(images, (category,) if category else (), layout)
        if len(found) > 1:
            raise UsageError(f"{describe(found)}. Name one with --category.")
        chosen, title = found[0].train, describe(found)
    if out.is_dir():
        raise UsageError(
            f"{out} is a folder, but -o needs to name a file. Try {out / 'model.safetensors'}."
        )
    if out.suffix in GRAPH_ENGINES:
        raise UsageError(
            f"{out} would be taken for a graph, but fit writes a model file. Try "
            f"{out.with_suffix('.safetensors')}, and padim export after that."
        )
    require_writable(out.parent)
    if outlier_overlays is not None:
        require_apart(outlier_overlays, [images])
        require_writable(outlier_overlays)
    largest_px, words = sizes(chosen)
    say(f"{title}: " * bool(title) + f"{len(chosen)} good images in {images}, {words}.")
    source_px = region = None
    if roi is not None or tile_px is not None:
        from padim.fitting.prepare import first_px

        source_px = first_px(chosen)
        region = None if roi is None else read_roi(roi, source_px)
    fitter, forecast = prepared(
        backbone,
        recipe,
        max_memory,
        largest_px,
        len(chosen),
        size_px=options.parse_size(size),
        taps=options.parse_taps(taps),
        dims=dims,
        eps=eps,
        eps_rule=eps_rule,
        sigma_px=sigma,
        score_fraction=score_fraction,
        weights=weights,
        device=device,
        precision=precision or "float32",
        store=store,
        include_backbone=include_backbone,
        keep_moments=keep_moments,
        keep_samples=samples,
        calibrate=calibrate,
        drop_outliers=drop_outliers,
        keep_outlier_maps=outlier_overlays is not None,
        engine=engine,
        n_threads=threads,
        roi=region,
        tile_px=tile_px,
        tile_overlap_px=tile_overlap_px,
        source_px=source_px,
        scratch=out.parent,
    )
    from padim.model.file import save_state
    from padim.model.pair import save_pair

    detail(
        f"Backbone {fitter.spec.name}, recipe {fitter.settings.name}, "
        f"{fitter.pyramid.n_dims} dimensions, engine {fitter.engine}, "
        f"device {fitter.device.type}."
    )
    unreadable = Unreadable(skip_unreadable)
    watched = watch_peak()
    with progress("fit", len(chosen) * len(fitter.tiling.tiles)) as advance:
        fitted = fitter.fit(chosen, advance, unreadable.callback)
    if fitted.moments is not None:
        save_pair(fitted.state, fitted.moments, out)
    else:
        save_state(fitted.state, out)
    peak = watched()
    drawn: dict[int, str] = {}
    if outlier_overlays is not None:
        names = output_names(chosen, [images])
        drawn = _draw_outliers(fitted, {p: outlier_overlays / n for p, n in names.items()})
    unreadable.report()
    document = {
        "model": str(out),
        "n_train": fitted.state.count,
        "engine": fitter.engine,
        "unreadable": unreadable.paths,
        "suspects": [
            asdict(suspect)
            | {"path": str(fitted.paths[suspect.index]), "overlay": drawn.get(suspect.index)}
            for suspect in fitted.suspects
        ],
        "dropped": [str(fitted.paths[i]) for i in fitted.dropped],
        "forecast_peak_bytes": forecast.peak_bytes,
        "peak_bytes": peak,
        "forecast_model_bytes": forecast.file_bytes,
        "model_bytes": out.stat().st_size,
    }
    text = f"{out}: fitted on {fitted.state.count} images, {format_bytes(out.stat().st_size)}"
    if peak is not None:
        text += f", peak memory {format_bytes(peak)}"
    pictures = f"\nOutliers drawn: {len(drawn)}, in {outlier_overlays}." if drawn else ""
    calibration = fitted.state.calibration
    threshold = "No threshold: one image cannot be judged by itself."
    if calibration is not None:
        threshold = threshold_words(decide(calibration))
    elif not calibrate:
        threshold = "No threshold: --no-calibrate."
    result(document, f"{text}.\n{threshold}{_suspects(fitted)}{pictures}")


def _draw_outliers(fitted: "Fitted", places: dict[Path, Path]) -> dict[int, str]:
    """Draw outliers with the regions above the model's pixel threshold.

    Args:
        fitted: Whose outliers.
        places: Where to, by image, without suffix.

    Returns:
        The files, by the places of the images.
    """
    drawn: dict[int, str] = {}
    for i, anomaly_map in fitted.outlier_maps.items():
        path, calibration = fitted.paths[i], fitted.state.calibration
        assert path is not None
        assert calibration is not None
        image = decode(path)
        window = fitted.state.preprocess.window((image.height, image.width))
        _, inside = regions_above(anomaly_map, decide(calibration).pixel_threshold)
        drawn[i] = str(write_overlay(overlay(image, anomaly_map, inside, window), places[path]))
    return drawn


def _suspects(fitted: "Fitted") -> str:
    """The images that do not look as the rest does, in words."""
    text = ""
    for reason, heading in _HEADINGS.items():
        found = [suspect for suspect in fitted.suspects if suspect.reason == reason]
        if not found:
            continue
        if reason == "outlier" and not fitted.dropped:
            heading += " (--drop-outliers leaves them out)"
        text += f"\n{len(found)} {heading}:"
        for suspect in found[:_SHOWN]:
            text += f"\n  {fitted.paths[suspect.index]}: {suspect.detail}"
            if suspect.p_value is not None:
                text += f", p {suspect.p_value:.1g}"
            if suspect.other is not None:
                text += f" as {fitted.paths[suspect.other]}"
        if len(found) > _SHOWN:
            text += f"\n  and {len(found) - _SHOWN} more (--json lists all)"
    if fitted.dropped:
        text += f"\nThe {len(fitted.dropped)} outliers were left out of the model."
    return text


def prepared(
    backbone: str,
    recipe: str,
    max_memory: str | None,
    largest_px: tuple[int, int],
    n_images: int,
    **settings: Any,
) -> "tuple[Fitter, Any]":
    """Load what a fit needs, print its forecast and refuse it when it is too large.

    Args:
        backbone: Short name of the backbone.
        recipe: Name of the recipe.
        max_memory: What the user allows.
        largest_px: (height, width) of the largest image.
        n_images: How many there are, at most.
        **settings: As for ``padim.fitting.prepare.prepare``.
    """
    from padim.fitting.prepare import prepare

    limit = parse_bytes(max_memory) if max_memory is not None else None
    fitter = prepare(backbone, recipe, **settings)
    if limit is not None:
        fitter = fitter.within(limit, n_images, largest_px)
    forecast = fitter.forecast(largest_px, n_images)
    say(
        f"Forecast: peak memory {format_bytes(forecast.peak_bytes)}, model file "
        f"{format_bytes(forecast.file_bytes)}."
    )
    forecast.check(limit)
    return fitter, forecast
