"""Does a threshold hold its false-alarm rate on good images that the fit did not see?

A set of good images is split: n to fit on, all others unseen. Three ways to set the threshold of a
nominal rate, each a rank among scores of good images (``Calibration.threshold``):

- *leave-one-out*: each of the n under the model fitted without it, as ``padim fit`` does.
- *in-sample* (an alternative): the n under the model that was fitted on them.
- *hold-out* (the other): fitted on three quarters of the n, ranked among the last quarter; where
  those are too few for the rate, the nearest that they allow.

The sets are the solar cells of defect probability 0, of either kind, and, where the environment
variable PADIM_DATA is set, the good magnetic tiles there. They are split in two ways:

- *random*: fitted and unseen images are exchangeable, however alike some of them are. A hold-out
  then keeps the rate of its rank by construction.
- *consecutive*: the n are neighbours by name, as the first n off a line are. Nothing promises a
  rate there.

Reported is the mean over the splits. Its standard error is that of 1,000 bootstrap samples of the
splits and of the set's images at once, which errs to the large side (Owen 2007, The pigeonhole
bootstrap), and 1.5 / N of N images at least: two of them are then the 3 / N that not one alarm
among N leaves open (the rule of three). Beside it stand the 5% and 95% quantiles over the splits,
since a fit has one threshold and not their mean. A rate holds when it is within two standard errors
of the nominal one: no miss is shown. ``rank`` in the result is the rate that the rank itself stands
for.

What may explain a miss: the ratio of the scores that set the threshold to those of unseen images
(medians), and whether neighbours are alike (the correlation of two images' mean features).
"""

import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
from cells import THREE_LEVELS
from features import Features, Scores
from numpy.typing import NDArray

from padim.datasets import list_images
from padim.datasets.solar_cells import lay_out_solar_cells
from padim.evaluation.run import settings_of
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitSettings, settings_with
from padim.method.leave_one_out import LeaveOneOut
from padim.scoring.calibration import Calibration

RATES = (0.2, 0.1, 0.05, 0.02)
COUNTS = (60, 300)  # images to fit on: below and above the 176 dimensions
WAYS = ("leave-one-out", "in-sample", "hold-out")
N_SPLITS = {"random": 50, "consecutive": 4}
N_QUICK = {"random": 2, "consecutive": 2}
N_QUICK_IMAGES = 90
N_BOOTSTRAP = 1000

Mask = NDArray[np.bool_]


def likeness(images: Features) -> float:
    """Mean correlation of the mean features of neighbours; of any two images it is about 0."""
    features = torch.cat([level.mean(dim=1) for level in images.levels], dim=1).double()
    standard = (features - features.mean(dim=0)) / features.std(dim=0)
    return float(torch.corrcoef(standard).diagonal(1).mean())


def find_images(folder: Path) -> dict[str, list[Path]]:
    """The good images of each set, in the order of their names."""
    roots = {f"{kind} cells": lay_out_solar_cells(folder, kind) for kind in ("mono", "poly")}
    if "PADIM_DATA" in os.environ:
        roots["tiles"] = Path(os.environ["PADIM_DATA"]) / "magnetic_tile"
    else:
        measure.say("Without the magnetic tiles: PADIM_DATA does not say where they are.")
    found = {}
    for name, root in roots.items():
        paths = [path for part in ("train", "test") for path in list_images(root / part / "good")]
        # Every third cell went to the test folder; the tiles are numbered in each folder.
        found[name] = paths if name == "tiles" else sorted(paths, key=lambda path: path.name)
    return found


def run_split(
    images: Features, fitted: list[int], unseen: list[int]
) -> dict[str, tuple[Scores, Scores]]:
    """For each way, the scores that set the threshold and those of the unseen images."""
    n_held_out = round(len(fitted) / 4)
    held_out, kept = fitted[:n_held_out], fitted[n_held_out:]
    of_kept = images.moments(kept)
    moments = of_kept.merge(images.moments(held_out))
    eps, head = images.solved(moments)
    leave_one_out = LeaveOneOut(moments, eps, images.fitter.encoder.pyramid)
    of_unseen = images.scored(unseen, head)
    _, partial = images.solved(of_kept)
    return {
        "leave-one-out": (images.scored(fitted, lambda one: leave_one_out(one)[0]), of_unseen),
        "in-sample": (images.scored(fitted, head), of_unseen),
        "hold-out": (images.scored(held_out, partial), images.scored(unseen, partial)),
    }


