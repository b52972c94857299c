"""Exported graphs and the runtimes that run them, without torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from padim.errors import ModelFileError, PathMissingError, UnknownNameError

INPUT = "image"
OUTPUTS = ("anomaly_map", "image_score", "level_scores")
ENGINE_OF_SUFFIX = {".onnx": "onnxruntime", ".xml": "openvino"}

Outputs = tuple[NDArray[np.float32], ...]
Run = Callable[[NDArray[np.uint8]], Outputs]


class Engine:
    """An exported graph, loaded once; scoring changes nothing, so threads may share it.

    Args:
        path: An ``.onnx`` file or an OpenVINO ``.xml`` with its ``.bin`` beside it.
        n_threads: Threads of one call; the runtime's own choice when None.

    Raises:
        PathMissingError: There is no such file.
        UnknownNameError: Its suffix is neither.
        ModelFileError: The runtime cannot read it.
    """

    def __init__(self, path: Path, n_threads: int | None = None) -> None:
        if not path.is_file():
            raise PathMissingError(path)
        if path.suffix not in ENGINE_OF_SUFFIX:
            raise UnknownNameError("exported suffix", path.suffix, tuple(ENGINE_OF_SUFFIX))
        self.name = ENGINE_OF_SUFFIX[path.suffix]
        load = _onnxruntime if self.name == "onnxruntime" else _openvino
        self._run, shape = load(path, n_threads)
        self.n_batch = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None

    def __call__(self, images: NDArray[np.uint8]) -> Outputs:
        """Score a batch of any size.

        Args:
            images: RGB at network size, shape ``(N, H, W, 3)``.

        Returns:
            Anomaly maps ``(N, H, W)``, image scores ``(N,)`` and level scores ``(N, levels)``.
        """
        if self.n_batch is None:
            return self._run(images)
        parts = []
        for start in range(0, len(images), self.n_batch):
            part = images[start : start + self.n_batch]
            rest = np.repeat(part[-1:], self.n_batch - len(part), axis=0)
            scored = self._run(np.concatenate((part, rest)))
            parts.append([output[: len(part)] for output in scored])
        return tuple(np.concatenate(outputs) for outputs in zip(*parts, strict=True))


def _onnxruntime(path: Path, n_threads: int | None) -> tuple[Run, list[Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads or 0
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the classes of its errors are not public
        raise ModelFileError(f"{path} is no graph that ONNX Runtime reads. Export it anew.") from (
            error
        )

    def run(images: NDArray[np.uint8]) -> Outputs:
        return tuple(session.run(OUTPUTS, {INPUT: images}))

    return run, session.get_inputs()[0].shape


def _openvino(path: Path, n_threads: int | None) -> tuple[Run, list[Any]]:
    import openvino

    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    if n_threads is not None:
        settings["INFERENCE_NUM_THREADS"] = n_threads
    try:
        compiled = openvino.Core().compile_model(path, "CPU", settings)
    except RuntimeError as error:
        raise ModelFileError(f"{path} is no graph that OpenVINO reads. Export it anew.") from error

    def run(images: NDArray[np.uint8]) -> Outputs:
        # A request of its own for each call: threads do not wait for each other's.
        results = compiled.create_infer_request().infer({INPUT: images})
        return tuple(results[name] for name in OUTPUTS)

    partial = compiled.input(0).get_partial_shape()
    return run, [axis.get_length() if axis.is_static else None for axis in partial]
