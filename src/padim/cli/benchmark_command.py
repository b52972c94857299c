"""``padim benchmark``."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer
from rich.progress import Progress

from padim.choices import Choice
from padim.cli import options
from padim.cli.console import bars, result, say
from padim.cli.fit_command import prepare_within
from padim.cli.images import require_apart, require_writable, sizes
from padim.datasets import Category, describe, read_dataset
from padim.errors import MissingExtraError, PadimError, UnknownNameError, UsageError
from padim.fitting.settings import FitChoices, FitSettings, settings_with
from padim.images.heatmap import DEFAULT_COLORMAP, colours_of
from padim.memory import resident_bytes
from padim.scoring.engines import n_cores

if TYPE_CHECKING:
    from padim.evaluation.run_folder import Results


class Sinks(TypedDict, total=False):
    """Where the rows of a benchmark go beside its folder."""

    mlflow: Annotated[str, Choice("Send the rows there as well.", "output", "URI")]
    tensorboard: Annotated[Path, Choice("Write the rows there as scalars.", "output", "DIR")]


def benchmark(
    root: Annotated[
        Path, typer.Argument(help="Folder of categories in any known layout, or a manifest.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder of the results.")],
    choices: FitChoices,
    sinks: Sinks,
    category: options.Categories = None,
    layout: options.Layout = None,
    skip_unreadable: options.SkipUnreadable = False,
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
) -> None:
    """Fit and evaluate every category: tables, curves and pictures."""
    settings = settings_with(**choices)
    for package in sinks:
        if find_spec(package) is None:
            raise MissingExtraError(package, "tracking")
    if against not in (None, "published"):
        raise UnknownNameError("table to compare with", against, ("published",))
    colours_of(colormap)  # refused before any work
    if "tensorboard" in sinks:
        require_writable(sinks["tensorboard"])
    categories = read_dataset(root, category or (), layout)
    require_apart(out, [root, *(found.root for found in categories)])
    outcome = run_benchmark(
        categories,
        out,
        settings,
        n_workers=_require_one(workers, "workers"),
        n_seeds=_require_one(seeds, "seeds"),
        skip_unreadable=skip_unreadable,
        keep_maps=keep_maps,
        colormap=colormap,
    )
    steps = [partial(finish, outcome, out, against)]
    if "mlflow" in sinks:
        from padim.evaluation.tracking import send_to_mlflow

        steps.append(partial(send_to_mlflow, outcome, sinks["mlflow"]))
    if "tensorboard" in sinks:
        from padim.evaluation.tracking import write_tensorboard

        steps.append(partial(write_tensorboard, outcome, sinks["tensorboard"]))
    _do_all(steps)


def run_benchmark(
    categories: tuple[Category, ...],
    out: Path,
    settings: FitSettings,
    *,
    n_workers: int = 1,
    n_seeds: int = 1,
    skip_unreadable: bool = False,
    keep_maps: bool = False,
    colormap: str = DEFAULT_COLORMAP,
) -> "Results":
    """Prepare a fit and run it over categories, with progress bars.

    Args:
        categories: What to do.
        out: Folder of the results.
        settings: Of every fit.
        n_workers: Categories at a time, fewer where memory does not allow them.
        n_seeds: How often what is random is drawn anew.
        skip_unreadable: Whether to go on without images that cannot be read.
        keep_maps: Whether the maps of the test images are kept.
        colormap: Of the pictures.
    """
    from padim.evaluation.job import Plan
    from padim.evaluation.run import run

    require_writable(out)
    n_train = max(len(found.train) for found in categories)
    largest_px, words = sizes(path for found in categories for path in found.images())
    say(f"{describe(categories)}; images {words}.")
    source_px = _find_source_px(categories, settings)
    fitter, forecast = prepare_within(settings, largest_px, n_train, source_px=source_px)
    n_workers = min(n_workers, len(categories) * n_seeds)
    if settings.max_bytes is not None:
        left = settings.max_bytes - resident_bytes()  # this process waits beside the others
        allowed = max(1, left // forecast.peak_bytes)
        if allowed < n_workers:
            say(f"{settings.max_memory} allow {allowed} at a time.")
        n_workers = min(n_workers, allowed)
    if n_workers > 1 and settings.n_threads is None:
        settings = replace(settings, n_threads=max(1, n_cores() // n_workers))
    plan = Plan(settings, n_seeds, skip_unreadable, keep_maps, colormap, source_px)
    with bars() as bar:
        watcher = _BarWatcher(bar)
        return run(categories, plan, out, watcher, fitter=fitter, n_workers=n_workers)


def _find_source_px(
    categories: Iterable[Category], settings: FitSettings
) -> tuple[int, int] | None:
    """The one size of the images of every category, where a fit has to know it."""
    from padim.fitting.prepare import find_source_px

    found = {find_source_px(settings, category.train): category.name for category in categories}
    if len(found) > 1:
        words = ", ".join(f"{name} {size[0]}x{size[1]}" for size, name in found.items() if size)
        raise UsageError(
            f"The categories are of several sizes ({words} px), but a region of interest and tiles "
            "are for one. Name one with --category, or give --size-px."
        )
    return next(iter(found))


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


def _require_one(number: int, what: str) -> int:
    if number < 1:
        raise UsageError(f"The number of {what} is {number}, but needs to be 1 or more. Try 1.")
    return number


class _BarWatcher:
    """Shows a bar for each phase of a category; two phases of a fit may go on side by side."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar

    def say(self, text: str) -> None:
        say(text)

    def progress(self, description: str, n_images: int) -> Callable[[int], None]:
        category, _, _ = description.rpartition(": ")
        for task in self._bar.tasks:
            if task.finished or not task.description.startswith(f"{category}: "):
                self._bar.remove_task(task.id)
        added = self._bar.add_task(description, total=n_images)
        return lambda n_done: self._bar.advance(added, n_done)
