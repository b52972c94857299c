"""``padim export`` and ``padim verify``."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from padim.choices import parse_size
from padim.cli import options
from padim.cli.console import result, warn
from padim.cli.images import require_place
from padim.cli.options import option
from padim.datasets import expand
from padim.errors import UsageError, format_count
from padim.memory import format_bytes
from padim.scoring.description import Description
from padim.scoring.graph_file import graph_parts, read_description
from padim.scoring.prediction import STALE

if TYPE_CHECKING:
    from padim.scoring.parity import Parity


def export(
    model: Annotated[Path, typer.Argument(help="A model file.")],
    out: Annotated[
        Path, option("The .onnx or .xml file to write, or Triton's folder.", "FILE", "-o", "--out")
    ],
    to: Annotated[
        str | None, option("onnx, openvino or triton; when left out, by the file's name.", "NAME")
    ] = None,
    camera: Annotated[
        str | None, option("It takes images of this size and resizes them itself.", "HxW")
    ] = None,
    batch: Annotated[str, option("Images at a time, or dynamic.", "N")] = "dynamic",
    store: options.Store = "float16",
    verify: Annotated[
        list[Path] | None, option("Compare on these, not on the model's samples.", "IMAGES")
    ] = None,
    weights: options.Weights = None,
    verdict: Annotated[
        bool, option("It takes false-alarm rates, and gives label and mask.", None, "--verdict")
    ] = False,
) -> None:
    """Write a model as a graph for ONNX Runtime or OpenVINO. It is kept if it agrees with torch."""
    if batch != "dynamic" and not batch.isdecimal():
        raise UsageError(f"The batch is {batch!r}, but needs to be dynamic or a whole number.")
    images = expand(verify, recursive=False) if verify else ()
    require_place(out)
    from padim.model import export as exporting
    from padim.model.triton import TRITON, place_in_repository

    parity = exporting.export(
        model,
        out,
        images,
        to=to,
        camera_px=parse_size(camera, "camera") if camera is not None else None,
        n_batch=None if batch == "dynamic" else int(batch),
        store=store,
        weights=weights,
        verdict=verdict,
    )
    graph = place_in_repository(out, model) if to == TRITON else out
    parts = graph_parts(graph)
    calibration = Description.read(read_description(graph) or "", graph).calibration
    if calibration is not None and calibration.stale:
        warn(STALE)
    n_bytes = sum(part.stat().st_size for part in parts)
    result(
        {"file": str(graph), "file_bytes": n_bytes, **asdict(parity)},
        f"{' and '.join(map(str, parts))}: {format_bytes(n_bytes)}. {_describe(parity)}",
    )


def verify(
    graph: Annotated[Path, typer.Argument(help="An .onnx or .xml file that padim export wrote.")],
    running: options.Running,
) -> None:
    """Compare an exported graph with torch, on this machine. The samples travel in the graph."""
    from padim.model.opening import verify as verify_graph

    parity = verify_graph(graph, **running)
    result({"file": str(graph), **asdict(parity)}, f"{graph}: {_describe(parity)}")


def _describe(parity: "Parity") -> str:
    count = format_count(parity.n_images, "image")
    return (
        f"On {count} it differs from torch by at most {parity.map_error:.0e} in the map, "
        f"{parity.score_error:.0e} in the score and {parity.level_error:.0e} in those of levels "
        f"(relative; {parity.tolerance:g} is allowed)."
    )
