"""One image to map and score, against anomalib; and what the head adds to the trunk.

Both sides are EfficientNet-Lite0 up to ``blocks.4`` with all 176 dimensions at 256 px, fitted on
the same 392 solar cells with the same eps, so that their maps can be compared. Measured:

- *scoring*: from a decoded uint8 image of 256 x 256 px to map and score, one at a time, on a thread
  for each core. Ours is ``Predictor.score`` of the exported graph or of the model file; anomalib's
  (the alternative) its own inferencer on its own export, in float32 and in the precision that it
  takes by itself (bfloat16 where the processor has it), and its torch model, whose threads spin
  while they wait (torch's default) or give way (*passive*): the faster counts. Each of anomalib's
  runtimes is a process of its own. A round takes each in turn: one call that is not counted, then
  the median of several. The recipes ``standard`` and ``fast`` stand beside, as they are.
- *head over trunk*: the whole graph minus the graph of its trunk (the alternative), over the
  latter, in the same engine; in bfloat16 the trunk is in float32, as it is in the whole graph.
  Beside it the bytes of the whitening rows over the head's time, and what this machine reads from
  memory on as many threads. The same for the recipes as they are, with two levels.
- *bytes*: the exported graph with everything in it, against anomalib's export.
"""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
from cells import THREE_LEVELS, Cells, fit_on_cells
from numpy.typing import NDArray
from peer_env import PASSIVE, Server, fit_peer, serving

from padim.features.onnx import write_onnx
from padim.fitting.settings import FitChoices
from padim.model.file import load_state
from padim.model.opening import load
from padim.model.padim import network_of
from padim.scoring.engines import OWN_RATES
from padim.scoring.graph import Graph
from padim.scoring.predictor import Predictor

EPS = 0.01001  # what anomalib comes to, which adds 0.00001 to the 0.01 it is given
CHOICES: FitChoices = {**THREE_LEVELS, "eps": EPS, "eps_rule": "absolute"}
PEERS: dict[str, tuple[str, dict[str, str]]] = {  # runtime, variables
    "torch": ("torch", {}),
    "torch, passive": ("torch", PASSIVE),
    "openvino_f32": ("openvino_f32", {}),
    "openvino": ("openvino", {}),
}
AT_LEAST = {
    ("openvino float32", "torch"): 12,
    ("openvino bfloat16", "torch"): 20,
    ("openvino float32", "openvino_f32"): 2.5,
    ("openvino bfloat16", "openvino"): 4,
    ("standard, openvino float32", "torch"): 15,
    ("standard, openvino float32", "openvino_f32"): 5.5,
}
RECIPES = ("standard", "fast")
MOST_ROWS_MB = 53.5  # of the head for one image in float32: half of what three levels read
BATCHES = (1, 16)
HEAD_AT_MOST = {
    ("openvino float32", 1): 0.85,
    ("openvino bfloat16", 1): 0.7,
    ("openvino float32", 16): 0.35,
    ("openvino bfloat16", 16): 0.35,
    ("onnxruntime", 1): 0.85,
    ("onnxruntime", 16): 0.35,
}
MEGABYTES_AT_MOST = 60
TIMES_SMALLER = 9
N_ROUNDS = 15
N_CALLS = 5  # of each in a round
READ_BYTES = 2**29


def predictors(cells: Cells, recipes: Mapping[str, Cells]) -> dict[str, Predictor]:
    """Ours, by name: with three levels, and those of recipes."""
    found = {**open_graphs(cells), "torch": load(cells.model, engine="torch")}
    for recipe, fitted in recipes.items():
        found |= {f"{recipe}, {engine}": one for engine, one in open_graphs(fitted).items()}
    return found


def open_graphs(cells: Cells) -> dict[str, Predictor]:
    """The graphs of a model, by what runs them."""
    onnx, openvino = cells.graph("onnx"), cells.graph("openvino")
    return {
        "openvino float32": load(openvino),
        "openvino bfloat16": load(openvino, precision="bfloat16"),
        "onnxruntime": load(onnx),
    }


