"""``padim serve`` under load, against the same model in a program.

A service as a process of its own and a client as another, on loopback, with photographs of solar
cells of 300 px, PNG, and a model of the default recipe as an ONNX graph:

- *throughput*: pictures a second at saturation, 16 connections; beside ``Predictor.stream`` over
  the same pictures, decoded beforehand (the alternative), with as many threads as the service has.
- *latency*: of one client that waits for each answer; beside ``Predictor.predict`` of the same
  bytes, with as many threads. What is added is the difference of medians.
- *overload*: twice the throughput, sent at a fixed rate with a deadline: pictures that were
  admitted and not answered, and answers after the deadline, both none by the aim.
- *memory*: of the service after 1,000 and after 50,000 pictures, with a small model.

On a machine of few cores the client takes its part of the throughput.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import measure
import numpy as np
import psutil
from cells import Cells, fit_on_cells, photographs
from serving_client import Job, Seen

import padim
from padim.model.opening import load
from padim.scoring.engines import n_cores

LEAST_THROUGHPUT = 0.85
MOST_ADDED_MS = 2.0
MOST_GROWTH = 1.05
DEADLINE_MS = 500
N_CLIENTS = 16
N_OVERLOAD = 64
N_PICTURES = 64
N_LATENCY = 200
N_ROUNDS = 5
SECONDS = 8.0
MANY = 50_000


@dataclass(frozen=True)
class Running:
    """A service that runs, and where it listens."""

    process: subprocess.Popen[str]
    port: int

    @property
    def resident_bytes(self) -> int:
        """Memory that it holds."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def send(self, pictures: Sequence[Path], recipe: str, **more: float) -> Seen:
        """Have a client send pictures.

        Args:
            pictures: Files.
            recipe: What they are inspected by.
            **more: Fields of ``Job``, and ``deadline_ms``.
        """
        deadline_ms = more.pop("deadline_ms", 60_000)
        path = f"/v1/recipes/{recipe}/inspections?deadline_ms={deadline_ms}"
        job = Job(self.port, path, [str(one) for one in pictures], **more)  # type: ignore[arg-type]  # numbers as they are named
        client = Path(__file__).with_name("serving_client.py")
        words = [sys.executable, "-I", "-S", str(client), json.dumps(asdict(job))]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        return Seen(**json.loads(done.stdout))


