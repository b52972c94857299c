"""What a region of interest saves: file, fit and score, beside the whole image.

Monocrystalline solar cells; the region is the middle of the picture, a half and a quarter of its
sides. The network sees 64 pixels around it as well: all of the picture still where the region is a
half of the sides, three quarters of them where it is a quarter. Scored is one decoded image; fitted
are the training images, without the second look.
"""

import tempfile
from pathlib import Path
from typing import Any

import measure
import numpy as np
from cells import N_QUICK
from numpy.typing import NDArray
from PIL import Image

from padim.datasets import list_images
from padim.datasets.solar_cells import lay_out_solar_cells
from padim.fitting.fit import build_model
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitSettings
from padim.images.ahead import load_ahead
from padim.model.file import save_state

PARTS = (1.0, 0.5, 0.25)  # of the image's sides
N_ROUNDS, N_CALLS = 5, 15


def middle(size_px: tuple[int, int], part: float) -> NDArray[np.bool_]:
    """The middle of a picture."""
    mask = np.zeros(size_px, np.bool_)
    (top, left), (bottom, right) = (
        [round(side * (0.5 + sign * part / 2)) for side in size_px] for sign in (-1, 1)
    )
    mask[top:bottom, left:right] = True
    return mask


def main() -> None:
    """Run the benchmark."""
    quick = measure.arguments(__doc__).quick
    about = measure.facts(["elpv-dataset"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = list_images(lay_out_solar_cells(folder, "mono") / "train" / "good")
        images = images[: N_QUICK if quick else None]
        with Image.open(images[0]) as first:
            size_px = first.height, first.width
        fits, scores, n_bytes = {}, {}, {}
        for part in PARTS:
            region = None if part == 1 else middle(size_px, part)
            fitter = prepare(FitSettings(device="cpu", calibrate=False, roi=region))
            fitted = fitter.fit(images)
            path = folder / "model.safetensors"
            save_state(fitted.state, path)
            key = f"{part:g}"
            n_bytes[key] = path.stat().st_size
            pixels = next(load_ahead(images[:1], fitter.encoder.preprocess)).pixels[None]
            score = build_model(fitter, fitted).score

            def fit(fitter: Any = fitter) -> float:
                return measure.seconds(lambda: fitter.fit(images))

            def one(score: Any = score, pixels: Any = pixels) -> float:
                return measure.settled(lambda: measure.seconds(lambda: score(pixels)), N_CALLS)

            fits[key], scores[key] = fit, one
        n_rounds = 1 if quick else N_ROUNDS
        fit_s, score_s = measure.in_turn(fits, n_rounds), measure.in_turn(scores, n_rounds)
    rows, lines = [], []
    for key in fits:
        file_ratio = n_bytes[key] / n_bytes["1"]
        fit_ratio, score_ratio = fit_s[key].over(fit_s["1"]), score_s[key].over(score_s["1"])
        rows.append(
            {
                "part_of_sides": float(key),
                "file_bytes": n_bytes[key],
                "fit_s": fit_s[key].to_json(),
                "score_s": score_s[key].to_json(),
                "file_ratio": file_ratio,
                "fit_ratio": fit_ratio.to_json(),
                "score_ratio": score_ratio.to_json(),
            }
        )
        lines.append(
            (
                key,
                f"{n_bytes[key] / 1e6:.1f}",
                f"{file_ratio:.2f}",
                fit_s[key].shown(digits=1),
                fit_ratio.shown(digits=2),
                score_s[key].shown(1e3),
                score_ratio.shown(digits=2),
            )
        )
    headers = ("part of the sides", "file MB", "ratio", "fit s", "ratio", "score ms", "ratio")
    measure.print_table(headers, lines)
    content = {"settings": {"n_rounds": N_ROUNDS, "n_calls": N_CALLS}, "rows": rows}
    measure.finish("roi", about, content, quick=quick)


if __name__ == "__main__":
    main()
