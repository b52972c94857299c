"""Features of a first look, kept for the second."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from padim.method.pyramid import Pyramid
from padim.temporary import TemporaryFolder
from padim.tensors.file_tensor import FileTensor

KEPT_FEATURE_BYTES = 1 << 30  # of features kept for a second look; beyond, they are recomputed

# Float32, (N, features): those of one image after another, level by level, coarse to fine. They
# hold all images of a look, or there is none.
Kept = tuple[Tensor | FileTensor, ...]


class Keeper:
    """Keeps the features of images: in a temporary file, in a folder of its own; a GPU's with it.

    It keeps none once they are more than ``max_bytes``, or where no file has room for them: they
    are then to be computed again.

    Args:
        max_bytes: Of all features.
        parent: Of the folder; the system's when None.
    """

    def __init__(self, max_bytes: int, parent: Path | None = None) -> None:
        self._left_bytes = max_bytes
        self._parent = parent
        self._file: FileTensor | None = None
        self._on_device: list[Tensor] = []
        self._n_images = 0

    def add(self, embeddings: Sequence[Tensor]) -> None:
        """Add a batch, one tensor ``(cells, N, d)`` per level."""
        self._left_bytes -= sum(level.numel() * level.element_size() for level in embeddings)
        if self._left_bytes >= 0:
            try:
                self._write(embeddings)
            except OSError:  # a full disk, or no folder that may be written: not kept
                self._left_bytes = -1
        if self._left_bytes < 0:
            self._file, self._on_device = None, []

    def kept(self) -> Kept:
        """What has been kept."""
        if self._file is None:
            return tuple(self._on_device)
        return (replace(self._file, shape=(self._n_images, *self._file.shape[1:])),)

    def _write(self, embeddings: Sequence[Tensor]) -> None:
        features = torch.cat([level.transpose(0, 1).flatten(1) for level in embeddings], dim=1)
        if features.device.type != "cpu":
            self._on_device.append(features)
            return
        if self._file is None:
            shape = (0, features.shape[1])  # it grows
            folder = TemporaryFolder(self._parent)
            self._file = FileTensor.make(folder, "features", shape, torch.float32)
        self._file.write(self._n_images, features)
        self._n_images += len(features)


def read_kept(
    kept: Kept, pyramid: Pyramid, device: torch.device, n_batch: int
) -> Iterator[list[Tensor]]:
    """Read features in batches, ``(cells, N, d)`` per level of a pyramid's heads."""
    sizes = [cells * dims for cells, dims, _ in pyramid.shapes]
    for part in kept:
        for start in range(0, len(part), n_batch):
            levels = torch.split(part[start : start + n_batch].to(device), sizes, dim=1)
            yield [
                level.view(-1, cells, dims).transpose(0, 1)
                for level, (cells, dims, _) in zip(levels, pyramid.shapes, strict=True)
            ]
