"""Find and localise defects in images after seeing only good ones."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from padim.errors import PadimError

if TYPE_CHECKING:
    from padim.fitting.fit import fit
    from padim.metrics.counts import MapCounts
    from padim.metrics.pixels import PixelMetrics
    from padim.model.opening import load
    from padim.model.padim import PaDiM
    from padim.scoring.prediction import Prediction
    from padim.scoring.predictor import Predictor

__all__ = [
    "MapCounts",
    "PaDiM",
    "PadimError",
    "PixelMetrics",
    "Prediction",
    "Predictor",
    "__version__",
    "fit",
    "load",
]
__version__ = "0.1.0"


_MODULES = {
    "MapCounts": "metrics.counts",
    "PixelMetrics": "metrics.pixels",
    "PaDiM": "model.padim",
    "fit": "fitting.fit",
    "load": "model.opening",
    "Prediction": "scoring.prediction",
    "Predictor": "scoring.predictor",
}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and a machine that only scores may not have it.
    if name in _MODULES:
        return getattr(import_module(f"padim.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'padim' has no attribute {name!r}")