def splits(kind: str, n_images: int, n: int, n_splits: int) -> Iterator[NDArray[np.int64]]:
    """Positions of the images to fit on, in random order."""
    rng = np.random.default_rng(n)
    for i in range(n_splits):
        if kind == "random":
            yield rng.permutation(n_images)[:n]
        else:  # starts evenly spaced, past the end from the beginning
            yield rng.permutation((i * n_images // n_splits + np.arange(n)) % n_images)


def summary(nominal: float, n_ranked: int, alarms: Mask, unseen: Mask) -> dict[str, Any]:
    """What came of a nominal rate.

    Args:
        nominal: False alarms per good image.
        n_ranked: Scores that the threshold is a rank of.
        alarms: Unseen images that raised an alarm, shape ``(splits, N)``.
        unseen: All unseen images, likewise.
    """
    rate = alarms.sum(axis=1) / unseen.sum(axis=1)
    rng = np.random.default_rng(0)
    of_splits, of_images = (
        rng.multinomial(n, np.full(n, 1 / n), size=N_BOOTSTRAP).astype(float) for n in unseen.shape
    )
    resampled = (of_images @ alarms.T) / (of_images @ unseen.T)
    means = (resampled * of_splits).sum(axis=1) / len(rate)
    error = max(float(means.std()), 1.5 / unseen.shape[1])
    return {
        "nominal": nominal,
        "rank": max(1, int(nominal * (n_ranked + 1) + 1e-9)) / (n_ranked + 1),
        "actual": float(rate.mean()),
        "standard_error": error,
        "splits_5_95": np.quantile(rate, (0.05, 0.95)).tolist(),
        "holds": bool(abs(rate.mean() - nominal) <= 2 * error),
    }


def run_case(images: Features, kind: str, n: int, n_splits: int) -> dict[str, Any]:
    """Split one set many times."""
    n_images = len(images.levels[0])
    measure.say(f"{images.name}, {kind}, {n} of {n_images} images, {n_splits} splits")
    ranked, ratios, alarms = {}, defaultdict(list), defaultdict(list)
    unseen = np.ones((n_splits, n_images), bool)
    no_pixels = np.empty(0, np.float32), np.empty(0, np.int64)
    for i, fitted in enumerate(splits(kind, n_images, n, n_splits)):
        unseen[i, fitted] = False
        split = run_split(images, fitted.tolist(), np.flatnonzero(unseen[i]).tolist())
        for way, (known, others) in split.items():
            ranked[way] = len(known)
            ratios[way].append(np.median(known) / np.median(others))
            calibration = Calibration(way, np.sort(known), *no_pixels)
            for rate in RATES:
                raised = np.zeros(n_images, bool)
                raised[unseen[i]] = others > calibration.threshold(rate).score
                alarms[way, rate].append(raised)
    case = {"set": images.name, "n_images": n_images, "split": kind, "n_splits": n_splits, "n": n}
    ways = {
        way: {
            "n_ranked": ranked[way],
            "score_ratio": float(np.mean(ratios[way])),
            "rates": [summary(r, ranked[way], np.array(alarms[way, r]), unseen) for r in RATES],
        }
        for way in WAYS
    }
    return {**case, "ways": ways}


def shown(rate: dict[str, Any]) -> str:
    """A rate in per cent, its standard error, its range over the splits; a star where it misses."""
    low, high = (f"{100 * value:.1f}" for value in rate["splits_5_95"])
    mean, error = (f"{100 * rate[key]:.1f}" for key in ("actual", "standard_error"))
    return f"{mean} ± {error} [{low}, {high}]" + (" " if rate["holds"] else "*")


@torch.inference_mode()
def main() -> None:
    """Run the benchmark."""
    quick = measure.arguments(__doc__).quick
    about = measure.facts(["elpv-dataset"])
    fitter = prepare(settings_with(FitSettings(device="cpu"), **THREE_LEVELS))
    n_splits = N_QUICK if quick else N_SPLITS
    rows, correlation = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name, paths in find_images(Path(folder)).items():
            images = Features.of(name, paths[: N_QUICK_IMAGES if quick else None], fitter)
            correlation[name] = likeness(images)
            for kind in n_splits:
                for n in COUNTS[:1] if quick else COUNTS:
                    rows.append(run_case(images, kind, n, n_splits[kind]))
    lines: list[tuple[object, ...]] = []
    for row in rows:
        case, ways = (row["set"], row["split"], row["n"]), row["ways"].values()
        for i, rate in enumerate(RATES):
            lines.append((*case, f"{100 * rate:g}%", *(shown(way["rates"][i]) for way in ways)))
        lines.append((*case, "score ratio", *(f"{way['score_ratio']:.3f} " for way in ways)))
    measure.print_table(("false alarms, %", "split", "n", "nominal", *WAYS), lines)
    print("\n± standard error over images and splits, [5%, 95%] of splits; * over two errors off.")
    print("Correlation of neighbours:", ", ".join(f"{k} {v:.2f}" for k, v in correlation.items()))
    settings = {**settings_of(fitter), "n_splits": N_SPLITS, "n_bootstrap": N_BOOTSTRAP}
    content = {"settings": settings, "neighbour_correlation": correlation, "rows": rows}
    measure.finish("false_alarms", about, content, quick=quick)


if __name__ == "__main__":
    main()
