"""What is installed and decides the numbers of a model."""

from importlib.metadata import version

_VERSIONED = ("padim-efficientnet", "torch", "torchvision", "timm", "numpy", "pillow")


def read_versions() -> dict[str, str]:
    """Versions of the packages that decide the numbers in a model."""
    return {name: version(name) for name in _VERSIONED}
