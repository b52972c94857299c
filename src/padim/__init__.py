"""Find and localise defects in images after seeing only good ones.

Fit on good images, then score others::

    model = padim.fit("carpet/train/good")
    prediction = model.predict("carpet/test/hole/000.png")
    prediction.label, prediction.score, prediction.defects()
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from padim.errors import (
    DatasetError,
    DeviceError,
    ImageReadError,
    MemoryLimitError,
    MissingExtraError,
    ModelFileError,
    PadimError,
    ParityError,
    ShapeError,
    UnreachableError,
    UsageError,
    WeightsError,
    naming_extras,
)

if TYPE_CHECKING:
    from padim.datasets import read_dataset
    from padim.evaluation.category import evaluate
    from padim.fitting.calibrate import calibrate
    from padim.fitting.fit import fit
    from padim.fitting.settings import FitSettings
    from padim.fitting.update import forget, merge, update
    from padim.images.regions import Region
    from padim.metrics.counts import MapCounts
    from padim.metrics.pixels import PixelMetrics
    from padim.model.export import export
    from padim.model.opening import load
    from padim.model.padim import PaDiM
    from padim.monitor.monitor import Monitor
    from padim.scoring.bulk import write_parquet
    from padim.scoring.map_array import read_map
    from padim.scoring.prediction import Prediction
    from padim.scoring.predictor import Predictor

__all__ = [
    "DatasetError",
    "DeviceError",
    "FitSettings",
    "ImageReadError",
    "MapCounts",
    "MemoryLimitError",
    "MissingExtraError",
    "ModelFileError",
    "Monitor",
    "PaDiM",
    "PadimError",
    "ParityError",
    "PixelMetrics",
    "Prediction",
    "Predictor",
    "Region",
    "ShapeError",
    "UnreachableError",
    "UsageError",
    "WeightsError",
    "__version__",
    "calibrate",
    "evaluate",
    "export",
    "fit",
    "forget",
    "load",
    "merge",
    "read_dataset",
    "read_map",
    "update",
    "write_parquet",
]
__version__ = "0.1.0"

# From 1.29 on, ONNX Runtime reports its use to its makers, and keeps an identity in the user's
# folders for that. It asks once, when it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# torch's threads spin while they wait for work, and so take the cores from the engine beside them,
# from decoding and from other processes. OpenMP reads this when torch is loaded.
if "torch" not in sys.modules:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# So do numpy's, in its builds with OpenBLAS: 2**4 cycles are as few as it takes.
if "numpy" not in sys.modules:
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")

_MODULES = {
    "datasets": ("read_dataset",),
    "evaluation.category": ("evaluate",),
    "fitting.calibrate": ("calibrate",),
    "fitting.fit": ("fit",),
    "fitting.settings": ("FitSettings",),
    "fitting.update": ("forget", "merge", "update"),
    "images.regions": ("Region",),
    "metrics.counts": ("MapCounts",),
    "metrics.pixels": ("PixelMetrics",),
    "model.export": ("export",),
    "model.opening": ("load",),
    "model.padim": ("PaDiM",),
    "monitor.monitor": ("Monitor",),
    "scoring.bulk": ("write_parquet",),
    "scoring.map_array": ("read_map",),
    "scoring.prediction": ("Prediction",),
    "scoring.predictor": ("Predictor",),
}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and a machine that only scores may not have it.
    from padim.memory import without_collecting

    for module, names in _MODULES.items():
        if name in names:
            with naming_extras(), without_collecting():
                return getattr(import_module(f"padim.{module}"), name)
    raise AttributeError(f"module 'padim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
