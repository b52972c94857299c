"""A pretrained network and the engine that runs it: from uint8 images to features."""

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from padim.errors import ModelFileError, PathMissingError, UnknownNameError, UsageError
from padim.features.encoder import Encoder
from padim.features.features import Features, TiledFeatures
from padim.features.onnx import write_onnx
from padim.features.trunk import activation_bytes, build_trunk, load_trunk, optimise
from padim.files import write_together
from padim.scoring.engines import DEVICES, ENGINES, N_BATCH, choose_threads, require_engine
from padim.scoring.graph import Graph
from padim.temporary import TemporaryFolder
from padim.versions import read_versions

TRUNK_BATCH = {"cpu": N_BATCH, "cuda": 32}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_TRUNK_VERSION = 1  # of what is written of a trunk; what is cached under another is not used


@dataclass(frozen=True)
class Network:
    """A pretrained network, not loaded yet."""

    encoder: Encoder  # what decides its features
    read: Callable[[], Mapping[str, Tensor]]  # its weights, under the names of the whole network
    origin: object  # where they come from, for messages

    def features(self, engine: str = "torch", n_threads: int | None = None) -> nn.Module:
        """Let an engine give the features of each level of uint8 images, as ``Features`` does.

        ``n_threads`` are those of the whole process; one for each core when None.

        Raises:
            WeightsError: The weights are not its.
        """
        if n_threads is not None:
            torch.set_num_threads(choose_threads(n_threads))
        features = self.build() if engine == "torch" else GraphFeatures(self, engine, n_threads)
        tiling = self.encoder.tiling
        return features if tiling.is_trivial else TiledFeatures(features, tiling)

    def build(self) -> Features:
        """Build what torch runs."""
        encoder = self.encoder.of_window()
        trunk = optimise(load_trunk(encoder.spec, self.read(), self.origin))
        precision = DTYPES[encoder.precision]
        return Features(trunk, encoder.pyramid, encoder.preprocess, precision).eval()

    def trunk(self) -> tuple[dict[str, Tensor], int]:
        """Its trunk's tensors, and the bytes of feature maps that one image takes."""
        spec = self.encoder.spec
        tensors = load_trunk(spec, self.read(), self.origin).network.state_dict()
        n_bytes = activation_bytes(build_trunk(spec), self.encoder.tiling.window_px)
        return dict(tensors), n_bytes

    def find_cached(self) -> Path:
        """Where the user's cache keeps its trunk as a graph, as what is installed here writes it.

        It is written once for each backbone, size and version; two processes may do so at once. The
        tensors beside it spare a fit from loading the library that builds the network.
        """
        import platformdirs

        window = self.encoder.of_window()
        facts = {
            "trunk_version": _TRUNK_VERSION,
            "weights_sha256": window.weights_sha256,
            "taps": window.spec.taps,
            "levels": window.pyramid.to_json(),
            "preprocess": window.preprocess.to_json(),
            "versions": read_versions(),
        }
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
        folder = platformdirs.user_cache_path("padim-efficientnet") / "trunks"
        return folder / f"{self.encoder.spec.name}-{key}.onnx"

    def read_cached(self) -> tuple[dict[str, Tensor], int] | None:
        """What ``trunk`` says, from the user's cache; None when it is not there."""
        try:
            with safe_open(self.find_cached().with_suffix(".safetensors"), framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
                return tensors, int(file.metadata()["activation_bytes"])
        except (OSError, SafetensorError):
            return None

    def write_trunk(self, path: Path) -> None:
        """Write its trunk as a graph, from uint8 images to ``level_0``, ..., with its tensors."""
        features = self.build()
        tensors, n_bytes = self.trunk()
        with write_together(path) as partial:
            names = [f"level_{i}" for i in range(len(features.pyramid.levels))]
            write_onnx(_ImageByImage(features), partial, features.size_px, names, "")
            contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
            metadata = {"activation_bytes": str(n_bytes)}
            save_file(contiguous, partial.with_suffix(".safetensors"), metadata)


class GraphFeatures(nn.Module):
    """From uint8 images to the features of each level, computed by another engine than torch.

    The graph is loaded at first use, and written before when it is not there. Where the cache
    cannot be written to, it is written anew each time.
    """

    def __init__(self, network: Network, engine: str, n_threads: int | None) -> None:
        super().__init__()
        self._network = network
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
        path = self._network.find_cached()
        with suppress(PathMissingError, ModelFileError):
            return self._open(path)
        try:
            self._network.write_trunk(path)
        except (OSError, SafetensorError):  # a full disk, or a cache that may not be written
            with TemporaryFolder() as folder:
                path = folder / "trunk.onnx"
                self._network.write_trunk(path)
                return self._open(path)
        return self._open(path)

    def _open(self, path: Path) -> Graph:
        return Graph(path, self._engine, self._n_threads)

    def __reduce__(self) -> tuple[object, ...]:
        return GraphFeatures, (self._network, self._engine, self._n_threads)


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


def choose_device(name: str) -> torch.device:
    """The device of a name; ``auto`` is a CUDA device where there is one.

    Raises:
        UnknownNameError: There is no such device name.
        UsageError: There is no such device here.
    """
    if name not in DEVICES:
        raise UnknownNameError("device", name, DEVICES)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    elif name == "cuda" and not torch.cuda.is_available():
        raise UsageError("The device is cuda, but this machine has none. Use --device cpu.")
    return torch.device(name)


def choose_engine(name: str, device: torch.device, precision: str) -> str:
    """Who runs the trunk in a precision, where torch would compute on this device.

    ``auto`` is ONNX Runtime for float32 on a CPU, where it is faster than torch, and torch for all
    else.

    Raises:
        UnknownNameError: There is no such engine or precision.
        UsageError: The engine does not compute there, or not in this precision.
        MissingExtraError: It is not installed.
    """
    if precision not in DTYPES:
        raise UnknownNameError("precision", precision, tuple(DTYPES))
    if name == "auto":
        name = "onnxruntime" if device.type == "cpu" and precision == "float32" else "torch"
    if name not in ENGINES:
        raise UnknownNameError("engine", name, ("auto", *ENGINES))
    require_engine(name)
    if name != "torch" and precision != "float32":
        raise UsageError(
            f"The precision is {precision}, but {name} runs a trunk in float32. Use --engine torch."
        )
    if name != "torch" and device.type != "cpu":
        raise UsageError(
            f"The device is {device.type}, but {name} computes on the CPU here. Use --engine torch."
        )
    return name


def choose_batch(n_batch: int | None, device: torch.device) -> int:
    """Images in one forward pass; what suits the device when None.

    Raises:
        UsageError: Fewer than one.
    """
    if n_batch is None:
        return TRUNK_BATCH[device.type]
    if n_batch < 1:
        raise UsageError(f"The batch size is {n_batch}, but needs to be 1 or more. Try 1.")
    return n_batch
