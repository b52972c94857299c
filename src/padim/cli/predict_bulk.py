"""``padim predict --parquet``: results of many images."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from padim.cli.bars import progress
from padim.cli.console import say
from padim.cli.images import Unreadable
from padim.cli.tally import Tally, saying_how_far
from padim.errors import UsageError, format_count, require_extras
from padim.images.stream import STDIN
from padim.scoring.bulk import BulkResults

if TYPE_CHECKING:
    from padim.model.spread import Scorers
    from padim.scoring.predictor import Predictor


def require_bulk(chosen: Sequence[Path], maps: str | None) -> None:
    """Make sure, before any work, that images can be scored in parts."""
    if maps not in (None, "zarr"):
        raise UsageError(
            f"--maps {maps} is a file for each image, but --parquet writes maps of many into one. "
            "Take --maps zarr."
        )
    if STDIN in chosen:
        raise UsageError("--parquet takes files, but - is a pipe. Leave --parquet out.")
    require_extras("parquet", *["zarr"] * (maps is not None))


def score_bulk(
    chosen: Sequence[Path],
    loaded: "Predictor",
    out: Path,
    maps: str | None,
    min_region_px: int,
    unreadable: Unreadable,
    tally: Tally,
    scorers: "Scorers | None" = None,
) -> None:
    """Score images into Parquet files, here or by workers, and count them."""
    with (
        BulkResults(
            loaded, chosen, out, maps=maps is not None, min_region_px=min_region_px
        ) as results,
        progress("predict", len(chosen)) as advance,
        saying_how_far(tally, len(chosen)),
    ):
        if results.replaced:
            say(f"{out} has parts of another model or other options. This run begins anew.")
        for record in results.find_done(unreadable.callback):
            tally.add(record)
            advance(1)
        if tally.n_images:
            count = format_count(tally.n_images, "image")
            say(f"{count} of parts that are whole need not be scored again.")

        def note(differences: tuple[str, ...]) -> None:
            tally.note(differences)
            advance(1)

        by = None if scorers is None else partial(scorers.pack_parts, loaded)
        for record in results.score(unreadable.callback, note, by):
            tally.add(record)
        results.finish()


def tell_places(out: Path, maps: str | None) -> str:
    """Where results are, in words."""
    also = "" if maps is None else f" Maps: {out / 'maps.zarr'}."
    return f"Scores and regions: {out / 'predictions.parquet'}.{also}"
