"""Which threshold do 5 to 50 good images give?

**Protocol, written before anything of it was run.** The photographs are those of
docs/decisions/0015-recipe-choice.md in their two halves. ``--phase choose`` may be looked at as
often as one likes; ``--phase report`` is run once, when the choice is made. EfficientNet-Lite0, the
recipe ``fast``; n = 5, 8, 15, 31 and 50 good images; the draws of ``few_scores``, half of them with
one defective image planted among the n. Rules are those of ``few_rules``, at three rates: 0.05,
0.01, and 1 / (n + 1), the lowest that a rank of n scores can serve. A rule of ranks that is asked
for less gives that, and is judged by that: its *promise*.

*False alarms*: the share of unseen good images above the threshold, over the promise; a mean over
the draws of a set with nothing planted, then over sets. *Found*: the share of defective images
above it, a mean over draws, then over kinds of defect (mono cells, poly cells, blowhole, crack,
uneven); with and without one planted.

A rule *holds* at a rate when its false alarms, a mean over n and sets, are at most 1.1 of what is
promised, and in the worst set, a mean over n, at most 2. Of those that hold, the one with the most
defects found is chosen, a mean over n, with and without a planted image; within half a point, the
simpler one. That is asked twice:

1. at 0.05 and 1 / (n + 1), for rates that ranks serve: what replaces a rank, or it stays;
2. at 0.01 where n < 99, for rates that ranks do not serve: whether there is a rule that promises
   such a rate. What it finds is compared with the rank at 1 / (n + 1), which is what a user gets
   without it.

Both phases go on where they were stopped, for what they have done is in ``build/few_images``.
"""

import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import measure
import numpy as np
import torch
from few_rules import RULES
from few_scores import Draw, Photographs, find_kept, keep
from halves import HALVES, SETS, Half

from padim.evaluation.run import settings_of
from padim.fitting.fitter import Fitter
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitSettings

COUNTS = (5, 8, 15, 31, 50)
RATES = (0.05, 0.01, 0.0)  # 0: the lowest that a rank serves
N_DRAWS = {"choose": 40, "report": 25}
OF_RANKS = "rank"  # names of rules that serve no rate below 1 / (n + 1) begin so, or end
Case = tuple[str, float, int]
SEED = {"choose": 0, "report": 100}


@dataclass(frozen=True)
class Found:
    """What a rule does at one rate on n images, a mean over draws.

    Attributes:
        rule: A key of ``RULES``.
        rate: That is asked for; 0 for 1 / (n + 1).
        n: Good images of the fit.
        alarms: False alarms over what is promised, by set.
        found: Share of defects found, by kind.
        found_odd: The same with one defective image among the n.
    """

    rule: str
    rate: float
    n: int
    alarms: dict[str, float]
    found: dict[str, float]
    found_odd: dict[str, float]


def run_draws(half: str, fitter: Fitter, folder: Path, *, quick: bool) -> Iterator[Draw]:
    """All draws of a half; those that are kept are not run again."""
    cases = list(product(COUNTS[-2:] if quick else COUNTS, range(2 if quick else N_DRAWS[half])))
    for name in SETS:
        places = [(name, n, SEED[half] + i, odd) for n, i in cases for odd in (False, True)]
        found = [find_kept(folder, of) for of in places]
        if None in found:
            with tempfile.TemporaryDirectory() as cells:
                photographs = Photographs.read(
                    Half.find(half, name, Path(cells), quick=False), fitter
                )
            photographs.check()
            for of, draw in zip(places, found, strict=True):
                if draw is None:
                    measure.say(f"{half}: {of}")
                    keep(photographs.draw(*of[1:3], is_odd=of[3]), folder)
        yield from (draw for of in places if (draw := find_kept(folder, of)))


class Lists(defaultdict[Case, defaultdict[str, list[float]]]):
    """Numbers by case and name."""

    def __init__(self) -> None:
        super().__init__(lambda: defaultdict(list))


def judge(draws: Iterable[Draw]) -> list[Found]:
    """Every rule at every rate and n."""
    alarms, found, found_odd = Lists(), Lists(), Lists()
    for draw in draws:
        name, n, _, is_odd = draw.of
        scores = draw.fitted.astype(np.float64)
        for (rule, threshold_at), rate in product(RULES.items(), RATES):
            promised = max(rate, 1 / (n + 1)) if OF_RANKS in rule or not rate else rate
            threshold = threshold_at(scores, promised)
            case = rule, rate, n
            if not is_odd:
                alarms[case][name].append(float((draw.unseen > threshold).mean()) / promised)
            into = found_odd if is_odd else found
            for kind, defective in draw.defective.items():
                into[case][kind].append(float((defective > threshold).mean()))
    return [
        Found(*case, *(_means(each[case]) for each in (alarms, found, found_odd)))
        for case in alarms
    ]


def _means(lists: dict[str, list[float]]) -> dict[str, float]:
    return {name: float(np.mean(values)) for name, values in lists.items()}


def mean(values: Iterable[float]) -> float:
    """Of numbers."""
    return float(np.mean(list(values)))


def show(rows: list[Found]) -> None:
    """Print what each rule does at each rate, over all n and for each."""
    for rate in RATES:
        lines = []
        for rule in RULES:
            own = [row for row in rows if (row.rule, row.rate) == (rule, rate)]
            by_set = {name: mean(row.alarms[name] for row in own) for name in SETS}
            lines.append(
                (
                    rule,
                    f"{mean(by_set.values()):.2f}",
                    f"{max(by_set.values()):.2f}",
                    *(f"{mean(row.alarms.values()):.2f}" for row in own),
                    *(
                        f"{100 * mean(mean(part.values()) for part in parts):.1f}"
                        for parts in ([r.found for r in own], [r.found_odd for r in own])
                    ),
                    *(
                        f"{100 * mean(row.found.values()):.0f}/"
                        f"{100 * mean(row.found_odd.values()):.0f}"
                        for row in own
                    ),
                )
            )
        of_n = [f"n={n}" for n in sorted({row.n for row in rows})]
        print(f"\nRate {rate or '1 / (n + 1)'}: false alarms over promise; defects found, %")
        measure.print_table(
            ("rule", "mean", "worst set", *of_n, "found", "found, odd", *of_n),
            lines,
        )


@torch.inference_mode()
def main() -> None:
    """Run the benchmark."""
    chosen = measure.arguments(__doc__, HALVES)
    about = measure.facts(["elpv-dataset"])
    fitter = prepare(FitSettings(device="cpu", recipe="fast"))
    folder = measure.ROOT / "build" / "few_images" / chosen.phase
    rows = judge(run_draws(chosen.phase, fitter, folder, quick=chosen.quick))
    show(rows)
    content = {
        "settings": {**settings_of(fitter), "n_draws": N_DRAWS},
        "rows": [asdict(row) for row in rows],
    }
    measure.finish("few_images", about, content, quick=chosen.quick, phase=chosen.phase)


if __name__ == "__main__":
    main()
