"""A pretrained network and the engine that runs it: from uint8 images to features."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from padim.errors import UnknownNameError, UsageError
from padim.features.cached_trunk import CachedTrunk, GraphFeatures
from padim.features.encoder import Encoder
from padim.features.features import Features, TiledFeatures
from padim.features.trunk import activation_bytes, build_trunk, load_trunk, optimise
from padim.scoring.engines import DEVICES, ENGINES, N_BATCH, choose_threads, require_engine

TRUNK_BATCH = {"cpu": N_BATCH, "cuda": 32}

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Network:
    """A pretrained network, not loaded yet.

    Attributes:
        encoder: What decides its features.
        read: Reads its weights, under the names of the whole network.
        origin: Where they come from, for messages.
    """

    encoder: Encoder
    read: Callable[[], Mapping[str, Tensor]]
    origin: object

    @property
    def cached(self) -> CachedTrunk:
        """Its place in the user's cache."""
        return CachedTrunk.of(self.encoder)

    def features(self, engine: str = "torch", n_threads: int | None = None) -> nn.Module:
        """Let an engine run it.

        Args:
            engine: What ``choose_engine`` gave; a model may be scored by another than fitted it.
            n_threads: Threads of the whole process; one for each core when None.

        Returns:
            From uint8 images to the features of each level, as ``Features``.

        Raises:
            WeightsError: The weights are not its.
        """
        if n_threads is not None:
            torch.set_num_threads(choose_threads(n_threads))
        features: nn.Module
        if engine == "torch":
            features = self._build()
        else:
            features = GraphFeatures(self.cached, self._write, engine, n_threads)
        tiling = self.encoder.tiling
        return features if tiling.is_trivial else TiledFeatures(features, tiling)

    def _build(self) -> Features:
        encoder = self.encoder.of_window()
        trunk = optimise(load_trunk(encoder.spec, self.read(), self.origin))
        precision = DTYPES[encoder.precision]
        return Features(trunk, encoder.pyramid, encoder.preprocess, precision).eval()

    def trunk(self) -> tuple[dict[str, Tensor], int]:
        """Its trunk's tensors, and the bytes of feature maps that one image takes.

        Raises:
            WeightsError: The weights are not its.
        """
        spec = self.encoder.spec
        tensors = load_trunk(spec, self.read(), self.origin).network.state_dict()
        n_bytes = activation_bytes(build_trunk(spec), self.encoder.tiling.window_px)
        return dict(tensors), n_bytes

    def _write(self, cached: CachedTrunk) -> None:
        cached.write(self._build(), *self.trunk())


def choose_device(name: str) -> torch.device:
    """The device of a name; ``auto`` is a CUDA device where there is one.

    Raises:
        UnknownNameError: There is no such device name.
        UsageError: There is no such device here.
    """
    if name not in DEVICES:
        raise UnknownNameError("device", name, DEVICES)
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("The device is cuda, but this machine has none. Use --device cpu.")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def choose_engine(name: str, device: torch.device, precision: str) -> str:
    """Who runs the trunk.

    Args:
        name: ``torch``, ``onnxruntime`` or ``openvino``; ``auto`` is ONNX Runtime for float32 on a
            CPU, where it is faster than torch, and torch for all else.
        device: Where torch computes.
        precision: What the trunk computes in.

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
