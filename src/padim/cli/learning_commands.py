"""``padim update``, ``padim forget`` and ``padim merge``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from padim.cli import options
from padim.cli.console import phases, result
from padim.cli.images import threshold_words
from padim.datasets import expand
from padim.scoring.prediction import decide

if TYPE_CHECKING:
    from padim.model.state import ModelState

Model = Annotated[Path, typer.Argument(help="A model file, fitted with --keep-moments.")]
Images = Annotated[list[Path], typer.Argument(help="Images and folders of images.")]
Recalibrate = Annotated[
    list[Path] | None,
    typer.Option(
        "--recalibrate",
        metavar="GOOD",
        help="Images of the model to set its threshold by, each left out in turn.",
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
    chosen, used = _expand(images, recalibrate, recursive)
    from padim.fitting import update as learning

    with phases() as begin:
        changed = learning.update(model, chosen, used, weights=weights, begin=begin)
    _say(model, changed.state)


def forget(
    model: Model,
    images: Images,
    recalibrate: Recalibrate = None,
    recursive: options.Recursive = False,
    weights: options.Weights = None,
) -> None:
    """Take images out of a model. It is as if it had never been fitted on them."""
    chosen, used = _expand(images, recalibrate, recursive)
    from padim.fitting import update as learning

    with phases() as begin:
        changed = learning.forget(model, chosen, used, weights=weights, begin=begin)
    _say(model, changed.state)


def merge(
    first: Model,
    second: Annotated[Path, typer.Argument(help="Another, fitted alike.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FILE", help="The model file to write.")
    ],
    weights: options.Weights = None,
) -> None:
    """Join two models into one, fitted on the images of both."""
    from padim.fitting import update as learning

    with phases() as begin:
        changed = learning.merge(first, second, out, weights=weights, begin=begin)
    _say(out, changed.state)


def _expand(
    images: list[Path], recalibrate: list[Path] | None, recursive: bool
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    used = expand(recalibrate, recursive=recursive) if recalibrate else ()
    return tuple(expand(images, recursive=recursive)), tuple(used)


def _say(path: Path, state: "ModelState") -> None:
    text = f"{path}: made of {state.count} images now."
    if state.calibration is not None:
        text += f" {threshold_words(decide(state.calibration))}"
    document = {
        "model": str(path),
        "count": state.count,
        "stale": state.calibration.stale if state.calibration else None,
    }
    result(document, text)
