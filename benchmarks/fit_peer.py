"""A whole fit as a command, against anomalib's.

Measured on the 320 good magnetic tiles that the environment variable PADIM_DATA names the folder
of, with the default backbone and the three levels that anomalib looks at, on a thread for each
core, each a fresh process:

- *padim fit --no-calibrate*: the whole process, ``python -m padim fit TILES -o FILE``, its trunk in
  the cache, without the threshold that the other has no counterpart of.
- *padim fit*: the same with it, each image left out in turn.
- *padim fit, empty cache*: the same where the trunk has to be written first; once, not counted.
- *anomalib, fit and save* (the alternative): the same network, taps and size in its own engine, and
  its checkpoint. Its imports, building its model and its export are left out, in its favour.
- *anomalib, process*: the whole process with them.

The peaks are those of the largest single process, without anomalib's workers that decode.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
import process
from cells import N_QUICK
from peer_env import anomalib_python, fit_peer

from padim.datasets import list_images

TIMES_FASTER = 5
PART_OF_MEMORY = 0.25
N_ROUNDS = 3
THREE_LEVELS = ("--taps", "1,2,4", "--coarse-scale", "0")


def fit_ours(train: Path, out: Path, *options: str, cache: Path | None = None) -> process.Ran:
    """Fit by padim's command.

    Args:
        train: Folder of normal images.
        out: The model file.
        options: Of the command.
        cache: The user's cache folder; the real one when None.
    """
    environment = dict(os.environ)
    if cache is not None:
        environment["XDG_CACHE_HOME"] = str(cache)
    choices = (*THREE_LEVELS, "--quiet", *options)
    return process.run(
        (sys.executable, "-m", "padim", "fit", train, "-o", out, *choices), environment
    )


def main() -> None:
    """Run the benchmark."""
    quick = measure.arguments(__doc__).quick
    if "PADIM_DATA" not in os.environ:
        measure.say("Nothing was measured: PADIM_DATA does not say where the magnetic tiles are.")
        return
    tiles = Path(os.environ["PADIM_DATA"]) / "magnetic_tile" / "train" / "good"
    n_rounds = 1 if quick else N_ROUNDS
    about = measure.facts(["onnxruntime"])
    anomalib_python()
    rounds: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train = folder / "tiles"
        train.mkdir()
        paths = list_images(tiles)[: N_QUICK if quick else None]
        for path in paths:
            (train / path.name).symlink_to(path.resolve())
        model = folder / "model.safetensors"
        measure.say("With an empty cache, then with the trunk in it")
        empty = fit_ours(train, model, cache=folder / "cache")
        fit_ours(train, model)
        for i in range(n_rounds):
            measure.say(f"Round {i + 1} of {n_rounds}")
            own = fit_ours(train, model, "--no-calibrate")
            calibrated = fit_ours(train, model)
            said, peer = fit_peer(train, folder / "anomalib")
            rounds.append(
                {
                    "ours_s": own.wall_s,
                    "calibrated_s": calibrated.wall_s,
                    "peer_fit_save_s": said["fit_s"] + said["save_s"],
                    "peer_process_s": peer.wall_s,
                    "ours_bytes": own.peak_bytes,
                    "calibrated_bytes": calibrated.peak_bytes,
                    "peer_fit_bytes": said["fit_peak_bytes"],
                    "peer_process_bytes": peer.peak_bytes,
                }
            )
        model_bytes = model.stat().st_size
    taken = {key: measure.Spread(tuple(one[key] for one in rounds)) for key in rounds[0]}
    faster = taken["peer_fit_save_s"].over(taken["ours_s"])
    memory = taken["ours_bytes"].over(taken["peer_fit_bytes"])
    measure.print_table(
        ("", "seconds", "peak MB"),
        [
            (
                "padim fit --no-calibrate",
                taken["ours_s"].shown(),
                taken["ours_bytes"].shown(1e-6, 0),
            ),
            (
                "padim fit",
                taken["calibrated_s"].shown(),
                taken["calibrated_bytes"].shown(1e-6, 0),
            ),
            (
                "padim fit, empty cache",
                f"{empty.wall_s:.1f}",
                f"{empty.peak_bytes / 1e6:.0f}",
            ),
            (
                "anomalib, fit and save",
                taken["peer_fit_save_s"].shown(),
                taken["peer_fit_bytes"].shown(1e-6, 0),
            ),
            (
                "anomalib, process",
                taken["peer_process_s"].shown(),
                taken["peer_process_bytes"].shown(1e-6, 0),
            ),
        ],
    )
    aims = (
        measure.Aim("Times faster than anomalib, fit and save", faster.median, TIMES_FASTER, True),
        measure.Aim("Part of its memory", memory.median, PART_OF_MEMORY),
    )
    content: dict[str, Any] = {
        "settings": {"n_images": len(paths), "n_rounds": N_ROUNDS, "n_warm_up": 1},
        "measured": {key: spread.to_json() for key, spread in taken.items()},
        "empty_cache": {"wall_s": empty.wall_s, "peak_bytes": empty.peak_bytes},
        "times_faster": faster.to_json(),
        "part_of_memory": memory.to_json(),
        "model_bytes": model_bytes,
        "checkpoint_bytes": said["checkpoint_bytes"],
        "aims": measure.judge(aims),
    }
    measure.finish("fit_peer", about, content, quick=quick)


if __name__ == "__main__":
    main()
