"""What is waited for: imports, help, the first fit, and the processor time of a program's fit.

Measures whole processes from start to end, files warm in the operating system's cache, on 320
photographs of solar cells:

- *import padim* and *padim --help*, beside *python -c pass* (the alternative).
- *padim fit*, its network in the cache as a graph; the same *for two images*: what a fit costs
  before the first image and after the last; and *until its first image* is decoded, beside
  *import torch* (the alternative): no fit begins before; the *first fit* of a network, which writes
  the graph.
- *padim.fit in a program*, with padim imported before torch and after it, beside the command (the
  alternative): the same work, so the same processor time, unless threads spin while they wait.
  torch learns not to when it is loaded: imported first, it is too late.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import measure
import numpy as np
import process
from cells import N_QUICK, photographs

N_IMAGES = 320
N_ROUNDS = 5
N_STARTS = 15
MOST_IMPORT_S = 0.15
MOST_FIRST_S = 10
MOST_FIXED_S = 1.5
MOST_CPU = 1.1  # of the command's
_PROGRAM = "import {first}, {then}\npadim.fit({train!r}).save({out!r})\n"
# Says when a photograph is opened after torch was loaded; sizes are looked at before.
_WATCHED = """
import sys, time
begin, seen = float(sys.argv.pop(1)), []
def look(event, args):
    if event == "open" and "torch" in sys.modules and str(args[0]).endswith(".png") and not seen:
        seen.append(time.perf_counter() - begin)
sys.addaudithook(look)
from padim.__main__ import main
try:
    main()
finally:
    print(seen[0])
"""


def fit(train: Path, out: Path, cache: Path | None = None) -> process.Ran:
    """Fit by padim's command; in the user's real cache when None."""
    environment = dict(os.environ) | ({} if cache is None else {"XDG_CACHE_HOME": str(cache)})
    command = (sys.executable, "-m", "padim", "fit", train, "-o", out, "--quiet")
    return process.run(command, environment)


def fit_in_program(train: Path, out: Path, *, padim_first: bool) -> process.Ran:
    """Fit by a program, which imports padim before torch or after it."""
    first, then = ("padim", "torch") if padim_first else ("torch", "padim")
    code = _PROGRAM.format(first=first, then=then, train=str(train), out=str(out))
    return process.run((sys.executable, "-c", code))


def fit_until_first_image(train: Path, out: Path) -> process.Ran:
    """Fit by padim's command; the time is the one until it decodes."""
    words = ("fit", train, "-o", out, "--quiet")
    ran = process.run((sys.executable, "-c", _WATCHED, time.perf_counter(), *words))
    return ran._replace(wall_s=float(ran.stdout.split()[-1]))


def link(paths: list[Path], folder: Path) -> Path:
    """Make a folder of links to images."""
    folder.mkdir()
    for path in paths:
        (folder / path.name).symlink_to(path.resolve())
    return folder


def main() -> None:
    """Run the benchmark."""
    quick = measure.arguments(__doc__).quick
    about = measure.facts(["onnxruntime", "elpv-dataset"])
    cells = photographs()
    n_images = N_QUICK if quick else N_IMAGES
    chosen = np.linspace(0, len(cells) - 1, n_images).round().astype(int)
    python = sys.executable
    starts = {
        "python": (python, "-c", "pass"),
        "import padim": (python, "-c", "import padim"),
        "padim --help": (python, "-m", "padim", "--help"),
    }
    runs: dict[str, list[process.Ran]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train = link([cells[i] for i in chosen], folder / "train")
        two = link([cells[i] for i in chosen[:2]], folder / "two")
        out = folder / "model.safetensors"
        for _ in range(1 if quick else N_STARTS):
            for key, command in starts.items():
                runs.setdefault(key, []).append(process.run(command))
        fit(two, out)
        for i in range(1 if quick else N_ROUNDS):
            measure.say(f"Fits, round {i + 1}")
            for key, ran in (
                ("fit", fit(train, out)),
                ("fit of two images", fit(two, out)),
                ("until its first image", fit_until_first_image(two, out)),
                ("import torch", process.run((python, "-c", "import torch"))),
                ("first fit", fit(train, out, folder / f"cache{i}")),
                ("program, padim first", fit_in_program(train, out, padim_first=True)),
                ("program, torch first", fit_in_program(train, out, padim_first=False)),
            ):
                runs.setdefault(key, []).append(ran)
    wall = {key: measure.Spread(tuple(one.wall_s for one in some)) for key, some in runs.items()}
    cpu = {key: measure.Spread(tuple(one.cpu_s for one in some)) for key, some in runs.items()}
    over = {
        key: (wall[key].over(wall[base]), cpu[key].over(cpu[base]))
        for key in runs
        for base in ("python" if key in starts else "fit",)
    }
    before_torch = wall["until its first image"].over(wall["import torch"])
    peak = {key: max(one.peak_bytes for one in some) for key, some in runs.items()}
    measure.print_table(
        ("", "seconds", "processor seconds", "to python or fit", "processor", "peak MB"),
        [
            (
                key,
                wall[key].shown(digits=2),
                cpu[key].shown(digits=2),
                *(ratio.shown(digits=2) for ratio in over[key]),
                f"{peak[key] / 1e6:.0f}",
            )
            for key in runs
        ],
    )
    print(f"A fit until its first image, over import torch: {before_torch.shown(digits=2)}")
    aims = (
        measure.Aim("import padim, seconds", wall["import padim"].median, MOST_IMPORT_S, digits=2),
        measure.Aim("padim --help, seconds", wall["padim --help"].median, MOST_IMPORT_S, digits=2),
        measure.Aim("First fit, seconds", wall["first fit"].median, MOST_FIRST_S),
        measure.Aim("Fit of two images, seconds", wall["fit of two images"].median, MOST_FIXED_S),
        measure.Aim(
            "Fit until its first image, seconds",
            wall["until its first image"].median,
            MOST_FIXED_S,
        ),
        measure.Aim(
            "A program's fit, processor time of the command's",
            over["program, padim first"][1].median,
            MOST_CPU,
            digits=2,
        ),
    )
    content = {
        "settings": {"n_images": n_images, "n_rounds": N_ROUNDS, "n_starts": N_STARTS},
        "seconds": {key: spread.to_json() for key, spread in wall.items()},
        "processor_seconds": {key: spread.to_json() for key, spread in cpu.items()},
        "until_first_image_over_import_torch": before_torch.to_json(),
        "over": {key: [ratio.to_json() for ratio in ratios] for key, ratios in over.items()},
        "peak_bytes": peak,
        "aims": measure.judge(aims),
    }
    measure.finish("start", about, content, quick=quick)


if __name__ == "__main__":
    main()
