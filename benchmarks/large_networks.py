"""What the large networks cost on a CPU: time, memory and file, and the head's part of it.

EfficientNet-B7 and V2-M with random weights, on which time does not depend, at 256 px with the
default recipe, fitted on a few photographs of solar cells. Measured for each:

- *scoring*: from decoded images to maps and scores, one at a time and 16, on a thread for each
  core, by the exported graph in ONNX Runtime and OpenVINO, and by the model file in torch (the
  alternative).
- *head over trunk*, of one image: the whole graph minus the graph of its trunk (the alternative),
  over the latter, as in ``scoring.py``.
- *process*: ``padim predict`` of one picture, by the graph and by the model file in torch (the
  alternative): time from start to end, and the most memory held.
- *file*: the model file with its network inside, and the graphs.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import measure
import process
from cells import Cells, fit_on_cells, write_random_weights
from scoring import head_rows, heads, open_graphs

from padim.datasets import list_images
from padim.model.opening import load

NAMES = ("efficientnet_b7_ns", "efficientnet_v2_m")
ALTERNATIVE = "torch"
BATCHES = (1, 16)
N_ROUNDS = 3
N_PROCESSES = 2


def measure_scoring(cells: Cells, n_rounds: int) -> list[dict[str, Any]]:
    """Time a model in each engine, one row for each size of batch."""
    predictors = {**open_graphs(cells), ALTERNATIVE: load(cells.model, engine="torch")}
    images = cells.pixels(max(BATCHES))
    rows = []
    for n_images in BATCHES:
        calls = {
            name: partial(measure.seconds, partial(predictor.score, images[:n_images]))
            for name, predictor in predictors.items()
        }
        taken = measure.in_turn(calls, n_rounds)
        rows += [
            {
                "engine": name,
                "n_images": n_images,
                "seconds": spread.to_json(),
                "times_faster": taken[ALTERNATIVE].over(spread).to_json(),
            }
            for name, spread in taken.items()
        ]
    return rows


def measure_processes(cells: Cells, folder: Path, n_rounds: int) -> dict[str, dict[str, Any]]:
    """Run ``padim predict`` of one picture in turn."""
    picture = list_images(cells.test)[0]
    models = {"graph": (cells.graph("onnx"),), ALTERNATIVE: (cells.model, "--engine", "torch")}
    runs: dict[str, list[process.Ran]] = {name: [] for name in models}
    for _ in range(n_rounds):
        for name, (model, *options) in models.items():
            words = ("predict", model, picture, "-o", folder / "results", *options)
            runs[name].append(process.run((sys.executable, "-m", "padim", *words)))
    return {
        name: {
            "seconds": measure.Spread(tuple(ran.wall_s for ran in found)).to_json(),
            "peak_bytes": measure.Spread(tuple(float(ran.peak_bytes) for ran in found)).to_json(),
        }
        for name, found in runs.items()
    }


def measure_network(name: str, folder: Path, quick: bool) -> dict[str, Any]:
    """All that is measured of a network."""
    n_rounds = 2 if quick else N_ROUNDS
    folder.mkdir()
    measure.say(f"{name}: fit")
    cells = fit_on_cells(
        folder,
        quick=True,  # of how many images it is fitted on, scoring is independent
        backbone=name,
        weights=write_random_weights(name, folder),
        include_backbone=True,
        calibrate=False,
    )
    onnx, openvino = cells.graph("onnx"), cells.graph("openvino")
    measure.say(f"{name}: scoring")
    return {
        "backbone": name,
        "scoring": measure_scoring(cells, n_rounds),
        "head": head_rows(name, cells, heads(cells, cells.pixels(1), n_rounds)),
        "process": measure_processes(cells, folder, 1 if quick else N_PROCESSES),
        "file_bytes": {
            "model file": cells.model.stat().st_size,
            ".onnx": onnx.stat().st_size,
            ".xml + .bin": openvino.stat().st_size + openvino.with_suffix(".bin").stat().st_size,
        },
    }


def main() -> None:
    """Run the benchmark."""
    quick = measure.arguments(__doc__).quick
    about = measure.facts(["elpv-dataset", "onnxruntime", "openvino"])
    with tempfile.TemporaryDirectory() as name:
        networks = [measure_network(one, Path(name) / one, quick) for one in NAMES]
    for one in networks:
        print(one["backbone"])
        measure.print_table(
            ("engine", "images", "ms", "x faster than torch"),
            [
                (
                    row["engine"],
                    row["n_images"],
                    f"{row['seconds']['median'] * 1e3:.1f}",
                    f"{row['times_faster']['median']:.2f}",
                )
                for row in one["scoring"]
            ],
        )
        headers = ("engine, images", "whole ms", "trunk ms", "head / trunk", "rows GB/s")
        measure.print_table(headers, [row.pop("shown") for row in one["head"]])
        for who, found in one["process"].items():
            peak = found["peak_bytes"]["median"] / 1e6
            print(f"padim predict, {who}: {found['seconds']['median']:.1f} s, {peak:.0f} MB")
        print(", ".join(f"{kind} {n / 1e6:.0f} MB" for kind, n in one["file_bytes"].items()), "\n")
    measure.finish("large_networks", about, {"networks": networks, "aims": []}, quick=quick)


if __name__ == "__main__":
    main()
