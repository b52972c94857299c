"""``padim export``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from padim.cli import options
from padim.cli.console import result, say
from padim.cli.images import require_writable
from padim.datasets import expand
from padim.errors import UsageError


def export(
    model: Annotated[Path, typer.Argument(help="A model file.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FILE", help="The .onnx or .xml file to write.")
    ],
    verify: Annotated[
        list[Path],
        typer.Option("--verify", metavar="IMAGES", help="Images to compare with torch on."),
    ],
    to: Annotated[str, typer.Option("--to", metavar="NAME", help="onnx or openvino.")] = "onnx",
    batch: Annotated[
        str, typer.Option("--batch", metavar="N", help="Images at a time, or dynamic.")
    ] = "dynamic",
    store: options.Store = "float16",
    weights: options.Weights = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Write a model as a graph for ONNX Runtime or OpenVINO, compared with torch."""
    if batch != "dynamic" and not batch.isdecimal():
        raise UsageError(f"The batch is {batch!r}, but needs to be dynamic or a whole number.")
    images = expand(verify, recursive=False)
    require_writable(out.parent)
    from padim import export as exporting
    from padim.memory import format_bytes

    say(f"Comparing on {len(images)} images.")
    parity = exporting.export(
        model,
        out,
        images,
        to=to,
        store=store,
        n_batch=None if batch == "dynamic" else int(batch),
        weights=weights,
    )
    parts = [out, out.with_suffix(".bin")] if to == "openvino" else [out]
    n_bytes = sum(part.stat().st_size for part in parts)
    document = {"file": str(out), "file_bytes": n_bytes, **asdict(parity)}
    result(
        document,
        f"{' and '.join(map(str, parts))}: {format_bytes(n_bytes)}. Differs from torch by at most "
        f"{parity.map_error:.0e} in the maps, {parity.score_error:.0e} in the scores (relative).",
    )
