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
from padim.cli.bars import bars
from padim.cli.cluster import hire, require_cluster
from padim.cli.console import SKIP_ADVICE, Output, result, say
from padim.cli.fit_command import prepare_within
from padim.cli.images import (
    measure_sizes,
    require_apart,
    require_no_images,
    require_writable,
    say_left_out,
)
from padim.cli.options import option
from padim.datasets import Category, describe, read_dataset
from padim.datasets.left_out import find_left_out_of
from padim.errors import (
    ImageReadError,
    MissingExtraError,
    PadimError,
    UnknownNameError,
    UsageError,
    format_count,
    require_extras,
)
from padim.fitting.settings import FitChoices, FitSettings, settings_with
from padim.images.heatmap import DEFAULT_COLORMAP, colours_of
from padim.memory import resident_bytes
from padim.scoring.engines import n_cores
from padim.workers.processes import Processes

if TYPE_CHECKING:
    from padim.evaluation.job import Plan
    from padim.evaluation.run_folder import Results


class Sinks(TypedDict, total=False):
    """Where the rows of a benchmark go beside its folder."""

    mlflow: Annotated[str, Choice("Send the rows there as well.", "output", "URI")]
    tensorboard: Annotated[Path, Choice("Write the rows there as scalars.", "output", "DIR")]


class Keeping(TypedDict, total=False):
    """What is kept of the results, and of those of before."""

    keep_maps: Annotated[bool, Choice("Keep the maps of the test images, as float16.", "output")]
    overwrite: Annotated[
        bool, Choice("Replace a benchmark of other settings or categories.", "output")
    ]


class Working(TypedDict, total=False):
    """Who does the categories."""

    workers: Annotated[
        int, Choice("Categories at a time, as memory allows. [default: 1]", metavar="N")
    ]
    cluster: Annotated[str, options.CLUSTER]


def benchmark(
    root: Annotated[
        Path, typer.Argument(help="Folder of categories in any known layout, or a manifest.")
    ],
    out: Annotated[Path, option("Folder of the results.", "DIR", "-o", "--out")],
    choices: FitChoices,
    sinks: Sinks,
    keeping: Keeping,
    working: Working,
    category: options.Categories = None,
    layout: options.Layout = None,
    skip_unreadable: options.SkipUnreadable = False,
    seeds: Annotated[int, option("Draw what is random (--dims) K times.", "K")] = 1,
    colormap: Annotated[str, option("Of the pictures: inferno or jet.", "NAME")] = DEFAULT_COLORMAP,
    against: Annotated[
        str | None, option("Compare with the published figures.", "published")
    ] = None,
) -> None:
    """Fit and evaluate every category: tables, curves and pictures."""
    require_extras("fit", "report")
    workers, cluster = working.get("workers", 1), working.get("cluster")
    if working.keys() >= {"workers", "cluster"}:
        raise UsageError("A cluster has workers of its own. Leave --workers or --cluster out.")
    if cluster is not None:
        require_cluster(cluster)
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
    for found in categories:
        listed = {path.parent for path in found.images()} if found.is_listed else ()
        require_apart(out, listed or [root, found.root])
    for number, what in ((workers, "workers"), (seeds, "seeds")):
        if number < 1:
            raise UsageError(f"The number of {what} is {number}, but needs to be 1 or more. Try 1.")
    from padim.evaluation.job import Plan
    from padim.evaluation.tracking import send_to_mlflow, write_tensorboard

    plan = Plan(settings, seeds, skip_unreadable, keeping.get("keep_maps", False), colormap)
    is_new = keeping.get("overwrite", False)
    outcome = run_benchmark(categories, out, plan, workers, cluster, overwrite=is_new)
    steps = [partial(finish, outcome, out, against)]
    if "mlflow" in sinks:
        steps.append(partial(send_to_mlflow, outcome, sinks["mlflow"]))
    if "tensorboard" in sinks:
        steps.append(partial(write_tensorboard, outcome, sinks["tensorboard"]))
    _do_all(steps)


