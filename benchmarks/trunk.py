"""Who runs the trunk fastest: EfficientNet-Lite0 up to its last tap, at 256 px in float32.

Every candidate goes from the same uint8 images to the features of each level, in batches of 1, 4
and 16, on a thread for each core; that they agree is checked first:

- *torch, channels last* (the alternative): the network as its library builds it.
- *torch*: the same with its feature maps in memory channel by channel.
- *torch, optimised*: with its batch norms and its padding folded away
  (``padim.features.trunk.optimise``).
- *torch, compiled*: that one by ``torch.compile``, anew for each size of batch.
- *onnxruntime*, *openvino*: that one as a graph, as padim sets these engines up.

Compiling, exporting and loading come once, and are timed apart. A round takes each in turn: one
call that is not counted, then the median of several.
"""

import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import measure
import numpy as np
import torch
from cells import THREE_LEVELS, photographs
from numpy.typing import NDArray
from torch import Tensor

from padim.features.features import Features
from padim.features.onnx import write_onnx
from padim.features.onnx_exporter import export
from padim.features.trunk import AnyTrunk, Trunk, load_trunk, optimise
from padim.features.weights import fetch, read_weights
from padim.fitting.fitter import Fitter
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitSettings, settings_with
from padim.images.ahead import load_ahead
from padim.scoring.engines import INPUT, Arrays
from padim.scoring.graph import Graph

BATCHES = (1, 4, 16)
ALTERNATIVE = "torch, channels last"
TOLERANCE = 1e-4  # of the largest feature
N_ROUNDS = 15
N_CALLS = 5  # of each in a round

Run = Callable[[NDArray[np.uint8]], Arrays]


class ByChannel(Features):
    """Features whose trunk is given its pixels channel by channel."""

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise as ``Features`` does."""
        return super().normalise(images).contiguous()


def in_torch(features: Callable[[Tensor], list[Tensor]]) -> Run:
    """Let torch run features."""

    @torch.inference_mode()
    def run(images: NDArray[np.uint8]) -> Arrays:
        return tuple(level.numpy() for level in features(torch.from_numpy(images)))

    return run


def candidates_of(fitter: Fitter, folder: Path) -> tuple[dict[str, Run], dict[str, float]]:
    """Who runs the trunk, and what has to be done for it once.

    Args:
        fitter: Whose network it is.
        folder: Where the graph goes.

    Returns:
        The candidates, and seconds, both by name.
    """
    path = fetch(fitter.encoder.spec)

    def published() -> AnyTrunk:
        return load_trunk(fitter.encoder.spec, read_weights(path), path)

    rest = fitter.encoder.pyramid, fitter.encoder.preprocess
    last = Features(published().to(memory_format=torch.channels_last), *rest).eval()
    optimised = Features(optimise(published()), *rest).eval()
    runs = {
        ALTERNATIVE: in_torch(last),
        "torch": in_torch(ByChannel(published(), *rest).eval()),
        "torch, optimised": in_torch(optimised),
    }
    if any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):
        torch.compiler.config.force_disable_caches = True  # or an earlier run's would be taken
        compiled = cast(Trunk, torch.compile(optimised.trunk, dynamic=False))
        runs["torch, compiled"] = in_torch(Features(compiled, *rest).eval())
    else:
        measure.say("Without torch.compile: there is no C++ compiler here.")
    graph = folder / "trunk.onnx"
    names = [f"level_{i}" for i in range(len(fitter.encoder.pyramid.levels))]
    write = partial(write_onnx, optimised, graph, fitter.encoder.preprocess.size_px, names, "")
    once = {"export": measure.seconds(write)}
    example = [torch.zeros(2, *fitter.encoder.preprocess.size_px, 3, dtype=torch.uint8)]
    exporter = partial(export, optimised, example, [INPUT], names, any_number=True)
    once["export by torch's exporter"] = measure.seconds(exporter)
    for engine in ("onnxruntime", "openvino"):
        loaded: list[Graph] = []
        load = partial(lambda keep, name: keep.append(Graph(graph, name)), loaded, engine)
        once[f"load {engine}"] = measure.seconds(load)
        # Not Graph, which takes four at a time
        runs[engine] = partial(loaded[0].runtime.run, rates=())
    return runs, once


def first_calls(runs: dict[str, Run], images: NDArray[np.uint8]) -> dict[str, float]:
    """Call each once, which compiles it where that is its way, and compare what they say.

    Args:
        runs: The candidates by name, the alternative among them.
        images: A batch.

    Returns:
        Seconds of the first call, by name.

    Raises:
        AssertionError: They differ by more than rounding.
    """
    expected = runs[ALTERNATIVE](images)
    taken = {}
    for name, run in runs.items():
        taken[name] = measure.seconds(partial(run, images))
        for level, own in zip(expected, run(images), strict=True):
            error = float(np.abs(level - own).max() / np.abs(level).max())
            assert error < TOLERANCE, f"{name} differs by {error:.1e}"
    return taken


def main() -> None:
    """Run the benchmark."""
    quick = measure.arguments(__doc__).quick
    n_rounds = 2 if quick else N_ROUNDS
    about = measure.facts(["elpv-dataset", "onnxruntime", "openvino"])
    fitter = prepare(settings_with(FitSettings(device="cpu"), **THREE_LEVELS))
    paths = photographs()[: max(BATCHES)]
    pixels = np.stack([image.pixels for image in load_ahead(paths, fitter.encoder.preprocess)])
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        runs, once = candidates_of(fitter, Path(name))
        for n_images in BATCHES[:2] if quick else BATCHES:
            measure.say(f"{n_images} at a time")
            images = pixels[:n_images]
            first = first_calls(runs, images)
            calls = {
                name: partial(
                    measure.settled, partial(measure.seconds, partial(run, images)), N_CALLS
                )
                for name, run in runs.items()
            }
            taken = measure.in_turn(calls, n_rounds)
            rows += [
                {
                    "candidate": name,
                    "n_images": n_images,
                    "first_call_s": first[name],
                    "seconds": spread.to_json(),
                    "over_alternative": spread.over(taken[ALTERNATIVE]).to_json(),
                    "shown": (
                        f"{name}, {n_images}",
                        spread.shown(1e3 / n_images, 2),
                        spread.over(taken[ALTERNATIVE]).shown(digits=2),
                        f"{first[name]:.2f}",
                    ),
                }
                for name, spread in taken.items()
            ]
    measure.print_table(
        ("candidate, images", "ms an image", f"/ {ALTERNATIVE}", "first call s"),
        [row.pop("shown") for row in rows],
    )
    print("\nOnce: " + ", ".join(f"{name} {taken_s:.2f} s" for name, taken_s in once.items()))
    content = {
        "settings": {
            "backbone": fitter.encoder.spec.name,
            "size_px": fitter.encoder.preprocess.size_px,
            "n_rounds": N_ROUNDS,
            "n_calls": N_CALLS,
            "n_warm_up": 1,
        },
        "once_s": once,
        "rows": rows,
    }
    measure.finish("trunk", about, content, quick=quick)


if __name__ == "__main__":
    main()
