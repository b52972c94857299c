"""A model of the solar cells, and the graphs made of it, that several benchmarks run."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from numpy.typing import NDArray

from padim.backbones import backbone
from padim.datasets import list_images
from padim.datasets.solar_cells import lay_out_solar_cells
from padim.features.trunk import build_trunk
from padim.fitting.fitter import Fitter
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitChoices, FitSettings, settings_with
from padim.images.ahead import load_ahead
from padim.model.export import export
from padim.model.file import save_state
from padim.scoring.engines import graph_formats
from padim.tensors.file_tensor import write_tensors

N_QUICK = 40  # images
# The work that anomalib's PaDiM does with this network, three levels and no coarse head, with the
# score of ``standard`` before it had two.
THREE_LEVELS: FitChoices = {
    "taps": (1, 2, 4),
    "sigma_px": 4.0,
    "score_fraction": 0.01,
    "coarse_scale": 0.0,
}


@dataclass(frozen=True)
class Cells:
    """What a model was made from, and its files.

    Attributes:
        fitter: Who fitted.
        train: Folder of the normal images that it was fitted on.
        test: Folder of normal images that it did not see.
        model: The model file.
    """

    fitter: Fitter
    train: Path
    test: Path
    model: Path

    def graph(self, to: str, n_batch: int | None = None) -> Path:
        """Export the model; a graph that is there already is taken.

        Args:
            to: ``onnx`` or ``openvino``.
            n_batch: Images that it takes at a time; any number when None.
        """
        suffix = graph_formats()[to]
        path = self.model.with_name(f"batch_{n_batch or 'dynamic'}{suffix}")
        if not path.is_file():
            export(self.model, path, to=to, n_batch=n_batch)
        return path

    def pixels(self, n_images: int) -> NDArray[np.uint8]:
        """Images for testing, decoded and of network size: shape ``(N, H, W, 3)``."""
        paths = list_images(self.test)[:n_images]
        return np.stack(
            [image.pixels for image in load_ahead(paths, self.fitter.encoder.preprocess)]
        )


def fit_on_cells(folder: Path, quick: bool, **choices: Unpack[FitChoices]) -> Cells:
    """Fit on the 392 monocrystalline cells for training; on few in a quick run.

    Args:
        folder: Where the images and the model go.
        quick: Whether it is a quick run.
        **choices: Fields of ``FitSettings``.
    """
    category = lay_out_solar_cells(folder, "mono")
    train = category / "train" / "good"
    if quick:
        for path in list_images(train)[N_QUICK:]:
            path.unlink()
    fitter = prepare(settings_with(FitSettings(device="cpu"), **choices))
    model = folder / "model.safetensors"
    save_state(fitter.fit(list_images(train)).state, model)
    return Cells(fitter, train, category / "test" / "good", model)


def photographs() -> tuple[Path, ...]:
    """All 2,624 photographs, of whatever kind of cell."""
    found = find_spec("elpv_dataset")
    assert found is not None
    assert found.origin is not None
    return list_images(Path(found.origin).parent / "data" / "images")


def write_random_weights(name: str, folder: Path) -> Path:
    """Write a file of random weights for a backbone, with batch norms that change nothing."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for key, like in build_trunk(backbone(name)).network.state_dict().items():
        if like.ndim > 1:
            spread = like[0].numel() ** -0.5  # larger, rounding would grow from layer to layer
            tensors[key] = torch.randn(like.shape, generator=generator) * spread
        else:
            fill = float(key.endswith(("running_var", ".weight")))
            tensors[key] = torch.full(like.shape, fill, dtype=like.dtype)
    path = folder / f"{name}.safetensors"
    write_tensors(tensors, path, {})
    return path
