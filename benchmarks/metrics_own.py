"""padim's side of the comparison of metrics, in processes that hold nothing else.

    python benchmarks/metrics_own.py exact FOLDER...
    python benchmarks/metrics_own.py explained FOLDER...
    python benchmarks/metrics_own.py streaming FOLDER...
    python benchmarks/metrics_own.py scale N_IMAGES SIDE_PX N_RESAMPLES

Folders and the line of JSON that is printed are as in ``metrics_peer.py``; ``streaming`` gives the
bounds of each metric too, and ``explained`` the values that come out the way the others go about
it. ``scale`` counts maps that are made on the way and never held together.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from padim.memory import resident_bytes, watch_peak
from padim.metrics.counts import MapCounts
from padim.metrics.curves import Order
from padim.metrics.pixels import PixelMetrics
from padim.metrics.resamples import bootstrap_weights, interval
from padim.metrics.sums import Layout, Sums
from padim.metrics.table import AUPIMO_FPR, OF_PIXELS


def measured(run: Callable[[], Any]) -> dict[str, Any]:
    """What a call gives, its seconds, and the bytes added at its peak."""
    peak = watch_peak()
    before = resident_bytes()
    start = time.perf_counter()
    value = run()
    seconds = time.perf_counter() - start
    most = peak() or before  # None: no new peak, where it cannot be reset
    return {"value": value, "seconds": seconds, "added_bytes": most - before}


def exact(maps: NDArray[np.float32], masks: NDArray[np.bool_]) -> dict[str, Any]:
    """Every metric from the arrays, each score that occurs a threshold."""

    def of_levels(metric: Callable[[Sums, Order], Any]) -> dict[str, Any]:
        return measured(
            lambda: float(PixelMetrics(MapCounts.exact(list(maps), list(masks))).measure(metric))
        )

    return {row.name: of_levels(row.measure) for row in OF_PIXELS if not row.needs_saturation}


def explained(maps: NDArray[np.float32], masks: NDArray[np.bool_]) -> dict[str, float]:
    """Some metrics as others take them, of maps without NaN.

    Scores outside [0, 1] go through a sigmoid in float32; the range of AUPIMO is cut where the
    nearest rates are, and its area divided by the whole range.
    """
    if np.isnan(maps).any():
        return {}
    squashed = maps if maps.min() >= 0 and maps.max() <= 1 else 1 / (1 + np.exp(-maps))
    of_squashed = PixelMetrics(MapCounts.exact(list(squashed), list(masks))).resampled(None)
    counts = MapCounts.exact(list(maps), list(masks))
    rates = Sums(Layout(counts), np.ones((1, len(maps)))).shared_fpr[0]
    low, high = (float(rates[np.abs(rates - limit).argmin()]) for limit in AUPIMO_FPR)
    values = {name: float(of_squashed[name]) for name in ("pixel_auroc", "pixel_average_precision")}
    if 0 < low < high:
        part = np.log(high / low) / np.log(AUPIMO_FPR[1] / AUPIMO_FPR[0])
        of_range = PixelMetrics(counts).measure(lambda sums, order: sums.aupimo((low, high), order))
        values["aupimo"] = float(of_range) * part
    return values


def streaming(maps: NDArray[np.float32], masks: NDArray[np.bool_]) -> dict[str, Any]:
    """Every metric from counts: counting alone, all of them together, and their bounds."""
    counts = MapCounts()

    def count() -> None:
        for anomaly_map, mask in zip(maps, masks, strict=True):
            counts.add(anomaly_map, mask)

    counting = measured(count)
    together = measured(lambda: PixelMetrics(counts).metrics())
    metrics = PixelMetrics(counts)
    bounds = {
        order: {name: float(value) for name, value in metrics.resampled(None, order).items()}
        for order in ("worst", "best")
    }
    return {"counting": counting, "together": together, "bounds": bounds}


def scale(n_images: int, side_px: int, n_resamples: int) -> dict[str, Any]:
    """Count many large maps, half of them with one defect, and resample them."""
    watched = watch_peak()
    generator = np.random.default_rng(0)
    grounds = generator.gamma(12, 1, (4, side_px, side_px)).astype(np.float32)
    counts = MapCounts()
    counting_s = 0.0
    for i in range(n_images):
        anomaly_map = grounds[i % len(grounds)] * np.float32(generator.lognormal(0, 0.1))
        mask = None
        if i % 2:
            y, x = generator.integers(0, side_px * 3 // 4, 2)
            mask = np.zeros((side_px, side_px), np.bool_)
            mask[y : y + side_px // 20, x : x + side_px // 10] = True
            anomaly_map[mask] *= np.float32(generator.uniform(1, 4))
        start = time.perf_counter()
        counts.add(anomaly_map, mask)
        counting_s += time.perf_counter() - start
    after_counting = watched()
    rows = (counts.normal, counts.regions)
    held = sum(a.nbytes + b.nbytes for r in rows for a, b in zip(r.bins, r.counts, strict=True))
    start = time.perf_counter()
    metrics = PixelMetrics(counts)
    values = metrics.metrics()
    once_s = time.perf_counter() - start
    start = time.perf_counter()
    samples = metrics.resampled(bootstrap_weights(counts.is_anomalous, n_resamples))
    resampling_s = time.perf_counter() - start
    peak = watched()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "counts.npz"
        counts.save(path)
        file_bytes = path.stat().st_size
    return {
        "n_images": n_images,
        "side_px": side_px,
        "n_resamples": n_resamples,
        "counting_ms_per_image": 1000 * counting_s / n_images,
        "once_s": once_s,
        "resampling_s": resampling_s,
        "counts_bytes": held,
        "file_bytes": file_bytes,
        "peak_after_counting_bytes": after_counting,
        "peak_bytes": peak,
        "maps_bytes_computed": n_images * side_px**2 * 4,
        "values": values,
        "intervals": {name: interval(value) for name, value in samples.items()},
    }


def main() -> None:
    """Do what the command line says."""
    mode, *words = sys.argv[1:]
    if mode == "scale":
        n_images, side_px, n_resamples = map(int, words)
        print(json.dumps(scale(n_images, side_px, n_resamples)))
        return
    modes = {"exact": exact, "explained": explained, "streaming": streaming}
    results = {}
    for folder in map(Path, words):
        maps, masks = np.load(folder / "maps.npy"), np.load(folder / "masks.npy")
        results[folder.name] = modes[mode](maps, masks)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
