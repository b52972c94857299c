"""Bytes of a fitted model on disk, against the file of the published script.

- *ours*: the model file without the trunk, that is whitening rows in float16 or float32, means in
  float32, metadata.
- *dense* (the alternative): the HDF5 file of the published PaDiM-EfficientNet script, with the mean
  (D, L) and the inverse (D, D, L) of every place in float32, uncompressed as it writes them.

Both at 224 px, what the script sees. For Lite0 and for R18-Rd100 the files are really written and
their sizes read; for the larger backbones both are *computed* from the shapes (entries times bytes,
no headers), and marked so. Nothing is timed, so nothing is repeated.
"""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import measure
import numpy as np
import torch

from padim.backbones import BACKBONES, BackboneSpec
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitSettings
from padim.method.gaussian import STORES
from padim.method.pyramid import Pyramid, build_pyramid
from padim.method.tiles import Tiling
from padim.model.file import save_state
from padim.model.state import ModelState

SIZE_PX = (224, 224)
WRITTEN = ("efficientnet_lite0", "resnet18")


def template() -> ModelState:
    """A model of two images of noise, whose statistics are then exchanged."""
    generator = np.random.default_rng(0)
    images = list(generator.integers(0, 256, (2, *SIZE_PX, 3), dtype=np.uint8))
    return (
        prepare(FitSettings(size_px=SIZE_PX, device="cpu", include_backbone=False, calibrate=False))
        .fit(images)
        .state
    )


def ours_written(
    state: ModelState, spec: BackboneSpec, pyramid: Pyramid, store: str, folder: Path
) -> int:
    """Bytes of a model file of random statistics."""
    generator = torch.Generator().manual_seed(0)
    mean, rows = [], []
    for i, level in enumerate(pyramid.levels):
        width = pyramid.context_dims(i) + level.n_dims
        mean.append(torch.randn(level.n_cells, level.n_dims, generator=generator))
        row = torch.randn(level.n_cells, level.n_dims, width, generator=generator)
        rows.append(row.to(STORES[store]))
    path = folder / "model.safetensors"
    changed = replace(
        state,
        encoder=replace(
            state.encoder, spec=spec, tiling=Tiling.whole(pyramid, state.recipe.size_px)
        ),
        eps=(0.01,) * len(rows),
        mean=tuple(mean),
        whitening=tuple(rows),
    )
    save_state(changed, path)
    return path.stat().st_size


def dense_written(pyramid: Pyramid, folder: Path) -> int:
    """Bytes of the published script's file, of random statistics."""
    places, dims = pyramid.levels[-1].n_cells, pyramid.n_dims
    generator = np.random.default_rng(0)
    path = folder / "train.hdf5"
    with h5py.File(path, "w") as file:
        mean = generator.standard_normal((dims, places), dtype=np.float32)
        file.create_dataset("mean", data=mean)
        cov_inv = generator.standard_normal((dims, dims, places), dtype=np.float32)
        file.create_dataset("cov_inv", data=cov_inv)
    return path.stat().st_size


def sizes(state: ModelState, name: str, folder: Path) -> dict[str, Any]:
    """One backbone's row."""
    spec = BACKBONES[name]
    pyramid = build_pyramid(spec, SIZE_PX, spec.n_random_dims)
    places, dims = pyramid.levels[-1].n_cells, pyramid.n_dims
    if name in WRITTEN:
        measure.say(name)
        ours = {store: ours_written(state, spec, pyramid, store, folder) for store in STORES}
        dense = dense_written(pyramid, folder)
    else:
        ours = {
            store: dtype.itemsize * pyramid.n_entries + 4 * pyramid.n_features
            for store, dtype in STORES.items()
        }
        dense = 4 * places * dims * (dims + 1)
    return {
        "backbone": name,
        "n_dims": dims,
        "computed": name not in WRITTEN,
        **{f"ours_{store}_bytes": n_bytes for store, n_bytes in ours.items()},
        "dense_float32_bytes": dense,
        **{f"dense_over_ours_{store}": dense / n_bytes for store, n_bytes in ours.items()},
    }


def main() -> None:
    """Run the benchmark."""
    quick = measure.arguments(__doc__).quick
    about = measure.facts(["h5py"])
    state = template()
    names = [*WRITTEN, *(name for name in BACKBONES if name not in WRITTEN)]
    with TemporaryDirectory() as folder:
        rows = [sizes(state, name, Path(folder)) for name in (names[1:] if quick else names)]
    measure.print_table(
        ("backbone", "D", "", "fp16 MB", "fp32 MB", "dense MB", "dense/fp16", "dense/fp32"),
        [
            (
                row["backbone"],
                row["n_dims"],
                "computed" if row["computed"] else "written",
                *(
                    f"{row[key] / 1e6:.1f}"
                    for key in ("ours_float16_bytes", "ours_float32_bytes", "dense_float32_bytes")
                ),
                f"{row['dense_over_ours_float16']:.1f}",
                f"{row['dense_over_ours_float32']:.1f}",
            )
            for row in rows
        ],
    )
    content = {"settings": {"size_px": SIZE_PX}, "rows": rows}
    measure.finish("file_bytes", about, content, quick=quick)


if __name__ == "__main__":
    main()
