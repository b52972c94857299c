"""The trunk as an ONNX graph, kept in the user's cache for other engines than torch to run."""

import hashlib
import json
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from padim.errors import ModelFileError, PathMissingError
from padim.features.encoder import Encoder
from padim.features.features import Features
from padim.features.onnx import write_onnx
from padim.files import written_together
from padim.scoring.graph import Graph
from padim.versions import installed_versions

_TRUNK_VERSION = 1  # of what is written of a trunk; what is cached under another is not used


@dataclass(frozen=True)
class CachedTrunk:
    """Where the user's cache folder keeps a trunk as a graph, with its tensors beside it.

    It is written once for each backbone, size and version; two processes may do so at once. What is
    there spares a fit from loading the library that builds the network.

    Attributes:
        path: The graph, from uint8 images to ``level_0``, ``level_1``, ..., each ``(N, cells, d)``.
    """

    path: Path

    @classmethod
    def of(cls, encoder: Encoder) -> "CachedTrunk":
        """Where the trunk of an encoder belongs, as what is installed here writes it."""
        import platformdirs

        window = encoder.of_window()
        facts = {
            "trunk_version": _TRUNK_VERSION,
            "weights_sha256": window.weights_sha256,
            "taps": window.spec.taps,
            "levels": window.pyramid.to_json(),
            "preprocess": window.preprocess.to_json(),
            "versions": installed_versions(),
        }
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
        folder = platformdirs.user_cache_path("padim-efficientnet") / "trunks"
        return cls(folder / f"{encoder.spec.name}-{key}.onnx")

    def tensors(self) -> tuple[dict[str, Tensor], int] | None:
        """The trunk's tensors, and what ``activation_bytes`` says; None when not there."""
        try:
            with safe_open(self.path.with_suffix(".safetensors"), framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
                return tensors, int(file.metadata()["activation_bytes"])
        except (OSError, SafetensorError):
            return None

    def write(self, features: Features, tensors: Mapping[str, Tensor], n_bytes: int) -> None:
        """Write the trunk: what torch would run, its tensors, and their ``activation_bytes``."""
        with written_together(self.path, same=True) as partial:
            names = [f"level_{i}" for i in range(len(features.pyramid.levels))]
            write_onnx(_ImageByImage(features), partial, features.size_px, names, "")
            contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
            metadata = {"activation_bytes": str(n_bytes)}
            save_file(contiguous, partial.with_suffix(".safetensors"), metadata)


class GraphFeatures(nn.Module):
    """From uint8 images to the features of each level, computed by another engine than torch.

    The graph is loaded at first use, and written before when it is not there. Where the cache
    cannot be written to, it is written anew each time.

    Args:
        cached: The trunk's place.
        write: Writes a trunk into the place it is given.
        engine: ``onnxruntime`` or ``openvino``.
        n_threads: Threads of one call; one for each core when None.
    """

    def __init__(
        self,
        cached: CachedTrunk,
        write: Callable[[CachedTrunk], None],
        engine: str,
        n_threads: int | None,
    ) -> None:
        super().__init__()
        self._cached = cached
        self._write = write
        self._engine = engine
        self._n_threads = n_threads
        self._opening = threading.Lock()
        self._graph: Graph | None = None

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of RGB ``(N, H, W, 3)``, uint8: ``(cells, N, d)`` per level, float32."""
        return [torch.from_numpy(level).transpose(0, 1) for level in self.open()(images.numpy())]

    def open(self) -> Graph:
        """Load the graph, unless it is loaded; write it before, unless it is there."""
        with self._opening:
            if self._graph is None:
                self._graph = self._load()
            return self._graph

    def _load(self) -> Graph:
        with suppress(PathMissingError, ModelFileError):
            return self._open(self._cached)
        try:
            self._write(self._cached)
        except (OSError, SafetensorError):  # a full disk, or a cache that may not be written
            with tempfile.TemporaryDirectory() as folder:
                temporary = CachedTrunk(Path(folder) / "trunk.onnx")
                self._write(temporary)
                return self._open(temporary)
        return self._open(self._cached)

    def _open(self, trunk: CachedTrunk) -> Graph:
        return Graph(trunk.path, self._engine, self._n_threads)


def open_graphs(features: nn.Module) -> None:
    """Load the graphs that compute features, and write them before where they are not there."""
    for module in features.modules():
        if isinstance(module, GraphFeatures):
            module.open()


class _ImageByImage(nn.Module):
    def __init__(self, features: Features) -> None:
        super().__init__()
        self.features = features

    def forward(self, images: Tensor) -> list[Tensor]:
        return [level.transpose(0, 1) for level in self.features(images)]
