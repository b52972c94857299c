"""Find and localise defects in images after seeing only good ones."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from padim.errors import PadimError

if TYPE_CHECKING:
    from padim.map_counts import MapCounts
    from padim.model import PaDiM, fit
    from padim.opening import load
    from padim.pixel_metrics import PixelMetrics
    from padim.predictor import Prediction, Predictor

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
    "MapCounts": "map_counts",
    "PixelMetrics": "pixel_metrics",
    "PaDiM": "model",
    "fit": "model",
    "load": "opening",
    "Prediction": "predictor",
    "Predictor": "predictor",
}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and a machine that only scores may not have it.
    if name in _MODULES:
        return getattr(import_module(f"padim.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'padim' has no attribute {name!r}")
