"""Find and localise defects in images after seeing only good ones.

Fit on good images, then score others::

    model = padim.fit("carpet/train/good")
    prediction = model.predict("carpet/test/hole/000.png")
    prediction.label, prediction.score, prediction.defects()
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from padim.errors import (
    DatasetError,
    ImageReadError,
    MemoryLimitError,
    MissingExtraError,
    ModelFileError,
    PadimError,
    ParityError,
    ShapeError,
    UsageError,
    WeightsError,
    naming_extras,
)

if TYPE_CHECKING:
    from padim.datasets import read_dataset
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
    from padim.scoring.prediction import Prediction
    from padim.scoring.predictor import Predictor

__all__ = [
    "DatasetError",
    "FitSettings",
    "ImageReadError",
    "MapCounts",
    "MemoryLimitError",
    "MissingExtraError",
    "ModelFileError",
    "PaDiM",
    "PadimError",
    "ParityError",
    "PixelMetrics",
    "Prediction",
    "Predictor",
    "Region",
    "ShapeError",
    "UsageError",
    "WeightsError",
    "__version__",
    "calibrate",
    "export",
    "fit",
    "forget",
    "load",
    "merge",
    "read_dataset",
    "update",
]
__version__ = "0.1.0"

_MODULES = {
    "FitSettings": "fitting.settings",
    "MapCounts": "metrics.counts",
    "PixelMetrics": "metrics.pixels",
    "PaDiM": "model.padim",
    "Prediction": "scoring.prediction",
    "Predictor": "scoring.predictor",
    "Region": "images.regions",
    "calibrate": "fitting.calibrate",
    "export": "model.export",
    "fit": "fitting.fit",
    "forget": "fitting.update",
    "load": "model.opening",
    "merge": "fitting.update",
    "read_dataset": "datasets",
    "update": "fitting.update",
}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and a machine that only scores may not have it.
    if name in _MODULES:
        with naming_extras():
            return getattr(import_module(f"padim.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'padim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
