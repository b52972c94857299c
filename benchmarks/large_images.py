"""Images of 2,048 x 1,536 pixels, tile by tile: time, memory, file, seams and defects.

A large image is laid together of 6 x 8 photographs of monocrystalline solar cells, each brought to
256 x 256 pixels: good cells of the training part to fit on, good cells of the test part to test
on, and the same with one cell replaced by a defective one. No cell is in two images of the fit.

- *fit*, *predict*: whole commands, each a fresh process, with its peak memory beside the forecast
  and beside what a fit of the whole at once would take (*computed*: the forecast of that).
- *found*: whether the peak of a defective image lies in the defective cell; image AUROC.
- *seam*: dark spots of 24 pixels on the borders between tiles of 512 pixels and away from them,
  scored by a model of those tiles and by one of 768 pixels, whose borders lie elsewhere. Where
  neither has a border nearby the two differ by what they see around; on a border that must not be
  more. The aim: the median ratio of the map's peak on borders to that off borders within 5%.
"""

import csv
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measure
import numpy as np
import process
from numpy.typing import NDArray
from PIL import Image

import padim
from padim.datasets import read_category
from padim.datasets.solar_cells import lay_out_solar_cells
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitSettings
from padim.metrics.images import ImageMetrics
from padim.model.file import load_state

CELL_PX = 256
LAYOUT = (6, 8)
QUICK_LAYOUT = (3, 4)
N_FIT, N_GOOD, N_DEFECTIVE = 8, 4, 12
TILES_PX = (512, 768)
SPOT_PX = 24
AIM = 0.05


def cell(path: Path) -> NDArray[np.uint8]:
    """A photograph as a square of grey levels."""
    return np.asarray(Image.open(path).convert("L").resize((CELL_PX, CELL_PX)))


def laid_together(paths: Sequence[Path], layout: tuple[int, int]) -> NDArray[np.uint8]:
    """One large image of many photographs, row by row."""
    rows = [
        np.hstack([cell(path) for path in paths[i * layout[1] : (i + 1) * layout[1]]])
        for i in range(layout[0])
    ]
    return np.vstack(rows)


def make_images(folder: Path, layout: tuple[int, int], n_fit: int) -> dict[str, tuple[int, int]]:
    """Write the images.

    Returns:
        For each defective one, the row and column of the defective cell.
    """
    category = read_category(lay_out_solar_cells(folder / "cells", "mono"))
    train = category.train
    good = [sample.path for sample in category.test if not sample.is_anomalous]
    defective = [sample.path for sample in category.test if sample.is_anomalous]
    n_cells = layout[0] * layout[1]
    for part in ("fit", "good", "defective"):
        (folder / part).mkdir()
    for i in range(n_fit):
        image = laid_together(train[i * n_cells : (i + 1) * n_cells], layout)
        Image.fromarray(image).save(folder / "fit" / f"{i}.png")
    rng = np.random.default_rng(0)
    places = {}
    for i in range(N_DEFECTIVE):
        chosen = [good[k] for k in rng.permutation(len(good))[:n_cells]]
        if i < N_GOOD:
            Image.fromarray(laid_together(chosen, layout)).save(folder / "good" / f"{i}.png")
        place = int(rng.integers(n_cells))
        chosen[place] = defective[int(rng.integers(len(defective)))]
        Image.fromarray(laid_together(chosen, layout)).save(folder / "defective" / f"{i}.png")
        places[f"{i}.png"] = divmod(place, layout[1])
    return places


def command(*words: object) -> process.Ran:
    """Run padim, its result as JSON."""
    return process.run([sys.executable, "-m", "padim", *words, "--json", "-q"])


def spotted(
    image: NDArray[np.uint8], centres: Sequence[tuple[int, int]]
) -> list[NDArray[np.uint8]]:
    """The image with a dark spot at each centre, one at a time, as RGB."""
    spots = []
    for y, x in centres:
        changed = image.copy()
        half = SPOT_PX // 2
        changed[y - half : y + half, x - half : x + half] //= 3
        spots.append(np.repeat(changed[..., None], 3, axis=2))
    return spots