def run_benchmark(
    categories: tuple[Category, ...],
    out: Path,
    plan: "Plan",
    n_workers: int = 1,
    cluster: str | None = None,
    *,
    overwrite: bool = False,
) -> "Results":
    """Prepare a fit and run it over categories, by as many workers as there can be."""
    from padim.evaluation.job import Watcher
    from padim.evaluation.run import run
    from padim.fitting.prepare import find_white

    require_writable(out)
    require_no_images(out)
    settings = plan.settings
    n_train = max(len(found.train) for found in categories)
    files = [path for found in categories for path in found.images()]
    largest_px, words = measure_sizes(files, settings.reading)
    say(f"{describe(categories)}; images {words}.")
    say_left_out(find_left_out_of(categories))
    settings = find_white(settings, [path for found in categories for path in found.train])
    source_px = _find_source_px(categories, settings)
    fitter, forecast = prepare_within(settings, largest_px, n_train, source_px=source_px)
    n_workers = min(n_workers, len(categories) * plan.n_seeds)
    if settings.max_bytes is not None:
        left = settings.max_bytes - resident_bytes()  # this process waits beside the others
        allowed = max(1, left // forecast.peak_bytes)
        if allowed < n_workers:
            say(f"{settings.max_memory} allow {allowed} at a time.")
        n_workers = min(n_workers, allowed)
    if n_workers > 1 and settings.n_threads is None:
        settings = replace(settings, n_threads=max(1, n_cores() // n_workers))
    with hire(cluster, settings.n_threads, fitter.embedder.device.type) as found, bars() as bar:
        if found is not None:
            settings = replace(settings, n_threads=found.n_threads)
        plan = replace(plan, settings=settings, source_px=source_px)
        workers = found or (Processes(n_workers) if n_workers > 1 else None)
        watcher = Watcher(say, partial(_begin, bar))
        return run(categories, plan, out, watcher, fitter, workers, overwrite=overwrite)


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
    from padim.evaluation.published import describe_differences
    from padim.evaluation.run_folder import markdown

    places = (
        f"Every metric: {out / 'results.md'}, results.csv, results.json. "
        f"Scores: {out / 'images.jsonl'}.\n"
        f"ROC curves: {out / 'roc_curve.png'}. Pictures: {out / 'pictures'}. "
        f"Models: {out / 'models'}."
    )
    if against is not None:
        places = f"{describe_differences(outcome)}\n\n{places}"
    if outcome.rows or not outcome.failed:
        result(outcome.document(), f"{markdown(outcome, is_for_terminal=True)}\n{places}")
    if not outcome.failed:
        return
    reasons = " ".join(f"{failure.category}: {failure.message}" for failure in outcome.failed)
    if Output.can_skip and any(one.type == ImageReadError.__name__ for one in outcome.failed):
        reasons += f" {SKIP_ADVICE}"
    count = format_count(len(outcome.failed) + len(outcome.rows), "category", "categories")
    raise PadimError(f"{len(outcome.failed)} of {count} failed. {reasons}")


def _do_all(steps: Iterable[Callable[[], None]]) -> None:
    """Take every step, also when one fails; then say what went wrong."""
    errors: list[PadimError] = []
    for step in steps:
        try:
            step()
        except PadimError as error:
            errors.append(error)
    if errors:
        raise errors[0] if len(errors) == 1 else PadimError(" ".join(map(str, errors)))


def _begin(bar: Progress, name: str, n_images: int) -> Callable[[int], None]:
    """Show a bar for a phase of a category; two phases of a fit may go on side by side."""
    category, _, _ = name.rpartition(": ")
    for task in bar.tasks:
        if task.finished or not task.description.startswith(f"{category}: "):
            bar.remove_task(task.id)
    added = bar.add_task(name, total=n_images)
    return lambda n_done: bar.advance(added, n_done)
