"""``padim info``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from padim.cli import options
from padim.cli.console import result
from padim.cli.images import threshold_words
from padim.errors import UsageError, say_number
from padim.images.roi import Roi
from padim.memory import format_bytes
from padim.scoring.calibration import DEFAULT_PIXEL_RATE, Calibration
from padim.scoring.engines import graph_parts, is_graph
from padim.scoring.prediction import decide


def info(
    file: options.Model,
    engine: options.Engine = "auto",
    false_alarm_rate: options.FalseAlarmRate = None,
    pixel_false_alarm_rate: options.PixelFalseAlarmRate = None,
    config: Annotated[
        bool,
        typer.Option("--config", help="Print the .toml alone that fits such a model again."),
    ] = False,
) -> None:
    """Print what a model says of itself. A model file's tensors are checked as well."""
    if config:
        _print_config(file)
        return
    document, calibration = _read_graph(file, engine) if is_graph(file) else _read_model(file)
    decision = None
    if calibration is not None:
        decision = decide(calibration, false_alarm_rate, pixel_false_alarm_rate)
    document["threshold"] = asdict(decision.threshold) if decision else None
    document["pixel_threshold"] = decision and decision.pixel_threshold
    lines = _describe(file, document)
    if decision is not None:
        lines["calibration"] = threshold_words(decision)
        rate = pixel_false_alarm_rate or DEFAULT_PIXEL_RATE
        lines["pixels"] = (
            f"threshold {decision.pixel_threshold:.4g}: a false-alarm rate of {rate:g}"
        )
    width = max(map(len, lines))
    result(document, "\n".join(f"{key.ljust(width)}  {value}" for key, value in lines.items()))


def _print_config(file: Path) -> None:
    """Print the choices of the fit that a model came from."""
    from padim.fitting.config import choices_of, format_choices
    from padim.model.file import load_state

    if is_graph(file):
        raise UsageError(
            f"{file} is a graph, but --config needs the model file that it was exported from."
        )
    choices = choices_of(load_state(file))
    text = format_choices(choices).rstrip()
    result(choices, f"# Device, batch and outliers that were dropped are not in a model.\n{text}")


def _read_model(file: Path) -> tuple[dict[str, Any], Calibration | None]:
    from padim.model.file import load_state

    state = load_state(file)
    document = {
        **state.metadata(),
        "file_bytes": file.stat().st_size,
        "store": str(state.whitening[0].dtype).removeprefix("torch."),
        "backbone_bytes": sum(t.numel() * t.element_size() for t in state.trunk.values()),
        "n_samples": len(state.samples.image) if state.samples else 0,
        "n_tiles": len(state.tiling.tiles),
        "window_px": state.tiling.window_px,
    }
    return document, state.calibration


def _read_graph(file: Path, engine: str) -> tuple[dict[str, Any], Calibration | None]:
    from padim.model.opening import load

    predictor = load(file, engine=engine)
    document = dict(predictor.description.facts)
    document["calibration"] = {
        key: (document["calibration"] or {}).get(key) for key in ("source", "chosen")
    }
    document |= {
        "runs_on": predictor.engine,
        "file_bytes": sum(part.stat().st_size for part in graph_parts(file)),
        "n_samples": len(document.pop("samples")),
    }
    return document, predictor.decision.calibration if predictor.decision else None


def _describe(file: Path, document: dict[str, Any]) -> dict[str, str]:
    backbone, recipe, levels = document["backbone"], document["recipe"], document["levels"]
    preprocess = document["preprocess"]
    is_graph = "graph_version" in document
    crop = preprocess["crop_fraction"]
    fraction = recipe["score_fraction"]
    if is_graph or document["backbone_bytes"]:
        inside = "inside" if is_graph else f"inside, {format_bytes(document['backbone_bytes'])}"
    else:
        inside = "not inside"
    image = f"{_format_px(preprocess['size_px'])}, {preprocess['resample']}"
    if crop < 1:
        image += f", centre crop {crop:g}"
    if document.get("n_tiles", 1) > 1:
        image += f", {document['n_tiles']} tiles of {_format_px(document['window_px'])}"
    if is_graph and document["camera_px"]:
        image = f"{_format_px(document['camera_px'])} of a camera, in the graph to {image}"
    of = " of as many pixels as a tile has" if document.get("n_tiles", 1) > 1 else ""
    lines = {
        "file": f"{file}, {format_bytes(document['file_bytes'])}, "
        + (
            f"graph {document['graph_version']}, runs on {document['runs_on']}"
            if is_graph
            else f"format {document['format_version']}"
        ),
        "fitted on": f"{say_number(document['count'], 'image')}, by {document['engine']}",
        "backbone": f"{backbone['name']}, taps {', '.join(map(str, backbone['taps']))}, {inside}",
        "weights": f"sha256 {document['weights_sha256']}",
        "licence": backbone["licence"],
        "levels": " -> ".join(
            f"{sum(map(len, level['channels']))} dims at {level['grid'][0]}x{level['grid'][1]}"
            for level in levels
        ),
        "recipe": recipe["name"],
        "image": image,
        "region": _describe_region(preprocess, document, levels[0]["grid"]),
        "eps": ", ".join(f"{eps:.4g}" for eps in document["eps"])
        + f" ({recipe['eps_rule']} {recipe['eps']:g})",
        "blur": f"sigma {recipe['sigma_px']:g} px",
        "image score": f"mean of the hottest {fraction:.2%}{of}" if fraction else "maximum",
        "precision": f"{document['precision']}, stored as {document['store']}",
        "samples": f"{say_number(document['n_samples'], 'image')} with maps inside",
        "calibration": "none: scores carry no label",
    }
    if is_graph:
        lines["exported from"] = f"sha256 {document['model_sha256']}"
        lines["compared on"] = say_number(len(document["compared_sha256"]), "image")
    versions = document["versions"].items()
    return lines | {"made with": ", ".join(f"{name} {version}" for name, version in versions)}


def _describe_region(
    preprocess: dict[str, Any], document: dict[str, Any], grid: tuple[int, int]
) -> str:
    roi = preprocess.get("roi")
    if roi is None:
        return "the whole image"
    mask = Roi.from_json(roi).mask
    n_cells = grid[0] * grid[1]
    coarse_cells = document["coarse_cells"]
    n_modelled = n_cells if coarse_cells is None else len(coarse_cells)
    return (
        f"{mask.mean():.0%} of images of {_format_px(roi['source_px'])}, "
        f"{n_modelled} of {n_cells} coarse cells"
    )


def _format_px(size_px: tuple[int, int]) -> str:
    return f"{size_px[0]}x{size_px[1]} px"
