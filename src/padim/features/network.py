"""A pretrained network and the engine that runs it: from uint8 images to features."""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from padim.errors import (
    ModelFileError,
    ParityError,
    PathMissingError,
    UnknownNameError,
    UsageError,
)
from padim.features import trunk_cache
from padim.features.encoder import Encoder
from padim.features.features import Features, TiledFeatures
from padim.features.trunk import Trunk, activation_bytes, load_trunk, optimise
from padim.features.trunk_cache import TrunkTensors, hash_trunk
from padim.files import identify, write_together
from padim.memory import without_collecting
from padim.scoring.engines import (
    BATCHES,
    DEVICES,
    ENGINES,
    check_device,
    choose_threads,
    require_engine,
)
from padim.scoring.graph import Graph
from padim.temporary import TemporaryFolder

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_TOLERANCE = 1e-4  # of the largest feature, between engines: TF32 differs by ten times that


@dataclass(frozen=True)
class Network:
    """A pretrained network, not loaded yet."""

    encoder: Encoder  # what decides its features
    # Its weights, under the names of the whole network; the trunk's own tensors are enough.
    read: Callable[[], Mapping[str, Tensor]]
    origin: object  # where they come from, for messages
    # Of the weights file that is read, as it was hashed here; None where no file is read.
    file_sha256: str | None = None
    trunk_sha256: str | None = None  # of the trunk's tensors, where they have been looked at

    def features(
        self,
        engine: str = "torch",
        n_threads: int | None = None,
        device: str = "cpu",
        n_calls: int = 1,
        *,
        loaded: TrunkTensors | None = None,
    ) -> nn.Module:
        """Let an engine give the features of each level of uint8 images, as ``Features`` does.

        ``n_threads`` are those of the whole process, and of each of ``n_calls`` that run at a time;
        one for each core when None. What ``load`` says is not asked for again if it is given.

        Raises:
            WeightsError: The weights are not its.
        """
        if n_threads is not None:
            torch.set_num_threads(choose_threads(n_threads))
        features: nn.Module
        if engine == "torch":
            features = self.build(None if loaded is None else loaded.tensors)
        else:
            features = GraphFeatures(self, engine, n_threads, device, n_calls, loaded)
        tiling = self.encoder.tiling
        return features if tiling.is_trivial else TiledFeatures(features, tiling)

    def build(self, tensors: Mapping[str, Tensor] | None = None) -> Features:
        """Build what torch runs, with these tensors of the trunk if they are at hand."""
        encoder = self.encoder.of_window()
        tensors = self.read() if tensors is None else tensors
        size_px = encoder.tiling.window_px
        trunk = optimise(load_trunk(encoder.spec, tensors, self.origin, size_px))
        precision = DTYPES[encoder.precision]
        for module in trunk.modules() if isinstance(trunk, Trunk) else ():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.to(precision)  # once, as it is rounded for each product
        return Features(
            trunk,
            encoder.pyramid,
            encoder.preprocess,
            precision,
            mirrored=encoder.mirrored,
        ).eval()

    @without_collecting()
    def trunk(self) -> TrunkTensors:
        """Its trunk's tensors, read and chosen."""
        size_px = self.encoder.tiling.window_px
        trunk = load_trunk(self.encoder.spec, self.read(), self.origin, size_px)
        tensors = dict(trunk.network.state_dict())
        return TrunkTensors(tensors, activation_bytes(trunk.to("meta"), size_px))

    def read_cached(self) -> TrunkTensors | None:
        """What ``trunk`` says, from the user's cache; None when it is not there."""
        path = self.tensors_path
        return None if path is None else trunk_cache.read_tensors(path)

    def load(self) -> TrunkTensors:
        """What ``trunk`` says, from the user's cache if it is there."""
        return self.read_cached() or self.trunk()

    def hash(self) -> str:
        """The sha256 of its trunk's tensors, as ``hash_trunk`` has it."""
        if self.trunk_sha256 is not None:
            return self.trunk_sha256
        if self.file_sha256 is None:
            return hash_trunk(self.read())
        return hash_trunk(self.load().tensors)

    @without_collecting()
    def write_graph(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write these tensors as a graph, from uint8 images to ``level_0``, ..."""
        from padim.features.onnx import write_onnx  # takes long to load, for one graph

        features = self.build(tensors)
        with write_together(path) as partial:
            names = [f"level_{i}" for i in range(len(features.pyramid.shapes))]
            write_onnx(_ImageByImage(features), partial, features.size_px, names, path.stem)
            if self.encoder.spec.is_of_timm:  # each of the others is in the tests
                _compare_with_torch(partial, features)

    def keep_tensors(self, trunk: TrunkTensors | None = None) -> None:
        """Let the user's cache have the trunk's tensors of a weights file, if it lacks them."""
        path = self.tensors_path
        if path is not None and not path.is_file():
            trunk_cache.keep_tensors(path, trunk or self.trunk())

    @property
    def graph_path(self) -> Path:
        """Where the user's cache has the trunk as a graph."""
        return trunk_cache.find_graph(self.encoder, self.hash())

    @property
    def tensors_path(self) -> Path | None:
        """Where the user's cache has the trunk's tensors of a weights file."""
        if self.file_sha256 is None:
            return None
        return trunk_cache.find_tensors(self.encoder, self.file_sha256)


# A network takes most of the memory of a model, and models of one network may share it.
_open_graphs: WeakValueDictionary[tuple[object, ...], Graph] = WeakValueDictionary()
_sharing = threading.Lock()


class GraphFeatures(nn.Module):
    """From uint8 images to the features of each level, computed by another engine than torch.

    The graph is loaded at first use, and written before when it is not there. Where the cache
    cannot be written to, it is written anew each time.
    """

    def __init__(
        self,
        network: Network,
        engine: str,
        n_threads: int | None,
        device: str = "cpu",
        n_calls: int = 1,
        loaded: TrunkTensors | None = None,
    ) -> None:
        super().__init__()
        self._loaded = loaded  # until the graph is
        self._network = network
        self._engine = engine
        self._n_threads = n_threads
        self._device = device
        self._n_calls = n_calls
        self._opening = threading.Lock()
        self._graph: Graph | None = None

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of RGB ``(N, H, W, 3)``, uint8: ``(cells, N, d)`` per level, float32."""
        levels = map(torch.from_numpy, self.open()(images.cpu().numpy()))
        return [level.to(images.device).transpose(0, 1) for level in levels]

    def open(self) -> Graph:
        """Load the graph, unless it is loaded; write it before, unless it is there."""
        with self._opening:
            if self._graph is None:
                self._graph = self._load()
                self._loaded = None
            return self._graph

    def _load(self) -> Graph:
        network = self._network
        path = network.graph_path
        try:
            graph = self._open(path)
        except (PathMissingError, ModelFileError):
            return self._write(path)
        with suppress(OSError):
            network.keep_tensors(self._loaded)
        return graph

    def _write(self, path: Path) -> Graph:
        network = self._network
        trunk = self._loaded or network.load()
        try:
            network.write_graph(path, trunk.tensors)
        except OSError:  # a full disk, or a cache that may not be written
            with TemporaryFolder() as folder:
                elsewhere = folder / path.name
                network.write_graph(elsewhere, trunk.tensors)
                return self._open(elsewhere)
        graph = self._open(path)
        with suppress(OSError):
            network.keep_tensors(trunk)
            trunk_cache.sweep(path, network.tensors_path)
        return graph

    def _open(self, path: Path) -> Graph:
        """Open a graph, or take the one that another model of this process has open."""
        choices = self._engine, self._n_threads, self._device, self._n_calls
        identity: tuple[int, ...] = ()
        with suppress(OSError):  # where nothing can be, whoever opens it says so
            identity = identify(path)
        key = (path, identity, *choices, self._network.encoder.mirrored)
        with _sharing:
            graph = _open_graphs.get(key)
            if graph is None:
                graph = _open_graphs[key] = self._open_own(path)
            return graph

    def _open_own(self, path: Path) -> Graph:
        graph = Graph(
            path, self._engine, self._n_threads, device=self._device, n_calls=self._n_calls
        )
        if not graph.is_sealed or graph.runtime.description != path.stem:
            raise ModelFileError(f"{path} is another graph than was kept there. Remove it.")
        if graph.setup.device != "cpu":
            _compare(graph, Graph(path, "onnxruntime", self._n_threads))
        trunk_cache.mark_used(path)
        if self._network.encoder.mirrored:
            graph.show_twice()
        return graph

    def __reduce__(self) -> tuple[object, ...]:
        choices = self._n_threads, self._device, self._n_calls
        return GraphFeatures, (self._network, self._engine, *choices)


def _compare(graph: Graph, on_cpu: Graph) -> None:
    """Raise a `ParityError` if a graph on a GPU gives other features of noise than on a CPU."""
    noise = _make_noise(graph.size_px)
    _require_close(
        graph(noise), on_cpu(noise), f"{ENGINES[graph.engine].title} on the GPU", "the CPU"
    )


def _compare_with_torch(path: Path, features: Features) -> None:
    """Raise a `ParityError` if a graph gives other features of noise than what it was made of."""
    graph, noise = Graph(path, "onnxruntime"), _make_noise(features.size_px)
    for images in (noise[:1], noise):
        with torch.inference_mode():
            levels = features(torch.from_numpy(images))
        expected = [level.transpose(0, 1).numpy() for level in levels]
        _require_close(graph(images), expected, "The network's graph", "torch")


def _make_noise(size_px: tuple[int | None, int | None]) -> NDArray[np.uint8]:
    height, width = size_px
    assert height is not None
    assert width is not None
    return np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)


def _require_close(
    found: Sequence[NDArray[np.float32]], expected: Sequence[NDArray[np.float32]], who: str, of: str
) -> None:
    for own, other in zip(found, expected, strict=True):
        error = float(np.abs(own - other).max() / np.abs(other).max())
        if not error <= _TOLERANCE:
            raise ParityError(
                f"{who} differs from {of} by {error:.1e} of the largest feature, but may by "
                f"{_TOLERANCE:g}. Use --engine torch."
            )


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
    """The device of a name; ``auto`` is a CUDA device where there is one, the current one.

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
    if name == "cuda":
        return torch.device(name, torch.cuda.current_device())  # each thread has one of its own
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
    check_device(name, device.type)
    return name


def choose_batch(n_batch: int | None, device: torch.device, *, mirrored: bool = False) -> int:
    """Images in one forward pass; what suits the device when None.

    Where features are ``mirrored``, the network sees each twice.

    Raises:
        UsageError: Fewer than one.
    """
    if n_batch is None:
        return BATCHES[device.type] // (1 + mirrored)
    if n_batch < 1:
        raise UsageError(f"The batch size is {n_batch}, but needs to be 1 or more. Try 1.")
    return n_batch
