"""``padim report``."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from padim.cli.bars import phases
from padim.cli.console import result, warn
from padim.cli.images import require_place
from padim.cli.options import option
from padim.errors import PathMissingError, UsageError, format_count, require_extras
from padim.memory import format_bytes

_PAGE = b"<!doctype html"  # how a report begins


def report(
    run: Annotated[Path, typer.Argument(help="Folder that padim benchmark wrote.")],
    out: Annotated[
        Path | None, option("The HTML file; else RUN/report.html.", "FILE", "-o", "--out")
    ] = None,
    full_size: Annotated[
        bool, option("Keep images at their size, not as thumbnails.", None, "--full-size")
    ] = False,
    data: Annotated[Path | None, option("Where the dataset is, if it has moved.", "ROOT")] = None,
) -> None:
    """Write a benchmark as one HTML file: metrics, curves, images."""
    require_extras("report")
    from padim.report.page import write_report

    if data is not None and not data.is_dir():
        raise PathMissingError(data)
    if out is not None:
        require_place(out)
        if out.is_dir():
            raise PathMissingError(out)
        _require_page(out)
    with phases() as begin:
        written = write_report(
            run, out, full_size=full_size, data=data, begin=partial(begin, "draw")
        )
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
    result(document, f"Report: {written.path}, {format_count(written.n_images, 'image')}, {size}.")


def _require_page(out: Path) -> None:
    """Make sure that no file is lost but an older report."""
    if out.is_file():
        with out.open("rb") as file:
            start = file.read(len(_PAGE))
        if start and start.lower() != _PAGE:
            raise UsageError(
                f"{out} is there and no HTML file, but would be replaced by one. Name another, or "
                "delete it first."
            )