def scoring(
    ours: dict[str, Predictor], peers: dict[str, Server], image: Path, n_rounds: int
) -> dict[str, measure.Spread]:
    """Time both sides on one image.

    Args:
        ours: By name.
        peers: By name.
        image: A ``.npy`` of network size.
        n_rounds: How often each is measured.
    """
    pixels = np.load(image)[None]
    calls: dict[str, Callable[[], float]] = {
        name: partial(measure.seconds, partial(predictor.score, pixels))
        for name, predictor in ours.items()
    }
    calls |= {f"anomalib {name}": partial(peer.score, image) for name, peer in peers.items()}
    settled = {name: partial(measure.settled, call, N_CALLS) for name, call in calls.items()}
    return measure.in_turn(settled, n_rounds)


def heads(
    cells: Cells, images: NDArray[np.uint8], n_rounds: int
) -> dict[tuple[str, int], dict[str, measure.Spread]]:
    """Time the whole graph and its trunk, by engine and size of batch.

    Args:
        cells: The model.
        images: As many as the largest batch.
        n_rounds: How often each is measured.
    """
    state = load_state(cells.model)
    features = network_of(state).features()
    trunk = cells.model.with_name("trunk.onnx")
    names = [f"level_{i}" for i in range(len(state.pyramid.shapes))]
    write_onnx(features, trunk, state.preprocess.size_px, names, "")
    onnx, openvino = cells.graph("onnx"), cells.graph("openvino")
    graphs = {
        "openvino float32": (Graph(openvino), Graph(trunk, "openvino")),
        "openvino bfloat16": (
            Graph(openvino, precision="bfloat16"),
            Graph(trunk, "openvino"),
        ),
        "onnxruntime": (Graph(onnx), Graph(trunk)),
    }
    taken = {}
    for n_images in BATCHES:
        for engine, pair in graphs.items():
            measure.say(f"Head over trunk: {engine}, {n_images} at a time")
            # Not graph(...), which takes four at a time.
            calls = {
                name: partial(
                    measure.seconds, partial(graph.runtime.run, images[:n_images], OWN_RATES)
                )
                for name, graph in zip(("whole", "trunk"), pair, strict=True)
            }
            settled = {n: partial(measure.settled, call, N_CALLS) for n, call in calls.items()}
            taken[engine, n_images] = measure.in_turn(settled, n_rounds)
    return taken


