"""Large networks on a CPU: time, memory and size, of the network and of the distances.

Networks of the size that the paper's authors and others take, with random weights, on which time
does not depend, beside the default one, at 256 px with the default recipe and fitted on
photographs of solar cells. Measured for one image, in ONNX Runtime and in OpenVINO, in turn:

- *whole*: the exported graph, from decoded pixels to map and score.
- *trunk* (the alternative): the network alone, in the same engine. What is left is the head's, and
  beside it stand the bytes of its whitening rows over its time, and what this machine reads from
  memory on as many threads.

The peak is that of ``padim predict`` on one image, a fresh process.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import measure
import numpy as np
import process
from cells import photographs, write_random_weights
from scoring import N_CALLS, read_bytes_per_s

from padim.backbones import DEFAULT_BACKBONE
from padim.features.onnx import write_onnx
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitSettings
from padim.model.export import export
from padim.model.file import save_state
from padim.model.padim import network_of
from padim.scoring.engines import OWN_RATES
from padim.scoring.graph import Graph

NAMES = (DEFAULT_BACKBONE, "efficientnet_v2_m", "efficientnet_b7_ns")
ENGINES = {"onnxruntime": "m.onnx", "openvino": "m.xml"}
SIDE_PX = 256
N_FITTED = 16
N_ROUNDS = 15


def measure_network(name: str, folder: Path, quick: bool) -> list[dict[str, Any]]:
    """Time a network, one row for each engine."""
    size_px = (64, 64) if quick else (SIDE_PX, SIDE_PX)
    weights = None if name == DEFAULT_BACKBONE else write_random_weights(name, folder)
    settings = FitSettings(
        backbone=name, weights=weights, size_px=size_px, include_backbone=True, device="cpu"
    )
    fitter = prepare(settings)
    state = fitter.fit(photographs()[:N_FITTED]).state
    model, trunk = folder / "m.safetensors", folder / "trunk.onnx"
    save_state(state, model)
    names = [f"level_{i}" for i in range(len(state.pyramid.shapes))]
    write_onnx(network_of(state).features(), trunk, size_px, names, "")
    pixels = np.random.default_rng(0).integers(0, 256, (1, *size_px, 3), np.uint8)
    rows = []
    for engine, file in ENGINES.items():
        measure.say(f"{name}, {engine}")
        export(model, folder / file)
        graphs = {"whole": Graph(folder / file), "trunk": Graph(trunk, engine)}
        calls = {
            key: partial(measure.seconds, partial(graph.runtime.run, pixels, OWN_RATES))
            for key, graph in graphs.items()
        }
        settled = {key: partial(measure.settled, call, N_CALLS) for key, call in calls.items()}
        taken = measure.in_turn(settled, 2 if quick else N_ROUNDS)
        head = taken["whole"].minus(taken["trunk"])
        words = (sys.executable, "-m", "padim", "predict", folder / file, photographs()[-1])
        peak_bytes = process.run((*words, "-o", folder / "out", "--quiet")).peak_bytes
        parts = (folder / file, (folder / file).with_suffix(".bin"))
        file_bytes = sum(path.stat().st_size for path in parts if path.is_file())
        rows_bytes = 4 * state.pyramid.n_entries
        rows.append(
            {
                "backbone": name,
                "engine": engine,
                "n_numbers": state.pyramid.n_entries,
                "whole_s": taken["whole"].to_json(),
                "trunk_s": taken["trunk"].to_json(),
                "head_over_trunk": head.over(taken["trunk"]).to_json(),
                "rows_bytes": rows_bytes,
                "rows_bytes_per_s": rows_bytes / head.median,
                "peak_bytes": peak_bytes,
                "file_bytes": file_bytes,
                "shown": (
                    f"{name}, {engine}",
                    *(taken[key].shown(1e3) for key in ("whole", "trunk")),
                    head.over(taken["trunk"]).shown(digits=2),
                    f"{rows_bytes / 1e6:.0f}",
                    f"{rows_bytes / head.median / 1e9:.1f}",
                    f"{peak_bytes / 1e6:.0f}",
                    f"{file_bytes / 1e6:.0f}",
                ),
            }
        )
    return rows


def main() -> None:
    """Run the benchmark."""
    quick = measure.arguments(__doc__).quick
    about = measure.facts(["onnxruntime", "openvino"])
    rows = []
    for name in NAMES[:2] if quick else NAMES:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure_network(name, Path(folder), quick)
    bandwidth = read_bytes_per_s(quick)
    measure.print_table(
        (
            *("network, engine", "whole ms", "trunk ms", "head / trunk"),
            *("rows MB", "rows GB/s", "peak MB", "file MB"),
        ),
        [row.pop("shown") for row in rows],
    )
    print(f"Read from memory: {bandwidth / 1e9:.1f} GB/s.")
    content = {
        "settings": {"size_px": SIDE_PX, "n_rounds": N_ROUNDS, "n_calls": N_CALLS, "n_warm_up": 1},
        "rows": rows,
        "read_bytes_per_s": bandwidth,
    }
    measure.finish("large_networks", about, content, quick=quick)


if __name__ == "__main__":
    main()
