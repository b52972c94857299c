"""Which recipe finds most defects? Chosen on one half of the photographs, reported on the other.

What is measured and how it is judged was written down before
(docs/decisions/0015-recipe-choice.md). ``--phase choose`` compares levers on the choosing half;
``--phase report`` shows the chosen ones on the other. Both go on where they were stopped, for what
they have done is in the folder that ``--cache`` names.

Ratios are of mean errors, 1 - image AUROC. Differences are paired: 95% of bootstrap samples of the
test images, the same for all levers, seeds and n. What another draw of the images to fit on would
change is not in them.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import measure
import numpy as np
import recipe_scores
import torch
from halves import EASIER, HALVES, HARDER, N_BOOTSTRAP, SETS, SMALL, Half, Places
from recipe_scores import (
    OF_IMAGES,
    OF_MAPS,
    Case,
    Embedded,
    Geometry,
    Map,
    Score,
    measure_case,
    measure_images,
)

from padim.method.fusion import Fusion
from padim.metrics.curves import Floats
from padim.metrics.resamples import interval

COUNTS = (15, 30, 60, 300)
SEEDS = {"choose": (0, 1), "report": (0, 1, 2)}
BACKBONES = {
    "choose": ("efficientnet_lite0",),
    "report": ("efficientnet_lite0", "efficientnet_lite2"),
}
N_TESTED = 100  # good images that are left to test on, at least
SPANS = {"15": (15,), "30": (30,), "60, 300": (60, 300)}
SCOPES = {"harder": HARDER, "small": SMALL, "easier": EASIER}
Spread = tuple[float, ...]  # a value, and maybe the ends of its interval
Scores = tuple[Floats, Floats]  # of the images of the fit, each under the model without it; tested
FRACTIONS, COARSE_FRACTION = (0.0, 0.001, 0.002, 0.005), 0.05
BEFORE, BEFORE_FAST = "standard of before", "fast of before"


@dataclass(frozen=True)
class Lever:
    """A recipe as it is measured.

    Attributes:
        name: Of the lever.
        fine: The score of its map.
        coarse: The score that is joined with it, or none.
    """

    name: str
    fine: Score
    coarse: Score | None = None

    @property
    def scores(self) -> list[Score]:
        """What it is made of."""
        return [self.fine, *([self.coarse] if self.coarse else [])]


def list_levers() -> Iterator[Lever]:
    """All that are compared on the choosing half."""
    whole, cropped = Geometry("256 and 160", taps=(1, 2, 4)), Geometry("cropped", "reference")
    yield Lever("reference", Score(Map(cropped, 3, 4.0), 0.0))
    yield Lever(BEFORE, Score(Map(whole, 3, 4.0), 0.01))
    yield Lever(BEFORE_FAST, Score(Map(whole, 2, 2.0), 0.005))
    smaller = {
        copy_px: Geometry(f"256 and {copy_px}", taps=(2, 4), coarse_scale=copy_px / 256)
        for copy_px in (128, 144)
    }
    yield from list_of_geometry("256 px", whole, FRACTIONS, smaller)
    for size_px, word in ((272, ""), (288, ""), (256, ", mirrored")):
        geometry = replace(
            whole,
            name=f"{size_px} and 160{word}",
            size_px=size_px,
            is_mirrored=bool(word),
            coarse_scale=160 / size_px,
        )
        yield from list_of_geometry(f"{size_px} px{word}", geometry, FRACTIONS[:3], {})


def list_of_geometry(
    words: str, geometry: Geometry, fractions: Iterable[float], smaller: Mapping[int, Geometry]
) -> Iterator[Lever]:
    """Those of one geometry: 2 or 3 levels, a fraction, without and with each copy."""
    for n_levels, fraction in product((2, 3), fractions):
        fine = Score(Map(geometry, n_levels, 2.0), fraction)
        name = f"{n_levels} levels of {words}, {f'{fraction:.1%}' if fraction else 'maximum'}"
        yield Lever(name, fine)
        for copy_px, of_copy in {**smaller, 160: geometry}.items():
            coarse = Score(Map(of_copy, 0, 0.0), COARSE_FRACTION)
            yield Lever(f"{name} + {copy_px} px", fine, coarse)


LEVERS = {lever.name: lever for lever in list_levers()}
# What the report shows: what was chosen, and what of it is judged.
DEFAULT = "2 levels of 256 px, maximum + 160 px"
ACCURATE = "3 levels of 288 px, maximum + 160 px"
UNFUSED = "2 levels of 256 px, maximum"
MIRRORED = "2 levels of 256 px, mirrored, maximum + 160 px"
REPORTED = ("reference", BEFORE, BEFORE_FAST, DEFAULT, ACCURATE, UNFUSED, MIRRORED)


@dataclass(frozen=True)
class Study:
    """A phase with what it keeps.

    Attributes:
        phase: One of ``halves.HALVES``.
        folder: Where features and scores are kept.
        levers: What is compared.
        quick: Whether a few images will do.
    """

    phase: str
    folder: Path
    levers: tuple[Lever, ...]
    quick: bool

    @property
    def n_tested(self) -> int:
        """Good images that are left to test on, at least."""
        return 10 if self.quick else N_TESTED

    def half(self, name: str) -> Half:
        """Find a set."""
        return Half.find(self.phase, name, self.folder, quick=self.quick)

    def cases(self, backbone: str, name: str) -> Iterator[Case]:
        """The fits on a set."""
        counts = COUNTS[:1] if self.quick else COUNTS
        for n, seed in product(counts, SEEDS[self.phase][: 1 if self.quick else None]):
            yield Case(backbone, name, n, seed)

    def run(self) -> None:
        """Measure what is not there yet."""
        scores = {score for lever in self.levers for score in lever.scores}
        maps = {lever.fine.map for lever in self.levers}
        by_geometry: dict[Geometry, list[Score]] = defaultdict(list)
        for score in scores:
            by_geometry[score.map.geometry].append(score)
        for backbone, name in product(BACKBONES[self.phase], SETS):
            half = self.half(name)
            read = cache(half.read)
            for geometry, of in by_geometry.items():
                embedded: Embedded | None = None
                for case in self.cases(backbone, name):
                    path = case.path(self.folder, geometry)
                    there = recipe_scores.read(path)
                    missing = [score for score in of if f"test {score.key}" not in there]
                    if not missing:
                        continue
                    embedded = embedded or Embedded.of(
                        self.folder, geometry, backbone, half, *read()
                    )
                    measure.say(f"{path.stem}: {len(missing)} scores")
                    new_maps = {
                        one.map
                        for one in missing
                        if one.map in maps and f"{one.map.key} {name}, small" not in there
                    }
                    found = measure_case(embedded, case, missing, new_maps, self.n_tested)
                    recipe_scores.keep(path, there | found)

    def figures(self, backbone: str) -> "Figures":
        """What came out."""
        figures = Figures()
        for name in SETS:
            half = self.half(name)
            weights = half.weights()
            for case in self.cases(backbone, name):
                _, tested = half.draw(case.n, case.seed, self.n_tested)
                arrays = {
                    geometry: recipe_scores.read(case.path(self.folder, geometry))
                    for geometry in {
                        score.map.geometry for lever in self.levers for score in lever.scores
                    }
                }
                for lever in self.levers:
                    add_case(figures, lever, case, arrays, tested, weights)
        return figures


class Figures:
    """What came out, in each bootstrap sample; the first is the images themselves."""

    def __init__(self) -> None:
        # By lever and metric, then kind of defect and n: one array per seed.
        self.values: dict[tuple[str, str], dict[tuple[str, int], list[Floats]]] = defaultdict(
            lambda: defaultdict(list)
        )

    def mean(
        self, lever: str, metric: str, kinds: Sequence[str], counts: Sequence[int]
    ) -> Floats | None:
        """Mean over seeds, kinds and numbers of images, or None without any."""
        means = [
            np.mean(values, axis=0)
            for (kind, n), values in self.values[lever, metric].items()
            if kind in kinds and n in counts
        ]
        return np.mean(means, axis=0) if means else None

    def error_ratio(
        self, lever: str, other: str, kinds: Sequence[str], counts: Sequence[int]
    ) -> Floats | None:
        """Error 1 - image AUROC over that of another lever."""
        own, base = (self.mean(who, OF_IMAGES[0], kinds, counts) for who in (lever, other))
        # With few images there may be no error to divide by.
        return None if own is None or base is None else (1 - own) / np.maximum(1 - base, 1e-9)


def add_case(
    figures: Figures,
    lever: Lever,
    case: Case,
    arrays: Mapping[Geometry, Mapping[str, Floats]],
    tested: Mapping[str, Places],
    weights: Floats,
) -> None:
    """Note what a lever gives in one fit."""
    fine, *coarse = (
        (own[f"fit {one.key}"], own[f"test {one.key}"])
        for one in lever.scores
        for own in (arrays[one.map.geometry],)
    )
    known, scores = join(fine, coarse[0]) if coarse else fine
    threshold = np.sort(known)[-max(1, int(0.05 * (len(known) + 1)))]
    ends = np.cumsum([len(places) for places in tested.values()])
    for (kind, places), end in zip(tested.items(), ends, strict=True):
        if kind == "good":
            continue
        found = measure_images(
            scores[: ends[0]],
            scores[end - len(places) : end],
            weights[:, tested["good"]],
            weights[:, places],
            threshold,
        )
        for metric, values in zip(OF_IMAGES, found, strict=True):
            figures.values[lever.name, metric][kind, case.n].append(values)
        one = lever.fine.map
        of_maps = arrays[one.geometry].get(f"{one.key} {kind}")
        if of_maps is not None:
            for metric, values in zip(OF_MAPS, of_maps.T, strict=True):
                figures.values[lever.name, metric][kind, case.n].append(values)


def join(fine: Scores, coarse: Scores) -> Scores:
    """The scores by both heads, joined as a model does."""
    own, tested = (np.stack(parts, axis=1) for parts in zip(fine, coarse, strict=True))
    fusion = Fusion.of(own.astype(np.float32))
    known, new = (fusion.join(torch.from_numpy(one).unbind(1)) for one in (own, tested))
    return known.numpy(), new.numpy()


def spread(values: Floats | None, with_ends: bool = True) -> Spread | None:
    """The value itself and, if wanted, where 95% of its bootstrap samples lie."""
    if values is None:
        return None
    ends = interval(values[1:]) if with_ends else ()
    return tuple(round(float(part), 4) for part in (values[0], *ends))


def summarise(
    figures: Figures, lever: str, others: Iterable[str], *, whole: bool
) -> dict[str, Any]:
    """Every metric of a lever, and how its error compares to others'.

    The whole of it has intervals of the metrics too, and how its maps compare.
    """
    found: dict[str, Any] = {"lever": lever}
    for (scope, kinds), (span, counts) in product(SCOPES.items(), SPANS.items()):
        here: dict[str, Any] = {
            metric: spread(figures.mean(lever, metric, kinds, counts), whole)
            for metric in (*OF_IMAGES, *OF_MAPS)
        }
        for other in others:
            ratio = figures.error_ratio(lever, other, kinds, counts)
            here[f"error_over_{other}"] = spread(ratio)
            for metric in OF_MAPS[:2] if whole else ():
                own, base = (figures.mean(who, metric, kinds, counts) for who in (lever, other))
                if own is not None and base is not None:
                    here[f"{metric}_minus_{other}"] = spread(own - base)
        found[f"{scope}, {span}"] = {key: value for key, value in here.items() if value}
    return found


def print_summaries(summaries: Sequence[Mapping[str, Any]], others: Sequence[str]) -> None:
    """Print a table for each scope and number of images."""
    for scope, span in product(SCOPES, SPANS):
        lines = []
        for row in summaries:
            here = row[f"{scope}, {span}"]
            if not here:
                continue
            lines.append(
                (
                    row["lever"],
                    f"{100 - 100 * here['image_auroc'][0]:.2f}",
                    *(measure.show_interval(here.get(f"error_over_{other}")) for other in others),
                    *(
                        f"{100 * here[metric][0]:.1f}" if metric in here else ""
                        for metric in (*OF_IMAGES[1:], *OF_MAPS)
                    ),
                )
            )
        print(f"\n{scope}, {span} images")
        headers = (
            "lever",
            "error",
            *(f"/ {o}" for o in others),
            "rec 0",
            "rec 1",
            "alarms",
            *OF_MAPS,
        )
        measure.print_table(headers, lines)


def aims(summaries: Iterable[Mapping[str, Any]]) -> Iterator[measure.Aim]:
    """What the chosen ones are to reach on the reporting half."""
    rows = {row["lever"]: row for row in summaries}
    for name, scope, limit in (
        (DEFAULT, "harder", 0.65),
        (DEFAULT, "small", 0.85),
        (ACCURATE, "harder", 0.55),
    ):
        ratio = rows[name][f"{scope}, 60, 300"]["error_over_reference"][0]
        yield measure.Aim(f"{name}, {scope}: error over that of reference", ratio, limit)
    for scope, metric in product(("harder", "small"), OF_MAPS[:2]):
        high = 100 * rows[DEFAULT][f"{scope}, 60, 300"][f"{metric}_minus_{BEFORE}"][2]
        what = f"{DEFAULT}, {scope}: points of {metric} over {BEFORE}, upper end"
        yield measure.Aim(what, high, 0.0, at_least=True)


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--phase", choices=HALVES, required=True, help="which half")
    parser.add_argument("--cache", type=Path, required=True, help="folder of what is kept")
    parser.add_argument("--quick", action="store_true", help="a few images, nothing is written")
    return parser.parse_args()


@torch.inference_mode()
def main() -> None:
    """Run the benchmark."""
    arguments = read_arguments()
    phase, quick = arguments.phase, arguments.quick
    about = measure.facts(["elpv-dataset"])
    names = tuple(LEVERS) if phase == "choose" else REPORTED
    folder = arguments.cache / (f"{phase}-quick" if quick else phase)
    folder.mkdir(parents=True, exist_ok=True)
    study = Study(phase, folder, tuple(LEVERS[name] for name in names), quick)
    study.run()
    content: dict[str, Any] = {"phase": phase, "n_bootstrap": N_BOOTSTRAP, "backbones": {}}
    for backbone in BACKBONES[phase]:
        figures = study.figures(backbone)
        whole = phase == "report"
        summaries = [summarise(figures, name, REPORTED, whole=whole) for name in names]
        print(f"\n{backbone}")
        print_summaries(summaries, REPORTED[:3])
        content["backbones"][backbone] = {"summaries": summaries}
        if phase == "report" and not quick:
            content["backbones"][backbone]["aims"] = measure.judge(aims(summaries))
    measure.finish("recipe_levers", about, content, quick=quick, phase=phase)


if __name__ == "__main__":
    main()
