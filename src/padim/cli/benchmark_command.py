"""``padim benchmark``."""

from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress, TaskID

from padim.backbones import DEFAULT_BACKBONE
from padim.cli import options
from padim.cli.console import bars, result, say
from padim.cli.fit_command import prepared
from padim.cli.images import require_apart, require_writable, sizes
from padim.datasets import Category, describe, read_root
from padim.errors import MissingExtraError, PadimError, UnknownNameError, UsageError
from padim.images.heatmap import DEFAULT_COLORMAP, colours_of
from padim.memory import parse_bytes, resident_bytes
from padim.recipes import DEFAULT_RECIPE
from padim.scoring.engines import n_cores

if TYPE_CHECKING:
    from padim.evaluation.run_folder import Results


def benchmark(
    root: Annotated[
        Path, typer.Argument(help="Folder of categories in any known layout, or a manifest.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder of the results.")],
    category: Annotated[
        list[str] | None, typer.Option("--category", metavar="NAME", help="Only this; repeatable.")
    ] = None,
    layout: options.Layout = None,
    backbone: options.Backbone = DEFAULT_BACKBONE,
    recipe: options.Recipe = DEFAULT_RECIPE,
    size: options.Size = None,
    taps: options.Taps = None,
    dims: options.Dims = None,
    eps: options.Eps = None,
    eps_rule: options.EpsRule = None,
    sigma: options.Sigma = None,
    score_fraction: options.ScoreFraction = None,
    weights: options.Weights = None,
    device: options.Device = "auto",
    precision: options.Precision = None,
    store: options.Store = "float16",
    engine: options.Engine = "auto",
    threads: options.Threads = None,
    max_memory: options.MaxMemory = None,
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", help="Categories at a time, as memory allows.")
    ] = 1,
    seeds: Annotated[
        int, typer.Option("--seeds", metavar="K", help="Draw what is random (--dims) K times.")
    ] = 1,
    keep_maps: Annotated[
        bool, typer.Option("--keep-maps", help="Keep the maps of the test images, as float16.")
    ] = False,
    colormap: Annotated[
        str, typer.Option("--colormap", metavar="NAME", help="Of the pictures: inferno or jet.")
    ] = DEFAULT_COLORMAP,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="published", help="Compare with the published figures."),
    ] = None,
    mlflow: Annotated[
        str | None, typer.Option("--mlflow", metavar="URI", help="Send the rows there as well.")
    ] = None,
    tensorboard: Annotated[
        Path | None,
        typer.Option("--tensorboard", metavar="DIR", help="Write the rows there as scalars."),
    ] = None,
    skip_unreadable: options.SkipUnreadable = False,
) -> None:
    """Fit and evaluate every category, and write tables, ROC curves and pictures."""
    for package, wanted in (("mlflow", mlflow), ("tensorboard", tensorboard)):
        if wanted is not None and find_spec(package) is None:
            raise MissingExtraError(package, "tracking")
    if against not in (None, "published"):
        raise UnknownNameError("table to compare with", against, ("published",))
    colours_of(colormap)  # refused before any work
    if tensorboard is not None:
        require_writable(tensorboard)
    categories = read_root(root, category or (), layout)
    require_apart(out, [root, *(found.root for found in categories)])
    outcome = run_benchmark(
        categories,
        out,
        backbone,
        recipe,
        max_memory,
        skip_unreadable,
        n_workers=_at_least_one(workers, "workers"),
        n_seeds=_at_least_one(seeds, "seeds"),
        keep_maps=keep_maps,
        colormap=colormap,
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
        engine=engine,
        n_threads=threads,
    )
    steps = [partial(finish, outcome, out, against)]
    if mlflow is not None:
        from padim.evaluation.tracking import send_to_mlflow

        steps.append(partial(send_to_mlflow, outcome, mlflow))
    if tensorboard is not None:
        from padim.evaluation.tracking import write_tensorboard

        steps.append(partial(write_tensorboard, outcome, tensorboard))
    _do_all(steps)


