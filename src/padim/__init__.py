"""Find and localise defects in images after seeing only good ones."""

from typing import TYPE_CHECKING, Any

from padim.errors import PadimError

if TYPE_CHECKING:
    from padim.model import PaDiM, Prediction, fit, load

__all__ = ["PaDiM", "PadimError", "Prediction", "__version__", "fit", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and a machine that only scores may not have it.
    if name in {"PaDiM", "Prediction", "fit", "load"}:
        from padim import model

        return getattr(model, name)
    raise AttributeError(f"module 'padim' has no attribute {name!r}")
