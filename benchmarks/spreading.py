"""A fit by a Ray of two workers beside one process of two threads, and many workers, simulated.

On photographs of solar cells, with the default recipe:

- *spreading*: ``padim fit --cluster ray`` with two workers of one thread each, beside one process
  of two threads (the alternative) that computes the features twice as well. Ray and its workers
  are there already and have loaded libraries; the network is loaded by each worker in this time.
- *weak scaling*, **simulated**: what each worker of so many would have to wait, with as many images
  for each. Pieces of work take as long as was measured, each worker takes the next that is there,
  and the machine that asked takes what comes one after another. The network between machines is
  assumed.
"""

import heapq
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import measure
import numpy as np
from cells import photographs
from cluster import copy_shards, prepare_fitter, run

from padim.fitting import shards
from padim.fitting.begun import _SUMMED
from padim.fitting.fitter import Fitter
from padim.fitting.spread import N_SHARDS, SHARD_IMAGES, fit_by
from padim.model.file import load_moments, save_moments
from padim.model.pair import load_pair, moments_path, save_pair
from padim.workers.protocol import Ended, Shared, Tell, Workers
from padim.workers.ray_cluster import RayCluster

T = TypeVar("T")
R = TypeVar("R")

MOST_COST, LEAST_EFFICIENCY = 1.1, 0.9
N_IMAGES, N_ROUNDS = 600, 2
N_EACH = 4000  # images of each simulated worker
N_WORKERS = (1, 2, 4, 8, 16, 32, 64)
BYTES_PER_S = 1.25e9  # assumed: 10 Gbit/s


@dataclass(frozen=True)
class Costs:
    """Seconds that were measured, of one thread unless something else is said.

    Attributes:
        hash_s: Of an image.
        prepare_s: Of a worker that loads the network, once.
        first_s: Of an image's first look.
        open_s: Of a worker that solves for the second looks, once.
        second_s: Of an image's second look.
        take_s: Of the one who asked, for a first look.
        keep_s: Of the same, for one whose turn is not yet: to write it, and to read it again.
        merge_s: Of the same, to add it up.
        solve_s: Of the same, between the looks and to write the model.
        judge_s: Of the same, for each image at the end.
        look_bytes: Of the file of a first look.
        model_bytes: Of what the second looks are taken under.
    """

    hash_s: float
    prepare_s: float
    first_s: float
    open_s: float
    second_s: float
    take_s: float
    keep_s: float
    merge_s: float
    solve_s: float
    judge_s: float
    look_bytes: float
    model_bytes: float


def _spend(
    durations: Iterable[float], n_workers: int, start: float, first_s: float
) -> list[tuple[float, int]]:
    """When each piece ends, and its number, if each worker takes the next; once it has set up."""
    free = [(start + first_s, worker) for worker in range(n_workers)]
    ends = []
    for number, duration in enumerate(durations):
        when, worker = heapq.heappop(free)
        heapq.heappush(free, (when + duration, worker))
        ends.append((when + duration, number))
    return ends


