"""``padim info``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from padim.cli import options
from padim.cli.console import align, result
from padim.cli.images import describe_threshold
from padim.cli.options import option
from padim.errors import UnknownNameError, UsageError, format_count
from padim.features.weights import compare_published
from padim.images.roi import Roi
from padim.memory import format_bytes
from padim.scoring.calibration import DEFAULT_PIXEL_RATE, Calibration
from padim.scoring.engines import ENGINES, is_graph
from padim.scoring.graph_file import bringing_here, graph_parts, read_graph
from padim.scoring.prediction import decide

Document = dict[str, Any]  # what a file says of itself, as --json prints it


def info(
    file: options.Model,
    engine: options.Engine = "auto",
    false_alarm_rate: options.FalseAlarmRate = None,
    pixel_false_alarm_rate: options.PixelFalseAlarmRate = None,
    config: Annotated[
        bool, option("Print the .toml alone that fits such a model again.", None, "--config")
    ] = False,
) -> None:
    """Print what a model says of itself. A model file's tensors are checked as well."""
    if config:
        _print_config(file)
        return
    if engine not in ("auto", *ENGINES):
        raise UnknownNameError("engine", engine, ("auto", *ENGINES))
    if is_graph(file):
        with bringing_here(file) as here:
            document, calibration = _read_graph(here, engine)
    else:
        document, calibration = _read_model(file)
    decision = None
    if calibration is not None:
        decision = decide(calibration, false_alarm_rate, pixel_false_alarm_rate)
    document["threshold"] = asdict(decision.threshold) if decision else None
    document["pixel_threshold"] = decision and decision.pixel_threshold
    lines = _describe(file, document)
    if decision is not None:
        lines["calibration"] = describe_threshold(decision)
        rate = pixel_false_alarm_rate or DEFAULT_PIXEL_RATE
        lines["pixels"] = (
            f"threshold {decision.pixel_threshold:.4g}: a false-alarm rate of {rate:g}"
        )
    result(document, align(lines))


def _print_config(file: Path) -> None:
    from padim.fitting.config import choices_of, format_choices
    from padim.model.file import load_state

    if is_graph(file):
        raise UsageError(
            f"{file} is a graph, but --config needs the model file that it was exported from."
        )
    choices = choices_of(load_state(file))
    text = format_choices(choices).rstrip()
    lacking = "Device, batch and outliers that were dropped are not in a model."
    if named := " and ".join(name for name in ("roi", "weights") if name in choices):
        lacking += f" Name the file for {named}."
    result(choices, f"# {lacking}\n{text}")


def _read_model(file: Path) -> tuple[Document, Calibration | None]:
    from padim.model.file import load_state
    from padim.model.padim import is_own_network

    state = load_state(file)
    document = {
        **state.metadata(),
        "file_bytes": file.stat().st_size,
        "store": str(state.whitening[0].dtype).removeprefix("torch."),
        "backbone_bytes": sum(t.numel() * t.element_size() for t in state.trunk.values()),
        "n_samples": len(state.samples.image) if state.samples else 0,
        "n_tiles": len(state.tiling.tiles),
        "window_px": state.tiling.window_px,
        "own_network": is_own_network(state),
    }
    return document, state.calibration


def _read_graph(file: Path, engine: str) -> tuple[Document, Calibration | None]:
    from padim.model.opening import load

    predictor = load(file, engine=engine)
    document = dict(predictor.description.facts)
    document["calibration"] = {
        key: (document["calibration"] or {}).get(key) for key in ("source", "chosen")
    }
    document |= {
        "runs_on": predictor.engine,
        "sealed": read_graph(file, with_weights=False).is_sealed,
        "file_bytes": sum(part.stat().st_size for part in graph_parts(file)),
        "n_samples": len(document.pop("samples")),
    }
    return document, predictor.decision.calibration if predictor.decision else None


