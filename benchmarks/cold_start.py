"""One picture from a cold start, by an installation without torch.

Measures whole processes from start to end, files warm in the operating system's cache:

- *graph*: ``padim predict MODEL.onnx ONE.png -o DIR`` by an environment that holds nothing but the
  wheel and what it depends on, made anew.
- *model file* (the alternative): the same command on the ``.safetensors`` by this environment, with
  ``--engine torch``.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import measure
import process
from cells import fit_on_cells
from PIL import Image

MOST_SECONDS = 1.0
MOST_MEGABYTES = 350
N_ROUNDS = 10
ENVIRONMENT = measure.ROOT / "build" / "cold_start"


def install() -> Path:
    """Make an environment of the wheel alone, without pip.

    Returns:
        Its Python.
    """
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    python = ENVIRONMENT / "venv" / "bin" / "python"
    commands: tuple[Sequence[str], ...] = (
        ("venv", "--without-pip", str(ENVIRONMENT / "venv")),
        ("pip", "wheel", "--quiet", "--no-deps", "-w", str(ENVIRONMENT), str(measure.ROOT)),
    )
    for command in commands:
        subprocess.run((sys.executable, "-m", *command), check=True, stdout=sys.stderr)
    (wheel,) = ENVIRONMENT.glob("*.whl")
    into = ("pip", "--python", str(python), "install", "--quiet", str(wheel))
    subprocess.run((sys.executable, "-m", *into), check=True, stdout=sys.stderr)
    return python


def installed_bytes(python: Path) -> dict[str, int]:
    """Size of each installed package, compiled modules included, the largest first.

    Args:
        python: Of the environment.
    """
    (packages,) = python.parents[1].glob("lib/python*/site-packages")
    sizes = {
        place.name: sum(
            path.stat().st_size for path in (place, *place.rglob("*")) if path.is_file()
        )
        for place in packages.iterdir()
    }
    return dict(sorted(sizes.items(), key=lambda size: -size[1]))


def main() -> None:
    """Run the benchmark."""
    quick = measure.arguments(__doc__).quick
    n_rounds = 1 if quick else N_ROUNDS
    about = measure.facts(["onnxruntime"])
    python = install()
    sizes = installed_bytes(python)
    total_bytes = sum(sizes.values())
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    runs: dict[str, list[process.Ran]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cells = fit_on_cells(folder, quick)
        graph, picture = cells.graph("onnx"), folder / "one.png"
        graph_bytes = graph.stat().st_size
        Image.fromarray(cells.pixels(1)[0]).save(picture)
        rest = (picture, "-o", folder / "out", "--quiet")
        padim = python.with_name("padim")
        torch = (sys.executable, "-m", "padim", "predict", cells.model, *rest, "--engine", "torch")
        for _ in range(1 + n_rounds):
            runs.setdefault("graph", []).append(
                process.run((padim, "predict", graph, *rest), alone)
            )
            runs.setdefault("model file", []).append(process.run(torch))
    wall = {
        key: measure.Spread(tuple(run.wall_s for run in some[1:])) for key, some in runs.items()
    }
    peak = {
        key: measure.Spread(tuple(float(run.peak_bytes) for run in some[1:]))
        for key, some in runs.items()
    }
    ratios = {
        "seconds": wall["model file"].over(wall["graph"]),
        "peak": peak["model file"].over(peak["graph"]),
    }
    measure.print_table(
        ("", "seconds", "peak MB"),
        [
            *((key, wall[key].shown(digits=2), peak[key].shown(1e-6, 0)) for key in runs),
            ("model file / graph", *(ratio.shown(digits=2) for ratio in ratios.values())),
        ],
    )
    largest = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in list(sizes.items())[:5])
    print(f"\nInstalled: {total_bytes / 1e6:.0f} MB, of them {largest}.")
    aims = (
        measure.Aim("Graph, seconds", wall["graph"].median, MOST_SECONDS),
        measure.Aim("Graph, peak MB", peak["graph"].median / 1e6, MOST_MEGABYTES, digits=0),
    )
    content = {
        "settings": {"n_rounds": N_ROUNDS, "n_warm_up": 1},
        "seconds": {key: spread.to_json() for key, spread in wall.items()},
        "peak_bytes": {key: spread.to_json() for key, spread in peak.items()},
        "model_file_over_graph": {key: ratio.to_json() for key, ratio in ratios.items()},
        "graph_bytes": graph_bytes,
        "installed_bytes": {"all": total_bytes, **sizes},
        "aims": measure.judge(aims),
    }
    measure.finish("cold_start", about, content, quick=quick)


if __name__ == "__main__":
    main()
