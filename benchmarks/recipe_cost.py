"""What recipes cost beside the ``standard`` of before: numbers kept, and time of an image.

Graphs of models of the monocrystalline cells, EfficientNet-Lite0, run by ONNX Runtime in float32.
Scored are decoded images of network size, one at a time and 16 at a time. A round takes each recipe
in turn: one call that is not counted, then the median of several.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import measure
import numpy as np
from cells import THREE_LEVELS, fit_on_cells
from numpy.typing import NDArray

from padim.fitting.settings import FitChoices
from padim.scoring.graph import Graph

BEFORE = "three levels, no coarse head"
RECIPES: dict[str, FitChoices] = {
    BEFORE: THREE_LEVELS,
    "reference": {"recipe": "reference"},
    "fast": {"recipe": "fast"},
    "standard": {},
    "accurate": {"recipe": "accurate"},
    "standard, mirrored": {"mirrored": True},
}
BATCHES = (1, 16)
N_ROUNDS, N_CALLS = 15, 5


def time_call(graph: Graph, pixels: NDArray[np.uint8]) -> float:
    """Seconds of a call, once what ran before is forgotten."""
    return measure.settled(lambda: measure.seconds(lambda: graph(pixels)), N_CALLS)


def main() -> None:
    """Run the benchmark."""
    quick = measure.arguments(__doc__).quick
    about = measure.facts(["elpv-dataset", "onnxruntime"])
    n_numbers: dict[str, int] = {}
    calls: dict[int, dict[str, Callable[[], float]]] = {n_batch: {} for n_batch in BATCHES}
    with tempfile.TemporaryDirectory() as name:
        for recipe, choices in RECIPES.items():
            measure.say(recipe)
            cells = fit_on_cells(Path(name) / str(len(n_numbers)), quick, **choices)
            n_numbers[recipe] = cells.fitter.encoder.pyramid.n_entries
            graph = Graph(cells.graph("onnx"), "onnxruntime")
            for n_batch in BATCHES:
                calls[n_batch][recipe] = partial(time_call, graph, cells.pixels(n_batch))
        taken = {n: measure.in_turn(calls[n], 1 if quick else N_ROUNDS) for n in BATCHES}
    rows, lines = [], []
    for recipe in RECIPES:
        times = {n: of_batch[recipe] for n, of_batch in taken.items()}
        ratios = {n: times[n].over(taken[n][BEFORE]) for n in BATCHES}
        rows.append(
            {
                "recipe": recipe,
                "n_numbers": n_numbers[recipe],
                "seconds": {n: spread.to_json() for n, spread in times.items()},
                "ratio": {n: spread.to_json() for n, spread in ratios.items()},
            }
        )
        cost = f"{n_numbers[recipe] / 1e6:.1f}"
        of_batches = ((times[n].shown(1e3), ratios[n].shown(digits=2)) for n in BATCHES)
        lines.append((recipe, cost, *(part for pair in of_batches for part in pair)))
    headers = ("recipe", "M numbers", *(h for n in BATCHES for h in (f"{n}, ms", "ratio")))
    measure.print_table(headers, lines)
    settings = {"batches": BATCHES, "n_rounds": N_ROUNDS, "n_calls": N_CALLS}
    measure.finish("recipe_cost", about, {"settings": settings, "rows": rows}, quick=quick)


if __name__ == "__main__":
    main()