def _describe(file: Path, document: Document) -> dict[str, str]:
    backbone, recipe, levels = document["backbone"], document["recipe"], document["levels"]
    fraction = recipe["score_fraction"]
    if "graph_version" in document:
        seal = "sealed" if document["sealed"] else "not sealed: damage would go unnoticed"
        kind = f"graph {document['graph_version']}, {seal}, runs on {document['runs_on']}"
        inside = "inside"
        more = {
            "exported from": f"sha256 {document['model_sha256']}",
            "compared on": format_count(len(document["compared_sha256"]), "image"),
            "verdict": "inside: it takes false-alarm rates, and gives p-value, label and mask"
            if document.get("verdict")
            else "none inside",
        }
    else:
        kind, more = f"format {document['format_version']}", {}
        n_bytes = document["backbone_bytes"]
        inside = f"inside, {format_bytes(n_bytes)}" if n_bytes else "not inside"
    of = " of as many pixels as a tile has" if document.get("n_tiles", 1) > 1 else ""
    samples = format_count(document["n_samples"], "image with its map", "images with their maps")
    return {
        "file": f"{file}, {format_bytes(document['file_bytes'])}, {kind}",
        "fitted on": f"{format_count(document['count'], 'image')}, by {document['engine']}",
        "backbone": f"{backbone['name']}, taps {', '.join(map(str, backbone['taps']))}, {inside}",
        "weights": _describe_weights(document),
        "licence": backbone["licence"],
        "levels": " -> ".join(
            f"{sum(map(len, level['channels']))} dims at {level['grid'][0]}x{level['grid'][1]}"
            for level in levels
        ),
        "recipe": recipe["name"],
        "image": _describe_image(document),
        "region": _describe_region(document),
        "eps": ", ".join(f"{eps:.4g}" for eps in document["eps"])
        + f" ({recipe['eps_rule']} {recipe['eps']:g})",
        **_describe_levers(document),
        "blur": f"sigma {recipe['sigma_px']:g} px",
        "map score": f"mean of the hottest {fraction:.2%}{of}" if fraction else "maximum",
        "precision": f"{document['precision']}, stored as {document['store']}",
        "samples": f"{samples if document['n_samples'] else 'no images with their maps'} inside",
        "calibration": "none: scores carry no label",
        **more,
        "made with": ", ".join(
            f"{name} {version}" for name, version in document["versions"].items()
        ),
    }


def _describe_levers(document: Document) -> dict[str, str]:
    """What a model has that others have not: mirrored features, a coarse head."""
    recipe, levers = document["recipe"], {}
    if recipe.get("mirrored"):
        levers["features"] = "the mean of the image's and its mirror's"
    if scale := recipe.get("coarse_scale"):
        joined = "joined with the map's" if document.get("fusion") else "no part of the image score"
        n_dims = len(document["levels"][0]["channels"][-1])
        levers["coarse head"] = (
            f"{n_dims} dims of a copy at scale {scale:g}, mean of the hottest "
            f"{recipe['coarse_fraction']:.2%}; {joined}"
        )
    return levers


def _describe_weights(document: Document) -> str:
    name, digest = document["backbone"]["name"], document["weights_sha256"]
    inside = {
        True: "; the network inside is theirs",
        False: "; BUT THE NETWORK INSIDE IS ANOTHER",
        None: "; what is inside could not be compared with them",
    }
    said = inside[document.get("own_network")] if document.get("backbone_bytes", 1) else ""
    return f"sha256 {digest}, {compare_published(name, digest)}{said}"


def _describe_image(document: Document) -> str:
    preprocess = document["preprocess"]
    image = f"{_format_px(preprocess['size_px'])}, {preprocess['resample']}"
    if preprocess["crop_fraction"] < 1:
        image += f", centre crop {preprocess['crop_fraction']:g}"
    if document.get("n_tiles", 1) > 1:
        image += f", {document['n_tiles']} tiles of {_format_px(document['window_px'])}"
    if document.get("camera_px"):
        image = f"{_format_px(document['camera_px'])} of a camera, in the graph to {image}"
    return image


def _describe_region(document: Document) -> str:
    roi = document["preprocess"].get("roi")
    if roi is None:
        return "the whole image"
    height, width = document["levels"][0]["grid"]
    cells = document["coarse_cells"]
    n_modelled = height * width if cells is None else len(cells)
    share = Roi(roi["source_px"], roi["png"]).mask.mean()
    return (
        f"{share:.0%} of images of {_format_px(roi['source_px'])}, "
        f"{n_modelled} of {height * width} coarse cells"
    )


def _format_px(size_px: tuple[int, int]) -> str:
    return f"{size_px[0]}x{size_px[1]} px"
