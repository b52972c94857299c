"""``padim report``."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from padim.cli.console import progress, result, warn
from padim.cli.images import require_writable
from padim.errors import PathMissingError, say_number
from padim.memory import format_bytes


def report(
    run: Annotated[Path, typer.Argument(help="Folder that padim benchmark wrote.")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="The HTML file; else RUN/report.html."),
    ] = None,
    full_size: Annotated[
        bool, typer.Option("--full-size", help="Keep images at their size, not as thumbnails.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="ROOT", help="Where the dataset is, if it has moved."),
    ] = None,
) -> None:
    """Write a benchmark as one HTML file: metrics, curves, images."""
    from padim.report.page import write_report

    if data is not None and not data.is_dir():
        raise PathMissingError(data)
    if out is not None:
        if out.is_dir():
            raise PathMissingError(out)
        require_writable(out.parent)
    with ExitStack() as stack:

        def began(n_images: int) -> Callable[[int], None]:
            return stack.enter_context(progress("draw", n_images))

        written = write_report(run, out, full_size=full_size, data=data, began=began)
    document = {
        "report": str(written.path),
        "n_images": written.n_images,
        "n_bytes": written.n_bytes,
        "changed": list(written.changed),
    }
    if written.changed:
        first, *others = written.changed
        more = f" and {len(others)} more" if others else ""
        warn(
            f"Of another size than when they were benchmarked: {first}{more}. Run padim benchmark "
            "again, or name the folder of the dataset with --data ROOT."
        )
    size = format_bytes(written.n_bytes)
    result(document, f"Report: {written.path}, {say_number(written.n_images, 'image')}, {size}.")