def simulate(costs: Costs, n_workers: int, n_each: int) -> float:
    """Seconds that a fit of so many images for each of some workers would take."""
    n_images = n_workers * n_each
    n_shards = max(N_SHARDS, n_images // SHARD_IMAGES)
    # Hashes are as good as drawn, so shards are of several sizes.
    drawn = np.random.default_rng(n_workers)
    sizes = drawn.multinomial(n_images, np.full(n_shards, 1 / n_shards))
    chunks = [64 * costs.hash_s] * math.ceil(n_images / 64)
    hashed = max(end for end, _ in _spend(chunks, n_workers, 0.0, 0.0))
    looks = _spend(sizes * costs.first_s, n_workers, hashed, costs.prepare_s)
    # Whoever asked takes what comes, and adds up what is next.
    clock, there, number = hashed, set[int](), 0
    for end, which in sorted(looks):
        clock = max(clock, end) + costs.look_bytes / BYTES_PER_S + costs.take_s
        if which != number:
            clock += costs.keep_s
        there.add(which)
        while number in there:
            clock, number = clock + costs.merge_s + costs.keep_s / _SUMMED, number + 1
    clock += costs.solve_s + costs.model_bytes / BYTES_PER_S * math.ceil(math.log2(n_workers + 1))
    again = _spend(sizes * costs.second_s, n_workers, clock, costs.open_s)
    return float(max(end for end, _ in again) + n_images * costs.judge_s)


@dataclass(frozen=True)
class Timed:
    """Workers whose pieces of work are timed where they are done."""

    workers: Workers
    taken: dict[str, list[tuple[object, float]]] = field(default_factory=dict)

    def put(self, blob: T) -> Shared[T]:
        """As ``Workers.put``."""
        return self.workers.put(blob)

    def map(
        self,
        work: Callable[[T, Tell], R],
        items: Iterable[T],
        hear: Callable[[Any], None],
        clean_up: Callable[[T], None] = lambda item: None,
    ) -> Generator[Ended[T, R], None, None]:
        """As ``Workers.map``."""
        name = getattr(getattr(work, "func", work), "__name__", "")
        for one in self.workers.map(partial(_time, work=work), items, hear, clean_up):
            assert one.result is not None, one.failure
            result, taken = one.result
            self.taken.setdefault(name, []).append((one.item, taken))
            yield Ended(one.item, result, None)


def _time(item: T, tell: Tell, *, work: Callable[[T, Tell], R]) -> tuple[R, float]:
    start = time.perf_counter()
    return work(item, tell), time.perf_counter() - start


def by_ray(folder: Path, images: Sequence[Path]) -> dict[str, float]:
    """Fit by two workers, in this process and theirs; what it takes, and its parts."""
    import ray

    ray.init(
        num_cpus=2, include_dashboard=False, object_store_memory=512 << 20, log_to_driver=False
    )
    cluster, fitter = RayCluster(), prepare_fitter(1)
    _fit_by(cluster, fitter, images[:64], folder / "warm.safetensors")
    timed, out = Timed(cluster), folder / "ray.safetensors"
    taken = measure.seconds(lambda: _fit_by(timed, fitter, images, out))

    def seconds_of(name: str, n: Callable[[Any], int]) -> float:
        # Of the pieces that set nothing up.
        each = sorted(taken / n(item) for item, taken in timed.taken[name])
        return float(np.median(each))

    n_bytes = moments_path(out).stat().st_size
    state, moments = load_pair(out)
    sent = cluster.put(moments)

    def keep() -> None:
        save_moments(moments, state, folder / "kept.safetensors")
        load_moments(folder / "kept.safetensors")

    return {
        "seconds": taken,
        "hash_s": seconds_of("_hash", len),
        "first_s": seconds_of("_look", lambda part: len(part.images)),
        "second_s": seconds_of("_look_again", lambda part: len(part.images)),
        "take_s": measure.seconds(sent.get),
        "keep_s": measure.seconds(keep),
        "prepare_s": measure.seconds(lambda: prepare_fitter(1)),
        "open_s": measure.seconds(lambda: shards.SecondLook.open(out, n_threads=1)),
        "look_bytes": n_bytes,
        "model_bytes": n_bytes + out.stat().st_size,
    }


def _fit_by(workers: Workers, fitter: Fitter, images: Sequence[Path], out: Path) -> None:
    settings = replace(fitter.settings, n_threads=1)
    with TemporaryDirectory() as scratch:
        fitted = fit_by(workers, images, settings, None, Path(scratch))
        assert fitted.moments is not None
        save_pair(fitted.state, fitted.moments, out)


def find_costs(parts: Sequence[dict[str, float]], shard_s: dict[str, float]) -> Costs:
    """Put together what was measured in several rounds, and of merges of two numbers of shards."""
    medians = {name: float(np.median([one[name] for one in parts])) for name in parts[0]}
    medians.pop("seconds")
    return Costs(**medians, **shard_s)


def measure_merges(folder: Path, n_images: int, n_merged: int) -> dict[str, float]:
    """What merging takes, by that of two shards and of many, and of few images and of all."""
    parts, few = ("1/2", "2/2"), n_images // 4
    judged: dict[int, float] = {}
    for n in (few, n_images):
        run("first", folder, *parts, n_images=n)
        two = run("merge", folder, "", n_images=n)[0]["seconds"]
        run("second", folder, *parts, n_images=n)
        judged[n] = run("scores", folder, "", n_images=n)[0]["seconds"]
    copy_shards(folder, n_merged)
    many = run("merge", folder, "", n_images=n_images)[0]["seconds"]
    merge_s = (many - two) / (n_merged - 2)
    judge_s = max(0.0, judged[n_images] - judged[few]) / (n_images - few)
    solve_s = two - 2 * merge_s + judged[few] - few * judge_s
    return {"merge_s": merge_s, "solve_s": solve_s, "judge_s": judge_s}


def main() -> None:
    """Run the benchmark."""
    quick = measure.arguments(__doc__).quick
    about = measure.facts(["onnxruntime", "elpv-dataset", "ray"])
    n_images, n_merged = (80, 8) if quick else (N_IMAGES, 64)
    parts: list[dict[str, float]] = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        run("single", folder, "", n_images=40)  # writes the network as a graph, once

        def ray_seconds() -> float:
            command = (sys.executable, __file__, "--child", str(folder), str(n_images))
            said = subprocess.run(command, stdout=subprocess.PIPE, check=True, encoding="utf-8")
            parts.append(json.loads(said.stdout.splitlines()[-1]))
            return parts[-1]["seconds"]

        taken = measure.in_turn(
            {
                "single": lambda: run("single", folder, "", n_images=n_images)[0]["seconds"],
                "ray": ray_seconds,
            },
            1 if quick else N_ROUNDS,
            0 if quick else 1,
        )
        costs = find_costs(parts, measure_merges(folder, 4 * n_images, n_merged))
    simulated = {n: simulate(costs, n, N_EACH) for n in N_WORKERS}
    efficiency = {n: simulated[1] / seconds for n, seconds in simulated.items()}
    cost = taken["ray"].over(taken["single"])
    last = N_WORKERS[-1]
    aims = [
        measure.Aim("time by two workers of Ray, of one process's", cost.median, MOST_COST),
        measure.Aim(
            f"simulated efficiency of {last} workers", efficiency[last], LEAST_EFFICIENCY, True
        ),
    ]
    content: dict[str, Any] = {
        "n_images": n_images,
        "seconds": {name: one.to_json() for name, one in taken.items()},
        "ray of single": cost.to_json(),
        "costs": asdict(costs),
        "simulated": {
            "is_simulated": True,
            "images_each": N_EACH,
            "bytes_per_s": BYTES_PER_S,
            "seconds": simulated,
            "efficiency": efficiency,
        },
        "aims": measure.judge(aims),
    }
    measure.finish("spreading", about, content, quick=quick)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        found = photographs()
        places = np.linspace(0, len(found) - 1, int(sys.argv[3])).round().astype(int)
        print(json.dumps(by_ray(Path(sys.argv[2]), [found[i] for i in places])))
    else:
        main()
