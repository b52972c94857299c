"""anomalib's and torchmetrics' side of the comparison of metrics, each as its own API has it.

Run by the Python of ``peer_env.py``; nothing of padim is imported here.

    anomalib_python metrics_peer.py FOLDER...

Each folder holds ``maps.npy``, float32 ``(N, H, W)``, and ``masks.npy``, bool. Printed is one line
of JSON: by folder and metric the value or what went wrong, seconds, and the bytes that were added
at the peak to what was held before.
"""

import argparse
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.metrics.aupro import _AUPRO
from anomalib.metrics.auroc import _AUROC
from anomalib.metrics.f1_score import _F1Max
from anomalib.metrics.pimo.pimo import _AUPIMO
from torchmetrics import Metric
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision

METRICS: dict[str, dict[str, Callable[[], Metric]]] = {
    "anomalib": {
        "pixel_auroc": _AUROC,
        "pixel_f1_max": _F1Max,
        "aupro_30": lambda: _AUPRO(fpr_limit=0.3),
        "aupro_05": lambda: _AUPRO(fpr_limit=0.05),
        "aupimo": _AUPIMO,
    },
    "torchmetrics": {
        "pixel_auroc": BinaryAUROC,
        "pixel_average_precision": BinaryAveragePrecision,
    },
}


def status_bytes(what: str) -> int:
    """A line of what Linux says of this process's memory, in bytes."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.partition(f"{what}:")[2].split()[0]) * 1024


def measured(metric: Callable[[], Metric], maps: torch.Tensor, masks: torch.Tensor) -> Any:
    """Value, seconds and added bytes of a metric, from the tensors on."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = status_bytes("VmRSS")
    start = time.perf_counter()
    value: float | None = None
    error = None
    try:
        computing = metric()
        computing.update(maps, masks)
        value = float(computing.compute())
    except (IndexError, RuntimeError, ValueError) as caught:
        error = f"{type(caught).__name__}: {caught}"
    seconds = time.perf_counter() - start
    added = status_bytes("VmHWM") - before
    return {"value": value, "error": error, "seconds": seconds, "added_bytes": added}


def main() -> None:
    """Compute every metric of the folders that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", type=Path, nargs="+")
    options = parser.parse_args()
    answers, sys.stdout = sys.stdout, sys.stderr
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    results: dict[str, Any] = {}
    for folder in options.folders:
        maps = torch.from_numpy(np.load(folder / "maps.npy"))
        masks = torch.from_numpy(np.load(folder / "masks.npy")).int()
        results[folder.name] = {
            library: {name: measured(metric, maps, masks) for name, metric in metrics.items()}
            for library, metrics in METRICS.items()
        }
    print(json.dumps(results), file=answers)


if __name__ == "__main__":
    main()
