"""Two processes that score on one machine at once.

Measures images per second, one image at a time, of one process alone and of two together, each with
a thread for each core: as padim sets its engines up, and (the alternative) as the engines set
themselves up; OpenVINO for low latency and in float32, so that only its threads differ. The aim:
two together do at least 0.9 of one alone.

A process scores for as long as it is told and says how many images it did. Those of the same kind
are loaded before, and wait for their turn without a core.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import measure
import numpy as np
from cells import fit_on_cells
from numpy.typing import NDArray

from padim.scoring.engines import INPUT
from padim.scoring.graph import Graph

AIM = 0.9
PADIM, ITSELF = "as padim sets it up", "by itself"
KINDS = tuple((engine, by) for engine in ("onnxruntime", "openvino") for by in (PADIM, ITSELF))
N_ROUNDS = 5
SECONDS = 4.0

Run = Callable[[NDArray[np.uint8]], object]


def onnxruntime_itself(path: Path) -> Run:
    """Load a graph as ONNX Runtime does when nothing is asked of it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {INPUT: images})


def openvino_itself(path: Path) -> Run:
    """Load a graph as OpenVINO does for low latency."""
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    model.reshape([1, *list(model.input(0).get_partial_shape())[1:]])
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda images: request.infer([images], share_inputs=True)


def child(path: Path, engine: str, by: str, image: Path) -> None:
    """Score an image again and again, for as many seconds as each line of standard input says.

    Args:
        path: The graph.
        engine: Who runs it.
        by: Who sets that up.
        image: A ``.npy`` of network size.
    """
    itself = {"onnxruntime": onnxruntime_itself, "openvino": openvino_itself}
    run: Run = Graph(path, engine) if by == PADIM else itself[engine](path)
    images = np.load(image)[None]
    run(images)
    print("ready", flush=True)
    for line in sys.stdin:
        n_images, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < float(line):
            run(images)
            n_images += 1
        print(json.dumps(n_images / elapsed), flush=True)


@contextmanager
def process(path: Path, engine: str, by: str, image: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a child that is ready to score, and end it in the end.

    Args:
        path: The graph.
        engine: Who runs it.
        by: Who sets that up.
        image: A ``.npy`` of network size.
    """
    words = (sys.executable, __file__, "--child", str(path), engine, by, str(image))
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, encoding="utf-8") as started:
        assert started.stdout is not None
        started.stdout.readline()
        yield started


def images_per_s(children: Sequence[subprocess.Popen[str]], seconds: float) -> float:
    """What some children do at once, all together."""
    for one in children:
        print(seconds, file=one.stdin, flush=True)
    return sum(float(one.stdout.readline()) for one in children if one.stdout is not None)


def main() -> None:
    """Run the benchmark."""
    quick = measure.arguments(__doc__).quick
    n_rounds, seconds = (1, 0.5) if quick else (N_ROUNDS, SECONDS)
    about = measure.facts(["elpv-dataset", "onnxruntime", "openvino"])
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        cells = fit_on_cells(folder, quick)
        graphs = {"onnxruntime": cells.graph("onnx"), "openvino": cells.graph("openvino")}
        image = folder / "image.npy"
        np.save(image, cells.pixels(1)[0])
        candidates: dict[str, Callable[[], float]] = {}
        for engine, by in KINDS:
            measure.say(f"Two processes of {engine}, {by}")
            both = [
                stack.enter_context(process(graphs[engine], engine, by, image)) for _ in range(2)
            ]
            for n_children in (1, 2):
                measured = partial(images_per_s, both[:n_children], seconds)
                candidates[f"{engine}, {by}, {n_children}"] = measured
        taken = measure.in_turn(candidates, n_rounds)
    rows, shown, aims = [], [], []
    for engine, by in KINDS:
        alone, together = (taken[f"{engine}, {by}, {n}"] for n in (1, 2))
        ratio = together.over(alone)
        rows.append(
            {
                "engine": engine,
                "set_up": by,
                "alone_per_s": alone.to_json(),
                "together_per_s": together.to_json(),
                "together_over_alone": ratio.to_json(),
            }
        )
        shown.append((f"{engine}, {by}", alone.shown(), together.shown(), ratio.shown(digits=2)))
        if by == PADIM:
            what = f"{engine}, two together over one alone"
            aims.append(measure.Aim(what, ratio.median, AIM, at_least=True))
    headers = ("images per second", "one alone", "two together", "together / alone")
    measure.print_table(headers, shown)
    content = {
        "settings": {"n_rounds": N_ROUNDS, "n_warm_up": 1, "seconds": SECONDS},
        "rows": rows,
        "aims": measure.judge(aims),
    }
    measure.finish("processes", about, content, quick=quick)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), sys.argv[3], sys.argv[4], Path(sys.argv[5]))
    else:
        main()