def run_benchmark(
    categories: tuple[Category, ...],
    out: Path,
    backbone: str,
    recipe: str,
    max_memory: str | None,
    skip_unreadable: bool,
    *,
    n_workers: int = 1,
    n_seeds: int = 1,
    keep_maps: bool = False,
    colormap: str = DEFAULT_COLORMAP,
    **settings: Any,
) -> "Results":
    """Prepare a fit and run it over categories, with progress bars.

    Args:
        categories: What to do.
        out: Folder of the results.
        backbone: Short name of the backbone.
        recipe: Name of the recipe.
        max_memory: What the user allows.
        skip_unreadable: Whether to go on without images that cannot be read.
        n_workers: Categories at a time, fewer where memory does not allow them.
        n_seeds: How often what is random is drawn anew.
        keep_maps: Whether the maps of the test images are kept.
        colormap: Of the pictures.
        **settings: As for ``padim.fitting.prepare.prepare``.
    """
    from padim.evaluation.job import Plan
    from padim.evaluation.run import run

    require_writable(out)
    n_train = max(len(found.train) for found in categories)
    largest_px, words = sizes(path for found in categories for path in found.images())
    say(f"{describe(categories)}; images {words}.")
    fitter, forecast = prepared(backbone, recipe, max_memory, largest_px, n_train, **settings)
    n_workers = min(n_workers, len(categories) * n_seeds)
    if max_memory is not None:
        left = parse_bytes(max_memory) - resident_bytes()  # this process waits beside the others
        allowed = max(1, left // forecast.peak_bytes)
        if allowed < n_workers:
            say(f"{max_memory} allow {allowed} at a time.")
        n_workers = min(n_workers, allowed)
    if n_workers > 1 and settings.get("n_threads") is None:
        settings["n_threads"] = max(1, n_cores() // n_workers)
    plan = Plan(
        {"backbone_name": backbone, "recipe_name": recipe, **settings},
        n_seeds,
        skip_unreadable,
        keep_maps,
        colormap,
    )
    with bars() as bar:
        watcher = _BarWatcher(bar)
        return run(categories, plan, out, watcher, fitter=fitter, n_workers=n_workers)


def finish(outcome: "Results", out: Path, against: str | None = None) -> None:
    """Print the tables and where everything is.

    Raises:
        PadimError: A category failed.
    """
    from padim.evaluation.published import difference_words
    from padim.evaluation.run_folder import markdown

    places = (
        f"Every metric: {out / 'results.md'}, results.csv, results.json. "
        f"Scores: {out / 'images.jsonl'}.\n"
        f"ROC curves: {out / 'roc_curve.png'}. Pictures: {out / 'pictures'}. "
        f"Models: {out / 'models'}."
    )
    if against is not None:
        places = f"{difference_words(outcome)}\n\n{places}"
    if outcome.rows or not outcome.failed:
        result(outcome.document(), f"{markdown(outcome, is_for_terminal=True)}\n{places}")
    if not outcome.failed:
        return
    reasons = " ".join(f"{failure.category}: {failure.message}" for failure in outcome.failed)
    n_categories = len(outcome.failed) + len(outcome.rows)
    raise PadimError(f"{len(outcome.failed)} of {n_categories} categories failed. {reasons}")


def _do_all(steps: Iterable[Callable[[], None]]) -> None:
    """Take every step, also when one fails; then say what went wrong."""
    errors: list[PadimError] = []
    for step in steps:
        try:
            step()
        except PadimError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise PadimError(" ".join(map(str, errors)))


def _at_least_one(number: int, what: str) -> int:
    if number < 1:
        raise UsageError(f"The number of {what} is {number}, but needs to be 1 or more. Try 1.")
    return number


class _BarWatcher:
    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task: TaskID | None = None

    def say(self, text: str) -> None:
        say(text)

    def progress(self, description: str, n_images: int) -> Callable[[int], None]:
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = task = self._bar.add_task(description, total=n_images)
        return lambda n_done: self._bar.advance(task, n_done)