@contextmanager
def serving(model: Path, folder: Path) -> Iterator[Running]:
    """Run the service with one model, on a port that is free."""
    words = (sys.executable, "-m", "padim", "serve", model, "--port", "0", "--data", folder)
    process = subprocess.Popen([str(one) for one in words], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        with urlopen(f"{url}/readyz") as answer:
            assert answer.status == 200
        yield Running(process, int(url.rpartition(":")[2]))
    finally:
        process.terminate()
        assert process.wait(60) == 0


def compare_throughput(
    running: Running, cells: Cells, graph: Path, pictures: Sequence[Path], quick: bool
) -> dict[str, Any]:
    """Saturation, beside the predictor's own stream."""
    threads = {"as the service": max(1, n_cores() - 1), "all cores": n_cores()}
    predictors = {name: load(graph, n_threads=n) for name, n in threads.items()}
    pixels = list(cells.pixels(len(pictures)))
    n_images = len(pixels) if quick else 8 * len(pixels)

    def stream(name: str) -> float:
        seconds = measure.seconds(
            lambda: list(predictors[name].stream(pixels[i % len(pixels)] for i in range(n_images)))
        )
        return n_images / seconds

    def serve() -> float:
        seen = running.send(
            pictures, graph.stem, n_clients=N_CLIENTS, seconds=1.0 if quick else SECONDS
        )
        return len(seen.answers_s) / seen.wall_s

    taken = measure.in_turn(
        {"service": serve, **{name: lambda name=name: stream(name) for name in threads}},  # type: ignore[misc]  # each its own name
        1 if quick else N_ROUNDS,
    )
    return {
        **{f"images_per_s, {name}": one.to_json() for name, one in taken.items()},
        "of the stream": taken["service"].over(taken["as the service"]).to_json(),
        "of the stream with all cores": taken["service"].over(taken["all cores"]).to_json(),
        "capacity": taken["service"].median,
    }


def compare_latency(
    running: Running, graph: Path, pictures: Sequence[Path], quick: bool
) -> dict[str, Any]:
    """One client that waits, beside the predictor."""
    predictor = load(graph, n_threads=max(1, n_cores() - 1))
    contents = [one.read_bytes() for one in pictures]
    n_requests = 10 if quick else N_LATENCY

    def predict() -> float:
        times_s = [
            measure.seconds(lambda i=i: predictor.predict(contents[i % len(contents)]).defects())  # type: ignore[misc]  # each its own picture
            for i in range(n_requests)
        ]
        return float(np.median(times_s))

    def ask() -> float:
        seen = running.send(pictures, graph.stem, n_clients=1, n_requests=n_requests)
        return float(np.median(seen.answers_s))

    taken = measure.in_turn({"service": ask, "predict": predict}, 1 if quick else N_ROUNDS)
    added = taken["service"].minus(taken["predict"])
    return {
        "service_s": taken["service"].to_json(),
        "predict_s": taken["predict"].to_json(),
        "added_s": added.to_json(),
    }


def overload(
    running: Running, recipe: str, pictures: Sequence[Path], capacity: float, quick: bool
) -> dict[str, Any]:
    """Twice the capacity at a fixed rate, with a deadline."""
    seen = running.send(
        pictures,
        recipe,
        n_clients=N_OVERLOAD,
        seconds=1.0 if quick else 3 * SECONDS,
        rate=2 * capacity,
        deadline_ms=DEADLINE_MS,
    )
    late = [one for one in seen.answers_s if one > DEADLINE_MS / 1e3]
    return {
        "deadline_ms": DEADLINE_MS,
        "sent_per_s": sum(seen.statuses.values()) / seen.wall_s,
        "answered_per_s": len(seen.answers_s) / seen.wall_s,
        "statuses": seen.statuses,
        "n_unanswered": seen.n_unanswered,
        "n_late": len(late),
        "latest_ms": 1e3 * max(seen.answers_s),
        "n_behind": seen.n_behind,
    }


def watch_memory(folder: Path, pictures: Sequence[Path], quick: bool) -> dict[str, Any]:
    """Memory of a service with a small model over many pictures."""
    model = folder / "small.safetensors"
    padim.fit([str(one) for one in pictures], size_px=64, recipe="fast").save(model)
    padim.export(model, folder / "small.onnx")
    counts = (20, 60) if quick else (1_000, MANY)
    with serving(folder / "small.onnx", folder / "small-data") as running:
        resident, n_sent = {}, 0
        for count in counts:
            seen = running.send(pictures, "small", n_clients=N_CLIENTS, n_requests=count - n_sent)
            assert set(seen.statuses) == {"200"}, seen.statuses
            n_sent = count
            resident[count] = running.resident_bytes
    return {"resident_bytes": resident, "growth": resident[counts[1]] / resident[counts[0]]}


def main() -> None:
    """Run the benchmark."""
    quick = measure.arguments(__doc__).quick
    about = measure.facts(["onnxruntime", "fastapi", "uvicorn", "sqlalchemy", "elpv-dataset"])
    pictures = photographs()[:N_PICTURES]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cells = fit_on_cells(folder / "cells", quick)
        graph = cells.graph("onnx")
        with serving(graph, folder / "data") as running:
            time.sleep(1)
            measure.say("Latency")
            latency = compare_latency(running, graph, pictures, quick)
            measure.say("Throughput")
            throughput = compare_throughput(running, cells, graph, pictures, quick)
            measure.say("Overload")
            overloaded = overload(running, graph.stem, pictures, throughput["capacity"], quick)
        measure.say("Memory")
        memory = watch_memory(folder, pictures, quick)
    ratio = throughput["of the stream"]["median"]
    added_ms = 1e3 * latency["added_s"]["median"]
    aims = [
        measure.Aim("throughput of the stream's", ratio, LEAST_THROUGHPUT, at_least=True),
        measure.Aim("milliseconds added for one client", added_ms, MOST_ADDED_MS),
        measure.Aim("pictures without an answer", overloaded["n_unanswered"], 0, digits=0),
        measure.Aim("answers after the deadline", overloaded["n_late"], 0, digits=0),
        measure.Aim("memory after the last picture", memory["growth"], MOST_GROWTH),
    ]
    content = {
        "latency": latency,
        "throughput": throughput,
        "overload": overloaded,
        "memory": memory,
        "aims": measure.judge(aims),
    }
    measure.finish("serving", about, content, quick=quick)


if __name__ == "__main__":
    main()
