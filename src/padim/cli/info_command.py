"""``padim info``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from padim.cli import options
from padim.cli.console import result


def info(
    file: Annotated[Path, typer.Argument(help="A model file.")],
    json_output: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Print everything a model file says of itself; its tensors are checked as well."""
    from padim.memory import format_bytes
    from padim.state import load_state

    state = load_state(file)
    backbone_bytes = sum(t.numel() * t.element_size() for t in state.trunk.values())
    document: dict[str, Any] = {
        **state.metadata(),
        "file_bytes": file.stat().st_size,
        "store": str(state.whitening[0].dtype).removeprefix("torch."),
        "backbone_bytes": backbone_bytes,
        "n_dims": state.pyramid.n_dims,
    }
    recipe, preprocess = state.recipe, state.preprocess
    cropped = f", centre crop {preprocess.crop_fraction:g}" if preprocess.crop_fraction < 1 else ""
    score = (
        f"mean of the hottest {recipe.score_fraction:.2%}" if recipe.score_fraction else "maximum"
    )
    grids = " -> ".join(
        f"{level.n_dims} dims at {level.grid[0]}x{level.grid[1]}" for level in state.pyramid.levels
    )
    lines = {
        "file": f"{file}, {format_bytes(document['file_bytes'])}, "
        f"format {document['format_version']}",
        "fitted on": f"{state.count} images",
        "backbone": f"{state.spec.name}, taps {', '.join(map(str, state.spec.taps))}, "
        + (f"inside, {format_bytes(backbone_bytes)}" if state.trunk else "not inside"),
        "weights": f"sha256 {state.weights_sha256}",
        "licence": state.spec.licence,
        "levels": grids,
        "recipe": recipe.name,
        "image": f"{preprocess.size_px[0]}x{preprocess.size_px[1]} px, "
        f"{preprocess.resample}{cropped}",
        "eps": ", ".join(f"{eps:.4g}" for eps in state.eps)
        + f" ({recipe.eps_rule} {recipe.eps:g})",
        "blur": f"sigma {recipe.sigma_px:g} px",
        "image score": score,
        "precision": f"{state.precision}, stored as {document['store']}",
        "calibration": "none: scores carry no label yet",
        "made with": ", ".join(f"{name} {version}" for name, version in state.versions.items()),
    }
    width = max(map(len, lines))
    result(document, "\n".join(f"{key.ljust(width)}  {value}" for key, value in lines.items()))
