"""The five-panel picture of each test image, against matplotlib drawing the same five panels.

Drawn are the test images of the magnetic tiles that the environment variable PADIM_DATA names the
folder of, or, where it is unset, of the monocrystalline cells; fitted and scored beforehand. Each
candidate draws and writes the same images, PNG, in one process, and is given the same threshold:

- *padim*: ``figures.pictures`` as ``padim benchmark`` calls it, the image read from its file and
  everything scaled to its panel; drawn in one thread, written in two.
- *matplotlib* (the alternative): a figure for each image, as the published script has it: image,
  ground truth, map over the image in jet, mask, boundaries of the mask on the image, and a colour
  bar, saved at 100 dpi. Images, masks and maps are given to it decoded and at network size, which
  it is not timed for, nor for the boundaries, which the script takes another library for.
"""

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import measure
import numpy as np
from numpy.typing import NDArray

from padim.datasets import read_category
from padim.datasets.solar_cells import lay_out_solar_cells
from padim.evaluation.category import Evaluation, evaluate
from padim.evaluation.pictures import map_range, mask_threshold, pictures, save_pictures
from padim.fitting.fit import build_model
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitSettings
from padim.images.decode import read_image
from padim.images.heatmap import OUTLINE, outline
from padim.images.preprocess import Preprocess

AIM_TIMES_FASTER = 4
N_ROUNDS, N_QUICK = 3, 4
N_FIT = 60

Panels = tuple[
    NDArray[np.uint8],
    NDArray[np.bool_],
    NDArray[np.float32],
    NDArray[np.bool_],
    NDArray[np.uint8],
]


def panels_of(evaluation: Evaluation, preprocess: Preprocess) -> list[Panels]:
    """What the alternative draws: image, truth, map, predicted mask and outlined image."""
    threshold, _ = mask_threshold(evaluation)
    assert threshold is not None
    found = []
    for sample, anomaly_map in zip(evaluation.samples, evaluation.anomaly_map, strict=True):
        image = preprocess(read_image(sample.path))
        truth = sample.read_mask()
        mask = np.zeros(image.shape[:2], np.bool_) if truth is None else preprocess.mask(truth)
        predicted = anomaly_map >= threshold
        outlined = image.copy()
        outlined[outline(predicted, 2)] = OUTLINE
        found.append((image, mask, anomaly_map.astype(np.float32), predicted, outlined))
    return found


def draw_ours(evaluation: Evaluation, preprocess: Preprocess, folder: Path) -> None:
    """Draw and write as ``padim benchmark`` does."""
    made = enumerate(pictures(evaluation, preprocess))
    list(save_pictures((folder / f"ours_{i}.png", picture) for i, (_, picture) in made))


def draw_matplotlib(panels: list[Panels], low: float, high: float, folder: Path) -> None:
    """Draw and write a figure for each image."""
    for i, (image, mask, anomaly_map, predicted, outlined) in enumerate(panels):
        figure, axes = plt.subplots(1, 5, figsize=(12, 3))
        figure.subplots_adjust(right=0.9)
        for axis in axes:
            axis.axis("off")
        axes[0].imshow(image)
        axes[1].imshow(mask, cmap="gray")
        heat = axes[2].imshow(anomaly_map, cmap="jet", vmin=low, vmax=high)
        axes[2].imshow(image[..., 0], cmap="gray", interpolation="none")
        axes[2].imshow(
            anomaly_map, cmap="jet", vmin=low, vmax=high, alpha=0.5, interpolation="none"
        )
        axes[3].imshow(predicted, cmap="gray")
        axes[4].imshow(outlined)
        titles = ("Image", "GroundTruth", "Predicted heat map", "Predicted mask", "Segmentation")
        for axis, title in zip(axes, titles, strict=True):
            axis.set_title(title)
        bar = figure.colorbar(heat, cax=figure.add_axes((0.92, 0.15, 0.015, 0.7)))
        bar.ax.tick_params(labelsize=8)
        bar.set_label("Anomaly score")
        figure.savefig(folder / f"matplotlib_{i}.png", dpi=100)
        plt.close(figure)


def main() -> None:
    """Run the benchmark."""
    quick = measure.arguments(__doc__).quick
    matplotlib.use("agg")
    about = measure.facts(["matplotlib", "pillow"])
    data = os.environ.get("PADIM_DATA")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if data is None:
            measure.say("PADIM_DATA is unset: solar cells are drawn.")
        path = Path(data) / "magnetic_tile" if data else lay_out_solar_cells(folder, "mono")
        category = read_category(path)
        if quick:
            category = replace(category, test=category.test[:: len(category.test) // N_QUICK])
        fitter = prepare(FitSettings(device="cpu", calibrate=False))
        model = build_model(fitter, fitter.fit(category.train[:N_FIT]))
        evaluation = evaluate(model, category)
        panels = panels_of(evaluation, fitter.encoder.preprocess)
        low, high = map_range(evaluation)
        times = measure.interleaved(
            {
                "padim": lambda: draw_ours(evaluation, fitter.encoder.preprocess, folder),
                "matplotlib": lambda: draw_matplotlib(panels, low, high, folder),
            },
            1 if quick else N_ROUNDS,
            n_warm_up=0 if quick else 1,
        )
        written = {
            candidate: sum(path.stat().st_size for path in folder.glob(f"{start}_*.png"))
            for candidate, start in (("padim", "ours"), ("matplotlib", "matplotlib"))
        }
    n_images = len(panels)
    faster = times["matplotlib"].over(times["padim"])
    measure.print_table(
        ("", "ms an image", "kB an image"),
        [
            (
                candidate,
                spread.shown(1e3 / n_images),
                f"{written[candidate] / n_images / 1e3:.0f}",
            )
            for candidate, spread in times.items()
        ],
    )
    aims = (measure.Aim("Times faster than matplotlib", faster.median, AIM_TIMES_FASTER, True),)
    content: dict[str, Any] = {
        "settings": {
            "category": category.name,
            "n_images": n_images,
            "n_rounds": N_ROUNDS,
            "n_warm_up": 1,
        },
        "measured_s": {candidate: spread.to_json() for candidate, spread in times.items()},
        "written_bytes": written,
        "times_faster": faster.to_json(),
        "aims": measure.judge(aims),
    }
    measure.finish("pictures", about, content, quick=quick)


if __name__ == "__main__":
    main()
