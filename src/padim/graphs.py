"""Torch modules as ONNX graphs, and the trunk as one that another engine runs."""

import hashlib
import json
import logging
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from padim.engines import INPUT, Graph
from padim.errors import ModelFileError, PathMissingError
from padim.files import written_together
from padim.scorer import Features
from padim.state import installed_versions

_LARGEST_PROTOBUF = 2**31 - 2**27  # a single ONNX file stays below 2 GiB


def write_onnx(
    module: nn.Module,
    path: Path,
    input_px: tuple[int, int],
    outputs: Sequence[str],
    description: str,
    n_batch: int | None = None,
) -> None:
    """Write a module that takes uint8 images as an ONNX graph, weights inside when under 2 GB.

    Args:
        module: Takes RGB, shape ``(N, H, W, 3)``, uint8.
        path: The file to be, in a folder of its own when the weights are larger than that.
        input_px: (height, width) of the images.
        outputs: Names of the outputs.
        description: Kept in the graph under the key ``padim``.
        n_batch: Images that the graph takes at a time; any number when None.
    """
    import onnxscript  # noqa: F401  # torch's exporter needs it; say so as a missing extra

    example = torch.zeros(n_batch or 2, *input_px, 3, dtype=torch.uint8)
    batch = torch.export.Dim("batch") if n_batch is None else None
    with _quiet_exporter():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: batch},) if batch is not None else None,
            input_names=[INPUT],
            output_names=list(outputs),
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props["padim"] = description
    n_bytes = sum(t.numel() * t.element_size() for t in module.state_dict().values())
    program.save(path, external_data=n_bytes > _LARGEST_PROTOBUF)


class GraphFeatures(nn.Module):
    """From uint8 images to the features of each level, computed by another engine than torch.

    The graph is written once for each backbone, size and version, into the user's cache folder;
    two processes may do so at the same time. Where that folder cannot be written to, it is written
    anew each time. It is loaded at first use, and what torch would run is let go then.

    Args:
        features: What torch would run.
        engine: ``onnxruntime`` or ``openvino``.
        weights_sha256: Of the file the weights came from.
        n_threads: Threads of one call; one for each core when None.
    """

    def __init__(
        self, features: Features, engine: str, weights_sha256: str, n_threads: int | None
    ) -> None:
        super().__init__()
        self._opening = threading.Lock()
        self._graph: Graph | None = None
        self._open: Callable[[], Graph] | None = lambda: _cached(
            features, engine, weights_sha256, n_threads
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute the features of a batch.

        Args:
            images: RGB, shape ``(N, H, W, 3)``, uint8.

        Returns:
            One per level, coarse to fine, shape ``(cells, N, d)``, float32.
        """
        with self._opening:
            if self._graph is None:
                assert self._open is not None
                self._graph, self._open = self._open(), None
        return [torch.from_numpy(level).transpose(0, 1) for level in self._graph(images.numpy())]


def _cached(features: Features, engine: str, weights_sha256: str, n_threads: int | None) -> Graph:
    import platformdirs

    key = _key(features, weights_sha256)
    cached = platformdirs.user_cache_path("padim-efficientnet") / "trunks" / f"{key}.onnx"
    try:
        return Graph(cached, engine, n_threads)
    except (PathMissingError, ModelFileError):
        pass
    try:
        write_features(features, cached)
    except OSError:
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / "trunk.onnx"
            write_features(features, temporary)
            return Graph(temporary, engine, n_threads)
    return Graph(cached, engine, n_threads)


def write_features(features: Features, path: Path) -> None:
    """Write the way from images to features as a graph."""
    names = [f"level_{i}" for i in range(len(features.pyramid.levels))]
    with written_together(path) as partial:
        write_onnx(_ImageByImage(features), partial, features.size_px, names, "")


class _ImageByImage(nn.Module):
    def __init__(self, features: Features) -> None:
        super().__init__()
        self.features = features

    def forward(self, images: Tensor) -> list[Tensor]:
        return [level.transpose(0, 1) for level in self.features(images)]


def _key(features: Features, weights_sha256: str) -> str:
    facts: dict[str, Any] = {
        "weights": weights_sha256,
        "stages": features.trunk.stages,
        "tapped": sorted(features.trunk.tapped),
        "levels": features.pyramid.to_json(),
        "size_px": features.size_px,
        "mean": features.mean[:3].tolist(),
        "std": features.std[:3].tolist(),
        "versions": installed_versions(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep to itself what torch's exporter says of its own deprecated parts."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
