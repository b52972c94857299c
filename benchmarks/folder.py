"""``padim predict`` over a folder, against what its engine can do.

Measures images per second in this process, on 600 photographs of solar cells of 300 px, on some of
them enlarged to 2 and 12 megapixels, JPEG, and, where the environment variable PADIM_DATA is set,
on the magnetic tiles there:

- *command*: ``padim predict`` whole, loading the model included, with and without overlays.
- *engine* (the alternative): ``Predictor.score`` of the loaded model, in its own batches, over the
  same images decoded and brought to network size beforehand: in one call at a time of a thread for
  each core, and in as many calls of one thread each, as the command has it.

The aims, where images are small: at least 0.85 of the engine in several calls, and 0.75 with
overlays. Beside it stands the most memory that the command, with overlays and as a fresh process,
holds for 200 images and for all.

Also measured: what JPEG's draft mode, decoding at a fraction of the size, saves and changes, on
cells enlarged to 2,048 px. It may change a map by a thousandth, as an engine may.
"""

import contextlib
import io
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import measure
import numpy as np
import process
import torch
from cells import Cells, fit_on_cells, photographs
from numpy.typing import NDArray
from PIL import Image

from padim.cli import main as padim
from padim.datasets import list_images
from padim.images.ahead import load_ahead
from padim.model.opening import load
from padim.scoring.engines import n_cores
from padim.scoring.predictor import Predictor

AIMS = {"overlays": 0.75, "no overlays": 0.85}
WAYS = tuple(AIMS)
N_CELLS = 600
LARGE = {"2 megapixels": (1414, 80), "12 megapixels": (3464, 24)}  # side in px, how many
N_FEW = 200
N_QUICK = 24
N_ROUNDS = 3


def folders(quick: bool, large: Path) -> dict[str, list[Path]]:
    """The images of each folder, by name; enlarged ones are written into ``large``."""
    cells = photographs()
    n_cells = N_QUICK if quick else N_CELLS
    chosen = np.linspace(0, len(cells) - 1, n_cells).round().astype(int)
    found = {"solar cells": [cells[i] for i in chosen]}
    for name, (side_px, n_images) in LARGE.items():
        some = found["solar cells"][: 2 if quick else n_images]
        found[name] = [large / f"{side_px}_{path.stem}.jpg" for path in some]
        for path, enlarged in zip(some, found[name], strict=True):
            Image.open(path).convert("RGB").resize((side_px, side_px)).save(
                enlarged, "JPEG", quality=92
            )
    if "PADIM_DATA" not in os.environ:
        measure.say("Without the magnetic tiles: PADIM_DATA does not say where they are.")
        return found
    tiles = Path(os.environ["PADIM_DATA"]) / "magnetic_tile"
    paths = [
        path for part in ("train", "test") for path in list_images(tiles / part, recursive=True)
    ]
    return {**found, "magnetic tiles": paths[: N_QUICK if quick else None]}


def linked(paths: Sequence[Path], folder: Path) -> Path:
    """Make a folder of links to images."""
    folder.mkdir()
    for i, path in enumerate(paths):
        (folder / f"{i:04d}{path.suffix}").symlink_to(path.resolve())
    return folder


def command(model: Path, images: Path, out: Path, overlays: bool) -> tuple[str, ...]:
    """The command line after the program's name."""
    drawn = "--overlays" if overlays else "--no-overlays"
    return ("predict", str(model), str(images), "-o", str(out), drawn, "--quiet")