def seam_ratios(models: Sequence[Path], image: NDArray[np.uint8]) -> dict[str, list[float]]:
    """Peaks of spots by the first model over those by the second, on and off its borders."""
    tilings = [load_state(model).tiling for model in models]
    borders = []
    for tiling in tilings:
        coarse = tiling.pyramid.levels[0]
        owner = np.zeros(coarse.n_cells, int)
        for i, (_, spans) in enumerate(tiling.spans()):
            owner[tiling.pyramid.order[0][spans[0]]] = i
        grid = owner.reshape(coarse.grid)
        stride = image.shape[1] // coarse.grid[1]
        borders.append(
            [
                (np.flatnonzero((np.diff(grid, axis=1 - axis) != 0).any(axis=axis)) + 1) * stride
                for axis in (1, 0)
            ]
        )

    def distance(model: int, y: int, x: int) -> int:
        rows, columns = borders[model]
        return int(min(np.abs(rows - y).min(initial=9999), np.abs(columns - x).min(initial=9999)))

    off = [
        (y, x)
        for y in range(64, image.shape[0] - 64, 96)
        for x in range(64, image.shape[1] - 64, 96)
    ]
    off = [centre for centre in off if min(distance(k, *centre) for k in (0, 1)) >= 2 * SPOT_PX]
    rows, columns = borders[0]
    on = [(int(y), x) for y in rows for x in range(64, image.shape[1] - 64, 160)]
    on += [(y, int(x)) for x in columns for y in range(64, image.shape[0] - 64, 160)]
    on = [centre for centre in on if distance(1, *centre) >= 2 * SPOT_PX]
    n_each = min(len(on), len(off), 24)
    ratios = {}
    predictors = [padim.load(model) for model in models]
    for name, centres in (("on", on), ("off", off)):
        chosen = [centres[i] for i in np.linspace(0, len(centres) - 1, n_each).astype(int)]
        peaks = [
            [
                float(found.anomaly_map[y - 32 : y + 32, x - 32 : x + 32].max())
                for found, (y, x) in zip(
                    predictor.stream(spotted(image, chosen)), chosen, strict=True
                )
            ]
            for predictor in predictors
        ]
        ratios[name] = [mine / theirs for mine, theirs in zip(*peaks, strict=True)]
    return ratios


def main() -> None:
    """Run the benchmark."""
    quick = measure.arguments(__doc__).quick
    about = measure.facts(["elpv-dataset"])
    layout = QUICK_LAYOUT if quick else LAYOUT
    size_px = layout[0] * CELL_PX, layout[1] * CELL_PX
    content: dict[str, Any] = {"size_px": size_px}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        n_fit = 3 if quick else N_FIT
        places = make_images(folder, layout, n_fit)
        lines = []
        for tile_px in TILES_PX:
            measure.say(f"tiles of {tile_px} px")
            model, out = folder / f"{tile_px}.safetensors", folder / f"out_{tile_px}"
            fit = command("fit", folder / "fit", "-o", model, "--tile-px", tile_px)
            said = json.loads(fit.stdout)
            tests = folder / "good", folder / "defective"
            predict = command("predict", model, *tests, "-o", out, "--no-overlays")
            with (out / "predictions.csv").open(encoding="utf-8", newline="") as file:
                found = list(csv.DictReader(file))
            n_hits = sum(
                (int(row["peak_y"]) // CELL_PX, int(row["peak_x"]) // CELL_PX)
                == places[Path(row["path"]).name]
                for row in found
                if Path(row["path"]).parent.name == "defective"
            )
            labels = [Path(row["path"]).parent.name == "defective" for row in found]
            metrics = ImageMetrics.of(labels, [float(row["score"]) for row in found])
            content[f"tiles_{tile_px}"] = row = {
                "n_tiles": len(load_state(model).tiling.tiles),
                "fit_s": fit.wall_s,
                "fit_peak_bytes": fit.peak_bytes,
                "forecast_peak_bytes": said["forecast_peak_bytes"],
                "file_bytes": said["model_bytes"],
                "forecast_file_bytes": said["forecast_model_bytes"],
                "predict_s": predict.wall_s,
                "predict_peak_bytes": predict.peak_bytes,
                "n_scored": len(found),
                "n_defects_found": n_hits,
                "image_auroc": float(metrics.resampled(None)["image_auroc"]),
            }
            lines.append((f"{tile_px} px", *(_shown(key, value) for key, value in row.items())))
        whole = prepare(FitSettings(size_px=size_px, device="cpu")).forecast(size_px, n_fit)
        content["whole_peak_bytes_computed"] = whole.peak_bytes
        image = np.asarray(Image.open(folder / "good" / "0.png"))
        models = [folder / f"{tile_px}.safetensors" for tile_px in TILES_PX]
        content["seam_ratios"] = ratios = seam_ratios(models, image)
        keys = [key.removesuffix("_bytes") for key in row]
    measure.print_table(("tiles", *keys), lines)
    print(f"\nThe whole at once would take {whole.peak_bytes / 1e9:.1f} GB (computed).")
    on, off = (float(np.median(ratios[name])) for name in ("on", "off"))
    aim = measure.Aim("A spot on a border, against one away from it", abs(on / off - 1), AIM)
    content["aims"] = measure.judge([aim])
    measure.finish("large_images", about, content, quick=quick)


def _shown(key: str, value: float) -> str:
    if key.endswith("bytes"):
        return f"{value / 1e6:.0f} MB"
    return f"{value:.3f}" if key == "image_auroc" else f"{value:.0f}"


if __name__ == "__main__":
    main()
