"""``padim update``, ``padim forget`` and ``padim merge``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from padim.choices import require_path
from padim.cli import options
from padim.cli.bars import phases
from padim.cli.console import result, warn
from padim.cli.images import describe_threshold, require_place, say_left_out
from padim.cli.options import option
from padim.cli.shards import merge_shards
from padim.datasets import expand
from padim.datasets.folder import drop_repeats
from padim.datasets.left_out import LeftOut
from padim.datasets.normal import find_good_images
from padim.errors import UsageError, format_count
from padim.scoring.engines import is_graph
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
    skip_known: Annotated[
        bool,
        option("Leave out images that the model was made of.", None, "--skip-known"),
    ] = False,
    weights: options.Weights = None,
) -> None:
    """Add good images to a model. It is as if it had been fitted on them as well."""
    added = find_good_images(images, recursive=recursive)
    used = find_good_images(recalibrate or (), recursive=recursive)
    say_left_out(LeftOut(masks=drop_repeats((*added.masks, *used.masks))))
    chosen = added.paths
    from padim.fitting.update import add_images

    known: list[Path] = []
    with phases() as begin:
        tell = known.extend if skip_known else None
        changed, unlike = add_images(model, chosen, used.paths, tell, weights=weights, begin=begin)
    if unlike:
        warn(unlike)
    if len(known) == len(chosen):
        text = f"{model}: knows {format_count(len(known), 'image')} already. Nothing was changed."
    else:
        text = _describe(model, changed.state)
        if known:
            text += f" Left out, since it knows them already: {len(known)}."
    result({**_document(model, changed.state), "n_known": len(known)}, text)


def forget(
    model: Model,
    images: Images,
    recalibrate: Recalibrate = None,
    recursive: options.Recursive = False,
    weights: options.Weights = None,
) -> None:
    """Take images out of a model. It is as if it had never been fitted on them."""
    chosen = expand(images, recursive=recursive)
    used = find_good_images(recalibrate or (), recursive=recursive)
    say_left_out(LeftOut(masks=used.masks))
    from padim.fitting import update as learning

    with phases() as begin:
        changed = learning.forget(model, chosen, used.paths, weights=weights, begin=begin)
    result(_document(model, changed.state), _describe(model, changed.state))


def merge(
    files: Annotated[
        list[Path],
        typer.Argument(help="Two models, fitted with --keep-moments; or files of all shards."),
    ],
    out: Annotated[Path, option("The model file to write.", "FILE", "-o", "--out")],
    weights: options.Weights = None,
) -> None:
    """Join two models, or all shards of a fit, into one."""
    from padim.fitting import update as learning
    from padim.model.file import find_content
    from padim.model.pair import moments_path, next_moments_path

    require_place(out, moments_path(out), next_moments_path(out))
    files = [require_path(path) for path in files]
    if {find_content(path) for path in files if not is_graph(path)} & {"shard", "scores"}:
        merge_shards(files, out, weights)
        return
    if len(files) != 2:
        raise UsageError(f"{len(files)} files were named, but two models are joined at a time.")
    first, second = files
    with phases() as begin:
        changed = learning.merge(first, second, out, weights=weights, begin=begin)
    result(_document(out, changed.state), _describe(out, changed.state))


def _describe(path: Path, state: "ModelState") -> str:
    text = f"{path}: made of {format_count(state.count, 'image')} now."
    if state.calibration is not None:
        text += f" {describe_threshold(decide(state.calibration))}"
    return text


def _document(path: Path, state: "ModelState") -> dict[str, object]:
    stale = state.calibration.stale if state.calibration else None
    return {"model": str(path), "count": state.count, "stale": stale}