def run_command(words: Sequence[str]) -> None:
    """Run a command in this process, without what it prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        status = padim(words)
    assert status == 0, f"padim {' '.join(words)} failed."


def run_engine(predictor: Predictor, pixels: NDArray[np.uint8]) -> None:
    """Score decoded images in the predictor's own batches, and in its own number of calls."""
    torch.set_num_threads(n_cores() // predictor.n_calls)  # the command has set it too
    n_batch = predictor.n_batch
    parts = (pixels[i : i + n_batch] for i in range(0, len(pixels), n_batch))
    with ThreadPoolExecutor(predictor.n_calls) as pool:
        deque(pool.map(predictor.score, parts), maxlen=0)


def run_case(
    name: str, paths: list[Path], model: Path, cells: Cells, folder: Path, quick: bool
) -> dict[str, Any]:
    """Measure one folder with one model.

    Args:
        name: Of the folder.
        paths: Its images.
        model: The model file or a graph of it.
        cells: What they were made from.
        folder: Where to work.
        quick: Whether it is a quick run.
    """
    predictor = load(model)
    several = load(model, n_threads=1, n_calls=n_cores())
    measure.say(f"{name}, {len(paths)} images, {model.suffix} by {predictor.engine}")
    images = linked(paths, folder / "images")
    pixels = np.stack(
        [image.pixels for image in load_ahead(paths, cells.fitter.encoder.preprocess)]
    )
    out = folder / "out"
    runs: dict[str, Callable[[], object]] = {
        "engine": partial(run_engine, predictor, pixels),
        "engine, several calls": partial(run_engine, several, pixels),
        "overlays": partial(run_command, command(model, images, out, True)),
        "no overlays": partial(run_command, command(model, images, out, False)),
    }
    taken = measure.interleaved(runs, 1 if quick else N_ROUNDS)
    few = linked(paths[: N_QUICK // 2 if quick else N_FEW], folder / "few")
    peaks = {
        len(list_images(some)): process.run(
            (sys.executable, "-m", "padim", *command(model, some, out, True))
        ).peak_bytes
        for some in (few, images)
    }
    part = {key: taken["engine, several calls"].over(taken[key]) for key in WAYS}
    part_of_one = {key: taken["engine"].over(taken[key]) for key in WAYS}
    per_s = {
        key: measure.Spread(tuple(len(paths) / value for value in spread.values))
        for key, spread in taken.items()
    }
    return {
        "folder": name,
        "n_images": len(paths),
        "model": model.suffix,
        "engine": predictor.engine,
        "n_batch": predictor.n_batch,
        "images_per_s": {key: spread.to_json() for key, spread in per_s.items()},
        "part_of_engine": {key: ratio.to_json() for key, ratio in part.items()},
        "part_of_one_call": {key: ratio.to_json() for key, ratio in part_of_one.items()},
        "peak_bytes": peaks,
        "shown": (
            f"{name}, {model.suffix}, {predictor.engine}",
            *(spread.shown() for spread in per_s.values()),
            *(ratio.shown(digits=2) for ratio in (*part.values(), *part_of_one.values())),
            *(f"{peaks[len(list_images(some))] / 1e6:.0f}" for some in (few, images)),
        ),
    }


def draft(model: Path, paths: Sequence[Path]) -> dict[str, float]:
    """Compare JPEG's draft mode with whole decoding.

    Args:
        model: A graph.
        paths: Images, enlarged first.
    """
    predictor = load(model)
    taken: dict[str, list[float]] = {"whole": [], "draft": []}
    errors = []
    for path in paths:
        file = io.BytesIO()
        large = Image.open(path).convert("RGB").resize((2048, 2048), Image.Resampling.BICUBIC)
        large.save(file, "JPEG", quality=92)
        maps = []
        for kind, seconds in taken.items():
            start = time.perf_counter()
            picture = Image.open(file)
            if kind == "draft":  # still twice as large as the network's input
                picture.draft("RGB", (512, 512))
            pixels = predictor.preprocess(picture)
            seconds.append(time.perf_counter() - start)
            maps.append(predictor.score(pixels[None]).anomaly_map)
        errors.append(float(np.abs(maps[1] / maps[0] - 1).max()))
    return {
        "n_images": len(paths),
        "whole_s": float(np.median(taken["whole"])),
        "draft_s": float(np.median(taken["draft"])),
        "map_error": max(errors),
    }


def main() -> None:
    """Run the benchmark."""
    quick = measure.arguments(__doc__).quick
    about = measure.facts(["elpv-dataset", "onnxruntime", "openvino"])
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        cells = fit_on_cells(root, quick)
        models = (cells.graph("onnx"), cells.graph("openvino"), cells.model)
        drafted = draft(models[0], photographs()[: 2 if quick else 20])
        rows = []
        large = root / "large"
        large.mkdir()
        for place, paths in folders(quick, large).items():
            for model in models if place not in LARGE else models[:1]:
                with tempfile.TemporaryDirectory(dir=root) as folder:
                    rows.append(run_case(place, paths, model, cells, Path(folder), quick))
    headers = (
        *("images per second", "engine", "several calls", *WAYS),
        *(f"{way} / several calls" for way in WAYS),
        *(f"{way} / engine" for way in WAYS),
        *(f"peak MB, {N_FEW}", "all"),
    )
    measure.print_table(headers, [row.pop("shown") for row in rows])
    print(
        f"\nJPEG of 2,048 px: {drafted['whole_s'] * 1e3:.0f} ms to decode and resize, "
        f"{drafted['draft_s'] * 1e3:.0f} in draft mode, which changes a map by up to "
        f"{drafted['map_error']:.1%}."
    )
    aims = [
        measure.Aim(
            f"{row['folder']}, {row['model']} by {row['engine']}, {key}, part of the engine",
            part["median"],
            AIMS[key],
            at_least=True,
        )
        for row in rows
        for key, part in row["part_of_engine"].items()
        if row["folder"] not in LARGE
    ]
    content = {
        "settings": {"n_rounds": N_ROUNDS, "n_warm_up": 1},
        "rows": rows,
        "jpeg_draft": drafted,
        "aims": measure.judge(aims),
    }
    measure.finish("folder", about, content, quick=quick)


if __name__ == "__main__":
    main()