def read_bytes_per_s(quick: bool) -> float:
    """What this machine reads from memory on torch's threads, the best of several."""
    numbers = torch.ones(READ_BYTES // 4)
    return READ_BYTES / min(measure.seconds(numbers.sum) for _ in range(3 if quick else 10))


def head_rows(
    recipe: str, cells: Cells, taken: dict[tuple[str, int], dict[str, measure.Spread]]
) -> list[dict[str, Any]]:
    """What the head of a recipe takes, one row for each engine and size of batch."""
    rows = []
    for (engine, n_images), spreads in taken.items():
        whole, trunk = spreads["whole"], spreads["trunk"]
        head = whole.minus(trunk)
        entry_bytes = 2 if "bfloat16" in engine else 4
        rows_bytes = entry_bytes * cells.fitter.encoder.pyramid.n_entries
        rows.append(
            {
                "recipe": recipe,
                "engine": engine,
                "n_images": n_images,
                "whole_s": whole.to_json(),
                "trunk_s": trunk.to_json(),
                "head_over_trunk": head.over(trunk).to_json(),
                "rows_bytes": rows_bytes,
                "rows_bytes_per_s": rows_bytes / head.median,
                "shown": (
                    f"{recipe}, {engine}, {n_images}",
                    whole.shown(1e3),
                    trunk.shown(1e3),
                    head.over(trunk).shown(digits=2),
                    f"{rows_bytes / head.median / 1e9:.1f}" if n_images == 1 else "",
                ),
            }
        )
    return rows


def map_correlation(ours: Predictor, peer: Server, image: Path) -> float:
    """How alike the two maps of an image are."""
    path = image.with_name("map.npy")
    peer.score(image, path)
    both = (ours.score(np.load(image)[None]).anomaly_map[0].ravel(), np.load(path).ravel())
    return float(np.corrcoef(both)[0, 1])


def main() -> None:
    """Run the benchmark."""
    quick = measure.arguments(__doc__).quick
    n_rounds = 2 if quick else N_ROUNDS
    about = measure.facts(["elpv-dataset", "onnxruntime", "openvino"])
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        cells = fit_on_cells(folder, quick, **CHOICES)
        recipes = {
            recipe: fit_on_cells(folder / recipe, quick, recipe=recipe) for recipe in RECIPES
        }
        measure.say("anomalib fits, which takes minutes.")
        said, _ = fit_peer(cells.train, folder / "anomalib")
        images, image = cells.pixels(max(BATCHES)), folder / "image.npy"
        np.save(image, images[0])
        peers = {
            peer: stack.enter_context(serving(folder / "anomalib", *how))
            for peer, how in PEERS.items()
        }
        ours = predictors(cells, recipes)
        correlation = map_correlation(ours["openvino float32"], peers["openvino_f32"], image)
        measure.say("Scoring")
        taken = scoring(ours, peers, image, n_rounds)
        rows = [
            row
            for recipe, fitted in {"three levels": cells, **recipes}.items()
            for row in head_rows(recipe, fitted, heads(fitted, images, n_rounds))
        ]
        onnx, openvino = cells.graph("onnx"), cells.graph("openvino")
        file_bytes = {
            ".onnx": onnx.stat().st_size,
            ".xml + .bin": sum(
                path.stat().st_size for path in (openvino, openvino.with_suffix(".bin"))
            ),
            "anomalib": sum(said["export_bytes"].values()),
        }
    bandwidth = read_bytes_per_s(quick)
    ratios = {
        (own, peer): taken[f"anomalib {peer}"].over(taken[own]) for own in ours for peer in PEERS
    }
    measure.print_table(
        ("", "ms an image", *(f"x faster than anomalib {peer}" for peer in PEERS)),
        [
            (
                candidate,
                spread.shown(1e3),
                *(ratios[candidate, peer].shown() if candidate in ours else "" for peer in PEERS),
            )
            for candidate, spread in taken.items()
        ],
    )
    print()
    measure.print_table(
        ("recipe, engine, images", "whole ms", "trunk ms", "head / trunk", "rows GB/s"),
        [row.pop("shown") for row in rows],
    )
    print(f"Read from memory: {bandwidth / 1e9:.1f} GB/s.\n")
    measure.print_table(
        ("file", "MB", "anomalib's / it"),
        [
            (kind, f"{n_bytes / 1e6:.1f}", f"{file_bytes['anomalib'] / n_bytes:.1f}")
            for kind, n_bytes in file_bytes.items()
        ],
    )
    print(f"\nCorrelation of the two maps of one image: {correlation:.5f}")
    aims = [
        measure.Aim(
            f"{own}, times faster than anomalib {runtime}",
            min(ratios[own, peer].median for peer, how in PEERS.items() if how[0] == runtime),
            limit,
            at_least=True,
        )
        for (own, runtime), limit in AT_LEAST.items()
    ]
    aims += [
        measure.Aim(
            f"Head over trunk, {row['engine']}, batch of {row['n_images']}",
            row["head_over_trunk"]["median"],
            HEAD_AT_MOST[row["engine"], row["n_images"]],
        )
        for row in rows
        if row["recipe"] == "three levels"
    ]
    (read_bytes,) = {
        row["rows_bytes"]
        for row in rows
        if (row["recipe"], row["engine"]) == ("standard", "openvino float32")
    }
    aims.append(measure.Aim("standard, MB read by the head", read_bytes / 1e6, MOST_ROWS_MB))
    for kind in (".onnx", ".xml + .bin"):
        smaller = file_bytes["anomalib"] / file_bytes[kind]
        aims += [
            measure.Aim(f"{kind}, MB", file_bytes[kind] / 1e6, MEGABYTES_AT_MOST),
            measure.Aim(f"{kind}, times smaller", smaller, TIMES_SMALLER, at_least=True),
        ]
    content = {
        "settings": {
            "backbone": cells.fitter.encoder.spec.name,
            "size_px": cells.fitter.encoder.preprocess.size_px,
            "n_train": said["n_images"],
            "eps": EPS,
            "n_rounds": N_ROUNDS,
            "n_calls": N_CALLS,
            "n_warm_up": 1,
        },
        "seconds": {candidate: spread.to_json() for candidate, spread in taken.items()},
        "times_faster": {
            own: {f"anomalib {peer}": ratios[own, peer].to_json() for peer in PEERS} for own in ours
        },
        "head": rows,
        "read_bytes_per_s": bandwidth,
        "file_bytes": file_bytes,
        "map_correlation": correlation,
        "aims": measure.judge(aims),
    }
    measure.finish("scoring", about, content, quick=quick)


if __name__ == "__main__":
    main()
