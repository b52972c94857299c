"""How far some work is, on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from padim.cli.console import Output, one_line


@contextmanager
def progress(description: str, n_items: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr; what it gives is told of further steps done."""
    with phases() as begin:
        yield begin(description, n_items)


@contextmanager
def phases() -> Iterator[Callable[[str, int], Callable[[int], None]]]:
    """Show a progress bar on stderr for each phase of some work.

    Yields:
        What is told of the name of a phase that begins and its number of steps; gives what is told
        of further steps done.
    """
    with bars() as bar:

        def begin(phase: str, n_items: int) -> Callable[[int], None]:
            task = bar.add_task(phase, total=n_items)
            return lambda n_done: bar.advance(task, n_done)

        yield begin


def bars() -> Progress:
    """Progress bars on stderr, where that is a terminal."""
    console = Console(stderr=True, soft_wrap=True)
    return Progress(
        _NameColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=Output.quiet or not console.is_terminal,
    )


class _NameColumn(ProgressColumn):
    """What is done, as it is named, which may be by a folder."""

    def render(self, task: Task) -> Text:
        return Text(one_line(task.description))


class _RateColumn(ProgressColumn):
    """How many steps are done a second."""

    def render(self, task: Task) -> Text:
        seconds = task.finished_time or task.elapsed
        rate = task.completed / seconds if seconds else 0.0
        words = f"{rate:.3g}/s" if rate < 100 else f"{rate:.0f}/s"
        return Text(words if rate else "", style="progress.data.speed")
