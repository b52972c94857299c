"""A whole fit, against the forward pass of the network that no fit can do without.

Measures, on the solar cells without a defect (588 monocrystalline ones), with the default backbone
and recipe:

- *fit*: ``Fitter.fit`` on the image files, decode included, without the second look for a
  threshold, and writing the model file. Not the imports and not loading the network, which happen
  once for any number of categories.
- *trunk* (the alternative): the truncated network as its library builds it, channels last, over the
  same images, decoded, normalised and batched beforehand, in the batches of the fit; nothing is
  done with what it returns.
- *trunk, optimised* (the stricter alternative): the same with its batch norms and its padding
  folded away (``padim.features.trunk.optimise``), in torch; a fit runs it in another engine.

The aim is a ratio of at most 1.35. The stages of a fit are timed one by one in the same rounds;
decoding runs beside the network in a fit, so they need not add up to the whole.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import measure
import torch
from torch import nn

from padim.datasets import list_images
from padim.datasets.solar_cells import lay_out_solar_cells
from padim.features.features import Features
from padim.features.trunk import load_trunk
from padim.features.weights import fetch, read_weights
from padim.fitting.fitter import Fitter
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitSettings
from padim.images.ahead import batched, load_ahead
from padim.method.gaussian import STORES, factor, relative_eps
from padim.method.moments import Accumulator, Moments
from padim.model.file import save_state

AIM = 1.35
N_ROUNDS = 7
N_QUICK = 70  # images: one full group for the moments and one that is not


def candidates_of(
    fitter: Fitter, paths: list[Path], folder: Path
) -> dict[str, Callable[[], object]]:
    """What is timed: the fit, the trunk alone, and each stage on the results of the one before."""
    target = folder / "model.safetensors"
    in_torch = prepare(FitSettings(device="cpu", engine="torch")).features
    assert isinstance(in_torch, Features)
    loaded = list(load_ahead(paths, fitter.encoder.preprocess))
    uint8 = [
        torch.stack([torch.from_numpy(image.pixels) for image in batch]).to(fitter.embedder.device)
        for batch in batched(loaded, fitter.embedder.n_batch)
    ]
    normalised = [in_torch.normalise(batch) for batch in uint8]
    with torch.inference_mode():
        embeddings = [fitter.features(batch) for batch in uint8]
    fitted = fitter.fit(paths)
    weights = fetch(fitter.encoder.spec)
    published = load_trunk(fitter.encoder.spec, read_weights(weights), weights)
    published.to(memory_format=torch.channels_last)

    def fit() -> None:
        save_state(fitter.fit(paths).state, target)

    def decode() -> None:
        for _ in load_ahead(paths, fitter.encoder.preprocess):
            pass

    def forward(trunk: nn.Module) -> None:
        with torch.inference_mode():
            for batch in normalised:
                trunk(batch)

    def trunk_and_levels() -> None:
        with torch.inference_mode():
            for batch in uint8:
                fitter.features(batch)

    def accumulate() -> Moments:
        accumulator = Accumulator(len(fitter.encoder.pyramid.levels))
        for batch in embeddings:
            accumulator.add(batch)
        return accumulator.moments()

    def solve() -> None:
        moments = fitted.moments
        assert moments is not None
        eps = relative_eps(moments, fitter.recipe.eps)
        factor(moments, eps, moments.count - 1, STORES[fitter.settings.store])

    def save() -> None:
        save_state(fitted.state, target)

    return {
        "trunk": lambda: forward(published),
        "trunk, optimised": lambda: forward(in_torch.trunk),
        "fit": fit,
        "decode": decode,
        "normalise, trunk, levels": trunk_and_levels,
        "accumulate": accumulate,
        "factor": solve,
        "save": save,
    }


def main() -> None:
    """Run the benchmark."""
    quick = measure.arguments(__doc__).quick
    about = measure.facts(["elpv-dataset"])
    fitter = prepare(FitSettings(device="cpu", keep_moments=True, calibrate=False))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cells = lay_out_solar_cells(folder, "mono")
        paths = [*list_images(cells / "train" / "good"), *list_images(cells / "test" / "good")]
        if quick:
            paths = paths[:N_QUICK]
        measure.say(f"{len(paths)} images")
        candidates = candidates_of(fitter, paths, folder)
        taken = measure.interleaved(candidates, 2 if quick else N_ROUNDS)
        model_bytes = (folder / "model.safetensors").stat().st_size
    alternatives = ("trunk", "trunk, optimised")
    ratios = {name: taken["fit"].over(taken[name]) for name in alternatives}
    measure.print_table(
        ("", "seconds", "ms an image"),
        [
            (
                stage,
                spread.shown(digits=2),
                f"{spread.median / len(paths) * 1e3:.2f}",
            )
            for stage, spread in taken.items()
        ],
    )
    print()
    for name, ratio in ratios.items():
        outcome = "met" if ratio.median <= AIM else "missed"
        print(f"fit / {name} {ratio.shown(digits=3)}; the aim, at most {AIM}, is {outcome}.")
    content = {
        "settings": {
            "backbone": fitter.encoder.spec.name,
            "recipe": fitter.recipe.name,
            "size_px": fitter.encoder.preprocess.size_px,
            "n_images": len(paths),
            "trunk_batch": fitter.embedder.n_batch,
            "n_rounds": N_ROUNDS,
            "n_warm_up": 1,
        },
        "seconds": {stage: spread.to_json() for stage, spread in taken.items()},
        "fit_over": {name: ratio.to_json() for name, ratio in ratios.items()},
        "aim": AIM,
        "aim_is_met": {name: ratio.median <= AIM for name, ratio in ratios.items()},
        "model_bytes": model_bytes,
    }
    measure.finish("fit", about, content, quick=quick)


if __name__ == "__main__":
    main()
