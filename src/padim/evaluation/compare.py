"""Two benchmarks of the same test images, compared image by image."""

from pathlib import Path
from typing import Any

import numpy as np

from padim.errors import DatasetError, listed
from padim.evaluation.run_folder import METRICS, Record, mean_resampled, read_run
from padim.metrics.curves import Floats
from padim.metrics.resamples import interval


def compare(first: Path, second: Path) -> dict[str, Any]:
    """Say by how much a benchmark is better than another, and whether that holds.

    Both were resampled with the same draws of test images, so that their differences are paired.

    Metrics of pixels are left out where the two look at other pixels: at another size, or with
    another crop.

    Args:
        first: Folder of a benchmark.
        second: Of another, of the same test images.

    Returns:
        Plain data: for each common category, and the mean over them under ``all``, each metric's
        ``first``, ``second``, ``difference`` (first less second), its 95% ``interval`` and whether
        it ``holds``: the interval leaves 0 out. ``same_pixels`` says whether both look at the same,
        ``in_one`` names the categories that only one of them has.

    Raises:
        PathMissingError: There is no such folder.
        DatasetError: One is no benchmark, or they have no category or not the same images.
    """
    (said, records), (other_said, other_records) = read_run(first), read_run(second)
    names = [name for name in records if name in other_records]
    if not names:
        raise DatasetError(
            f"{first} has {listed(records)}, {second} has {listed(other_records)}: no category "
            "is in both. Name two benchmarks of the same dataset."
        )
    rows = {row["category"]: row for row in said["rows"]}
    other_rows = {row["category"]: row for row in other_said["rows"]}
    seen = [
        (run["settings"]["size_px"], run["settings"]["crop_fraction"]) for run in (said, other_said)
    ]
    compared = [m for m in METRICS if seen[0] == seen[1] or m.startswith("image_")]
    categories: dict[str, dict[str, Any]] = {}
    pairs: dict[str, list[tuple[float, float, Any]]] = {}
    for name in names:
        _require_same_images(name, records[name][0], other_records[name][0])
        mine, theirs = mean_resampled(records[name]), mean_resampled(other_records[name])
        categories[name] = {}
        for metric in compared:
            values = rows[name][metric], other_rows[name][metric]
            if None in values or metric not in mine or metric not in theirs:
                continue
            differences = mine[metric] - theirs[metric]
            pairs.setdefault(metric, []).append((*values, differences))
            categories[name][metric] = judged(*values, differences)
    overall = {
        metric: judged(
            float(np.mean([one for one, _, _ in found])),
            float(np.mean([other for _, other, _ in found])),
            np.mean([differences for _, _, differences in found], axis=0),
        )
        for metric, found in pairs.items()
    }
    return {
        "first": str(first),
        "second": str(second),
        "settings": {"first": said["settings"], "second": other_said["settings"]},
        "same_pixels": seen[0] == seen[1],
        "in_one": sorted(set(records) ^ set(other_records)),
        "categories": categories,
        "all": overall,
    }


def judged(first: float, second: float, differences: Floats) -> dict[str, Any]:
    """What there is to say of a metric that two have.

    Args:
        first: Its value.
        second: That of the other.
        differences: First less second of paired resamples, shape ``(B,)``.
    """
    low, high = interval(differences)
    return {
        "first": first,
        "second": second,
        "difference": first - second,
        "interval": (low, high),
        "holds": bool(low > 0 or high < 0),
    }


def _require_same_images(name: str, one: Record, other: Record) -> None:
    mine, theirs = (
        [(image["path"], image["label"]) for image in record.data["images"]]
        for record in (one, other)
    )
    if mine != theirs:
        raise DatasetError(
            f"The two benchmarks have other test images of {name} ({len(mine)} and {len(theirs)}, "
            f"{len(set(mine) & set(theirs))} in common), so they cannot be paired. Run both on the "
            "same."
        )
