"""``padim fit --shard`` and ``padim merge`` of what came of it."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

from padim.choices import Choice
from padim.cli import options
from padim.cli.bars import phases
from padim.cli.console import result, say
from padim.cli.images import (
    Unreadable,
    describe_threshold,
    measure_sizes,
    require_names,
    require_place,
)
from padim.errors import UsageError, format_count
from padim.fitting.settings import FitSettings
from padim.memory import format_bytes
from padim.scoring.prediction import decide

if TYPE_CHECKING:
    from padim.fitting.looks import Fitted


class Spreading(TypedDict, total=False):
    """How a fit is spread: over a cluster, or shard by shard."""

    cluster: Annotated[str, options.CLUSTER]
    shard: Annotated[
        str,
        Choice("Look at this part of the images alone, such as 3/16; merge all.", metavar="K/N"),
    ]
    second_look: Annotated[
        Path, Choice("Of a shard: score its images under this model.", metavar="MODEL")
    ]
    hashes: Annotated[
        Path, Choice("Of shards: the list of sha256sum, so that not all are read.", metavar="FILE")
    ]


def fit_shard(
    out: Path,
    settings: FitSettings,
    images: Sequence[Path],
    spreading: Spreading,
    unreadable: Unreadable,
) -> None:
    """Take a look at a shard of good images and write what it gave: the first, or the second."""
    from padim.fitting import shard_images, shards
    from padim.model.pair import moments_path
    from padim.model.shard_file import Shard, save_look, save_scores

    second_look, hashes = spreading.get("second_look"), spreading.get("hashes")
    if "shard" not in spreading:
        raise UsageError(
            "--second-look and --hashes are for shards. Name one with --shard, such as 1/1."
        )
    if settings.white == "auto":
        raise UsageError("A shard does not know the white of others. Give --white as a number.")
    part = Shard.parse(spreading["shard"])
    require_names(out)
    require_place(out)
    if second_look is not None:
        _require_other(out, second_look, moments_path(second_look))
    known = None if hashes is None else shard_images.read_hashes(hashes)
    chosen = shard_images.choose_images(images, part, known)
    say(f"Shard {part}: {format_count(len(chosen), 'image')} of {len(images)}.")
    if second_look is not None:
        with phases() as begin:
            second = shards.SecondLook.open(
                second_look, settings.weights, settings.n_threads, begin
            )
            found = second.look(chosen, part, settings.drop_outliers, begin)
        save_scores(found, second.state, out)
        count = len(found.paths)
        if n_unknown := len(chosen) - len(found.paths):
            verb = "is" if n_unknown == 1 else "are"
            say(
                f"{format_count(n_unknown, 'image')} {verb} not in {second_look}, and left out, "
                "such as outliers that were dropped."
            )
    else:
        from padim.cli.fit_command import prepare_within
        from padim.fitting.prepare import find_source_px

        largest_px, _ = measure_sizes(list(chosen), settings.reading)
        source_px = find_source_px(settings, images)
        fitter, _ = prepare_within(
            settings, largest_px, len(chosen), source_px=source_px, scratch=out.parent
        )
        with phases() as begin:
            look = shards.look_at_shard(fitter, chosen, part, begin, unreadable.callback)
        save_look(look, out)
        count = look.state.count
    unreadable.report()
    document = {
        "file": str(out),
        "shard": str(part),
        "n_images": count,
        "unreadable": unreadable.paths,
    }
    size = format_bytes(out.stat().st_size)
    words = f"{format_count(count, 'image')}, {size}"
    result(document, f"{out}: shard {part}, {words}. Merge all with padim merge.")


def merge_shards(files: Sequence[Path], out: Path, weights: Path | None) -> None:
    """Make a model of looks at all shards, or set its threshold by the second looks."""
    from padim.fitting import shards
    from padim.model.file import find_content
    from padim.model.pair import moments_path

    kinds = {path: find_content(path) for path in files}
    models = [path for path, kind in kinds.items() if kind == "model"]
    looks = [path for path, kind in kinds.items() if kind == "shard"]
    scores = [path for path, kind in kinds.items() if kind == "scores"]
    if others := [path for path, kind in kinds.items() if kind == "moments"]:
        raise UsageError(f"{others[0]} holds the moments of a model, not of a shard. Leave it out.")
    _require_other(out, *looks, *scores)
    _require_other(moments_path(out), *looks, *scores)
    if looks and not models and not scores:
        with phases() as begin:
            state = shards.merge_looks(looks, out, weights=weights, begin=begin)
        result(
            {"model": str(out), "n_train": state.count, "n_shards": len(looks)},
            f"{out}: fitted on {format_count(state.count, 'image')} of "
            f"{format_count(len(looks), 'shard')}. No threshold: take the second look at each "
            f"shard with --second-look {out}.",
        )
        return
    if len(models) != 1 or looks or not scores:
        raise UsageError(
            "Name the first looks at all shards, or one model and the second looks at all shards."
        )
    with phases() as begin:
        fitted = shards.merge_scores(models[0], scores, out, weights=weights, begin=begin)
    document = {
        "model": str(out),
        "n_train": fitted.state.count,
        "n_shards": len(scores),
        "suspects": [
            asdict(one) | {"path": str(fitted.paths[one.index])} for one in fitted.suspects
        ],
        "dropped": [str(fitted.paths[i]) for i in fitted.dropped],
    }
    result(document, _summarise(fitted, out))


def _require_other(out: Path, *files: Path) -> None:
    """Refuse to write over what is read."""
    for file in files:
        if out.resolve() == file.resolve():
            raise UsageError(f"{file} would be written over. Choose another -o.")


def _summarise(fitted: "Fitted", out: Path) -> str:
    from padim.cli.fit_command import list_suspects

    calibration = fitted.state.calibration
    text = f"{out}: fitted on {format_count(fitted.state.count, 'image')}."
    if calibration is not None:
        text += f"\n{describe_threshold(decide(calibration))}"
    text += list_suspects(fitted)
    if calibration is None:
        text += (
            f"\nNo threshold: take the second look at each shard again, under {out}, without "
            "--drop-outliers."
        )
    return text
