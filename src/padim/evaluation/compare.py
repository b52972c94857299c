"""Two benchmarks of the same test images, compared image by image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from padim.errors import DatasetError, join_names
from padim.evaluation.record import Record, Settings
from padim.evaluation.run_folder import average_resampled, read_run
from padim.metrics.curves import Floats
from padim.metrics.resamples import Interval, holm, interval, p_value
from padim.metrics.table import METRICS

LEVEL = 0.05  # at which one difference holds, and all together
_LEAST = 1e-6  # what is smaller is rounding


class Pair(NamedTuple):
    """A metric of both, and the first less the second of paired resamples, shape ``(B,)``."""

    first: float
    second: float
    drawn: Floats


@dataclass
class Difference:
    """By how much a metric of one benchmark is above that of another."""

    first: float  # its value in one
    second: float  # in the other
    difference: float  # first less second
    interval: Interval  # 95% of the paired resamples of the difference
    holds: bool  # whether these leave 0 out, on the side of the difference
    p_value: float  # chance of so large a difference where there is none
    adjusted_p_value: float  # the same among all that were compared, by Holm's correction
    holds_among_all: bool  # whether it holds by that, too

    @classmethod
    def of(cls, pair: Pair) -> "Difference":
        """Judge one difference, as if it were the only one."""
        difference, ends = pair.first - pair.second, interval(pair.drawn)
        whole, chance = (difference, *ends), p_value(difference, pair.drawn)
        holds = min(whole) > _LEAST or max(whole) < -_LEAST
        among = holds and chance <= LEVEL
        return cls(pair.first, pair.second, difference, ends, holds, chance, chance, among)


@dataclass(frozen=True)
class Comparison:
    """Two benchmarks, given by their folders, compared."""

    first: str
    second: str
    settings: dict[str, Settings]
    same_pixels: bool  # whether both look at the same; else no metric of pixels is compared
    in_one: tuple[str, ...]  # categories that only one of them has
    categories: dict[str, dict[str, Difference]]  # each metric of each category that both have
    # Each metric in the mean over these; that of a single category is its own.
    all: dict[str, Difference]

    def lines(self) -> list[tuple[str, str, Difference]]:
        """All that was compared: category, or ``all`` of several, metric and difference."""
        groups = [*self.categories.items()]
        if len(groups) > 1:
            groups.append(("all", self.all))
        return [(name, metric, one) for name, found in groups for metric, one in found.items()]


def compare(first: Path, second: Path) -> Comparison:
    """Say by how much a benchmark is better than another, and whether that holds.

    Both were resampled with the same draws of test images, so that their differences are paired.
    Metrics of pixels are left out where the two look at other pixels: at another size, or with
    another crop.

    Raises:
        PathMissingError: There is no such folder.
        DatasetError: One is no benchmark, or they have no category or not the same images.
    """
    (results, records), (other_results, other_records) = read_run(first), read_run(second)
    names = [name for name in records if name in other_records]
    if not names:
        raise DatasetError(
            f"{first} has {join_names(records)}, {second} has {join_names(other_records)}: no "
            "category is in both. Name two benchmarks of the same dataset."
        )
    settings = {"first": results.settings, "second": other_results.settings}
    seen, other_seen = ((one["size_px"], one["crop_fraction"]) for one in settings.values())
    same_pixels = seen == other_seen
    values = [{row.category: row.metrics for row in run.rows} for run in (results, other_results)]
    metrics = [name for name, row in METRICS.items() if same_pixels or not row.is_of_pixels]
    pairs: dict[str, dict[str, Pair]] = {}
    for name in names:
        seeds, other_seeds = records[name], other_records[name]
        _require_same_images(name, seeds[0], other_seeds[0])
        mine = average_resampled(record.resampled for record in seeds)
        theirs = average_resampled(record.resampled for record in other_seeds)
        pairs[name] = {}
        for metric in metrics:
            one, other = (side[name][metric] for side in values)
            if one is not None and other is not None and metric in mine and metric in theirs:
                pairs[name][metric] = Pair(one, other, mine[metric] - theirs[metric])
    categories = {name: _judge(of_one) for name, of_one in pairs.items()}
    overall = categories[names[0]]
    if len(names) > 1:
        shared = {m: [found[m] for found in pairs.values() if m in found] for m in metrics}
        overall = _judge({metric: _mean(found) for metric, found in shared.items() if found})
    comparison = Comparison(
        str(first),
        str(second),
        settings,
        same_pixels,
        tuple(sorted(set(records) ^ set(other_records))),
        categories,
        overall,
    )
    every = [line[-1] for line in comparison.lines()]
    for single, chance in zip(every, holm([found.p_value for found in every]), strict=True):
        single.adjusted_p_value, single.holds_among_all = chance, single.holds and chance <= LEVEL
    return comparison


def _judge(pairs: Mapping[str, Pair]) -> dict[str, Difference]:
    return {metric: Difference.of(pair) for metric, pair in pairs.items()}


def _mean(pairs: Sequence[Pair]) -> Pair:
    """Of the categories that have a metric."""
    first, second, drawn = (np.mean(part, axis=0) for part in zip(*pairs, strict=True))
    return Pair(float(first), float(second), drawn)


def _require_same_images(name: str, one: Record, other: Record) -> None:
    if one.n_resamples != other.n_resamples:
        raise DatasetError(
            f"The two benchmarks have {one.n_resamples} and {other.n_resamples} resamples of "
            f"{name}, so they cannot be paired. Run both anew."
        )
    mine, theirs = ([(image.path, image.label) for image in run.images] for run in (one, other))
    if mine != theirs:
        raise DatasetError(
            f"The two benchmarks have other test images of {name} ({len(mine)} and {len(theirs)}, "
            f"{len(set(mine) & set(theirs))} in common), so they cannot be paired. Run both on the "
            "same."
        )
