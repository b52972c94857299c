"""``padim update``, ``padim forget`` and ``padim merge``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from padim.cli import options
from padim.cli.console import phases, result
from padim.cli.images import describe_threshold
from padim.cli.options import option
from padim.datasets import expand, expand_good
from padim.errors import format_count
from padim.scoring.prediction import decide

if TYPE_CHECKING:
    from padim.model.state import ModelState

Model = Annotated[Path, typer.Argument(help="A model file, fitted with --keep-moments.")]
Images = Annotated[list[Path], typer.Argument(help="Images and folders of images.")]
Recalibrate = Annotated[
    list[Path] | None,
    option(
        "Images of the model to set its threshold by, each left out in turn.",
        "GOOD",
        "--recalibrate",
    ),
]


def update(
    model: Model,
    images: Images,
    recalibrate: Recalibrate = None,
    recursive: options.Recursive = False,
    weights: options.Weights = None,
) -> None:
    """Add good images to a model. It is as if it had been fitted on them as well."""
    _change("update", model, images, recalibrate, recursive, weights)


def forget(
    model: Model,
    images: Images,
    recalibrate: Recalibrate = None,
    recursive: options.Recursive = False,
    weights: options.Weights = None,
) -> None:
    """Take images out of a model. It is as if it had never been fitted on them."""
    _change("forget", model, images, recalibrate, recursive, weights)


def merge(
    first: Model,
    second: Annotated[Path, typer.Argument(help="Another, fitted alike.")],
    out: Annotated[Path, option("The model file to write.", "FILE", "-o", "--out")],
    weights: options.Weights = None,
) -> None:
    """Join two models into one, fitted on the images of both."""
    from padim.fitting import update as learning

    with phases() as begin:
        changed = learning.merge(first, second, out, weights=weights, begin=begin)
    _tell(out, changed.state)


def _change(
    way: Literal["update", "forget"],
    model: Path,
    images: list[Path],
    recalibrate: list[Path] | None,
    recursive: bool,
    weights: Path | None,
) -> None:
    chosen = (expand_good if way == "update" else expand)(images, recursive=recursive)
    used = expand_good(recalibrate or (), recursive=recursive)
    from padim.fitting import update as learning

    change = {"update": learning.update, "forget": learning.forget}[way]
    with phases() as begin:
        changed = change(model, chosen, used, weights=weights, begin=begin)
    _tell(model, changed.state)


def _tell(path: Path, state: "ModelState") -> None:
    calibration = state.calibration
    text = f"{path}: made of {format_count(state.count, 'image')} now."
    if calibration is not None:
        text += f" {describe_threshold(decide(calibration))}"
    stale = calibration.stale if calibration else None
    result({"model": str(path), "count": state.count, "stale": stale}, text)
