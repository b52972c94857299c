"""A fit in shards beside the same fit in one process, and what merging many shards takes.

On photographs of solar cells, with the default recipe:

- *spreading*: two processes of one thread each take both looks at a shard each, and the looks are
  merged; beside one process of two threads that takes both looks at all images (the alternative),
  and computes the features twice as well. The longest process of each step counts, without what
  loads libraries and the network.
- *bytes*: of a shard's file, beside those of the model's own moments.
- *merging*: first looks at 64 shards. One is real; the others are copies of it that name other
  images, and take as many bytes and sums.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import measure
import numpy as np
from cells import photographs

from padim.fitting import shard_images, shards
from padim.fitting.fitter import Fitter
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitSettings
from padim.memory import watch_peak
from padim.model.pair import load_pair, moments_path, save_pair
from padim.model.shard_file import Shard, load_look, save_look, save_scores

MOST_COST, MOST_BYTES, MOST_MERGE_S, MOST_MERGE_BYTES = 1.1, 1.3, 30.0, 1.5e9
N_IMAGES, N_MERGED, N_ROUNDS = 600, 64, 3


def prepare_fitter(n_threads: int) -> Fitter:
    """A fitter of the default recipe that keeps no features between its looks."""
    settings = FitSettings(device="cpu", n_threads=n_threads, keep_moments=True)
    return replace(prepare(settings), kept_feature_bytes=0)


def child(step: str, folder: Path, shard: str, images: Sequence[Path]) -> dict[str, float]:
    """Do one step in this process."""
    out = folder / "part.safetensors"
    if step == "single":
        fitter = prepare_fitter(2)
        taken = measure.seconds(lambda: _fit(fitter, images, folder / "single.safetensors"))
    elif step == "first":
        fitter, part = prepare_fitter(1), Shard.parse(shard)

        def look() -> None:
            found = shards.look_at_shard(fitter, shard_images.choose_images(images, part), part)
            save_look(found, folder / f"{part.number}.moments")

        taken = measure.seconds(look)
    elif step == "second":
        part = Shard.parse(shard)

        def look_again() -> None:
            chosen = shard_images.choose_images(images, part)
            second = shards.SecondLook.open(out, n_threads=1)
            save_scores(second.look(chosen, part), second.state, folder / f"{part.number}.scores")

        taken = measure.seconds(look_again)
    elif step == "merge":
        found = sorted(folder.glob("*.moments"))
        peak = watch_peak()
        taken = measure.seconds(lambda: shards.merge_looks(found, out))
        return {"seconds": taken, "peak_bytes": float(peak() or 0)}
    else:
        found = sorted(folder.glob("*.scores"))
        taken = measure.seconds(lambda: shards.merge_scores(out, found, out))
    return {"seconds": taken}


def _fit(fitter: Fitter, images: Sequence[Path], path: Path) -> None:
    fitted = fitter.fit(images)
    assert fitted.moments is not None
    save_pair(fitted.state, fitted.moments, path)


def run(step: str, folder: Path, *parts: str, n_images: int) -> list[dict[str, float]]:
    """Do a step in a process for each part, all at once."""
    processes = [
        subprocess.Popen(
            (sys.executable, __file__, "--child", step, str(folder), part, str(n_images)),
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        for part in parts
    ]
    said = [one.communicate()[0] for one in processes]
    assert not any(one.returncode for one in processes)
    return [json.loads(one) for one in said]


def spread(folder: Path, n_images: int) -> float:
    """Seconds of a fit in two shards."""
    parts = ("1/2", "2/2")
    total = 0.0
    for step, of in (("first", parts), ("merge", ("",)), ("second", parts), ("scores", ("",))):
        total += max(one["seconds"] for one in run(step, folder, *of, n_images=n_images))
    return total


def copy_shards(folder: Path, n_shards: int) -> None:
    """Write shards that take as much as a real one, of images that are there by name alone."""
    first = load_look(folder / "1.moments")
    for path in folder.glob("*.moments"):
        path.unlink()
    generator = np.random.default_rng(0)
    for number in range(1, n_shards + 1):
        hashes: list[str] = []
        while len(hashes) < first.state.count:
            digest = generator.bytes(32).hex()
            if Shard(number, n_shards).has(digest):
                hashes.append(digest)
        state = replace(first.state, image_sha256=tuple(sorted(hashes)))
        look = replace(first, shard=Shard(number, n_shards), state=state)
        save_look(look, folder / f"{number:02}.moments")


def main() -> None:
    """Run the benchmark."""
    quick = measure.arguments(__doc__).quick
    about = measure.facts(["onnxruntime", "elpv-dataset"])
    n_images, n_merged = (40, 4) if quick else (N_IMAGES, N_MERGED)
    with TemporaryDirectory() as name:
        folder = Path(name)
        run("single", folder, "", n_images=40)  # writes the network as a graph, once
        taken = measure.in_turn(
            {
                "single": lambda: run("single", folder, "", n_images=n_images)[0]["seconds"],
                "shards": lambda: spread(folder, n_images),
            },
            1 if quick else N_ROUNDS,
        )
        cost = taken["shards"].over(taken["single"])
        shard_bytes = (folder / "1.moments").stat().st_size
        own_bytes = moments_path(folder / "single.safetensors").stat().st_size
        counts = load_pair(folder / "part.safetensors")[0].count
        measure.say("Merging")
        copy_shards(folder, n_merged)
        (merged,) = run("merge", folder, "", n_images=n_images)
    ratio = shard_bytes / own_bytes
    aims = [
        measure.Aim("time in two shards, of one process's", cost.median, MOST_COST),
        measure.Aim("bytes of a shard, of the moments'", ratio, MOST_BYTES),
        measure.Aim("seconds to merge", merged["seconds"], MOST_MERGE_S),
        measure.Aim("GB to merge", merged["peak_bytes"] / 1e9, MOST_MERGE_BYTES / 1e9),
    ]
    content: dict[str, Any] = {
        "n_images": counts,
        "seconds": {name: one.to_json() for name, one in taken.items()},
        "shards of single": cost.to_json(),
        "shard_bytes": shard_bytes,
        "moments_bytes": own_bytes,
        "n_merged": n_merged,
        "merge": merged,
        "aims": measure.judge(aims),
    }
    measure.finish("cluster", about, content, quick=quick)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        step, folder, shard, n_images = sys.argv[2:]
        found = photographs()
        places = np.linspace(0, len(found) - 1, int(n_images)).round().astype(int)
        print(json.dumps(child(step, Path(folder), shard, [found[i] for i in places])))
    else:
        main()
