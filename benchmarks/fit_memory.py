"""Peak memory of a fit, for ever more images.

Measures the most memory a process holds while it fits on 100, 400 and 1,600 solar cells, with the
second look for a threshold, and writes the model file: a fresh process for each, which loads the
network, resets its peak, and then fits. One fit before them writes the network as a graph, which
takes more, once. The aim: the same within 5%, whatever the number of images. Beside it stands what
was forecast before the fit.

The alternative, to keep the embeddings of all images at the fine grid until the end as the
published PaDiM-EfficientNet script does, is *computed* (images x D x places x 4 bytes), not
measured: it leaves out the network, the concatenation's copies and the inverses.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import measure
import numpy as np

from padim.datasets import list_images
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitSettings
from padim.memory import resident_bytes, watch_peak
from padim.model.file import save_state

AIM = 0.05
COUNTS = (100, 400, 1600)
N_ROUNDS = 3


def child(n_images: int) -> dict[str, Any]:
    """Fit in this process.

    Args:
        n_images: How many images, evenly taken from all.
    """
    found = find_spec("elpv_dataset")
    assert found is not None
    assert found.origin is not None
    images = list_images(Path(found.origin).parent / "data" / "images")
    chosen = [images[i] for i in np.linspace(0, len(images) - 1, n_images).round().astype(int)]
    fitter = prepare(FitSettings(device="cpu"))
    forecast = fitter.forecast(n_images=len(chosen))
    peak = watch_peak()
    before = resident_bytes()
    fitted = fitter.fit(chosen)
    with TemporaryDirectory() as folder:
        save_state(fitted.state, Path(folder) / "model.safetensors")
    pyramid = fitter.encoder.pyramid
    places = pyramid.levels[-1].n_cells
    return {
        "n_images": fitted.state.count,
        "peak_bytes": peak(),
        "before_bytes": before,
        "forecast_bytes": forecast.peak_bytes,
        "all_embeddings_bytes_computed": n_images * pyramid.n_dims * places * 4,
    }


def run_round(counts: Sequence[int]) -> list[dict[str, Any]]:
    """Fit once with each number of images, in a fresh process each."""
    rows = []
    for n_images in counts:
        measure.say(f"{n_images} images")
        command = (sys.executable, str(Path(__file__).resolve()), "--child", str(n_images))
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8")
        rows.append(json.loads(done.stdout))
    return rows


def main() -> None:
    """Run the benchmark."""
    quick = measure.arguments(__doc__).quick
    about = measure.facts(["elpv-dataset"])
    counts = (20, 80) if quick else COUNTS
    run_round([2])
    rounds = [run_round(counts) for _ in range(1 if quick else N_ROUNDS)]
    rows, shown = [], []
    for runs in zip(*rounds, strict=True):
        spreads = {
            key: measure.Spread(tuple(run[key] for run in runs))
            for key in ("peak_bytes", "before_bytes", "forecast_bytes")
        }
        first = runs[0]
        embeddings = first["all_embeddings_bytes_computed"]
        rows.append(
            {
                "n_images": first["n_images"],
                **{key: spread.to_json() for key, spread in spreads.items()},
                "all_embeddings_bytes_computed": embeddings,
            }
        )
        in_mb = [spreads[key].shown(1e-6, 0) for key in spreads]
        forecast = spreads["forecast_bytes"].over(spreads["peak_bytes"])
        shown.append(
            (first["n_images"], *in_mb, forecast.shown(digits=2), f"{embeddings / 1e6:.0f}")
        )
    headers = ("images", "peak MB", "of it before MB", "forecast MB", "forecast/peak")
    measure.print_table((*headers, "all embeddings MB (computed)"), shown)
    peaks = [row["peak_bytes"]["median"] for row in rows]
    spread = max(peaks) / min(peaks) - 1
    outcome = "met" if spread <= AIM else "missed"
    print(f"\nThe peaks differ by {spread:.1%}; the aim, at most {AIM:.0%}, is {outcome}.")
    content = {
        "settings": {"n_rounds": N_ROUNDS, "n_warm_up": 1},
        "rows": rows,
        "largest_over_smallest_minus_1": spread,
        "aim": AIM,
        "aim_is_met": spread <= AIM,
    }
    measure.finish("fit_memory", about, content, quick=quick)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(int(sys.argv[2]))))
    else:
        main()
