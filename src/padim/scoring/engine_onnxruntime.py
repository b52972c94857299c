"""ONNX Runtime as an engine."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from padim.scoring.engines import INPUT, Arrays, _unreadable


class OnnxRuntime:
    """A graph in ONNX Runtime, on a CPU.

    Args:
        path: An ``.onnx`` file.
        n_threads: Threads of one call.
    """

    any_batch = True

    def __init__(self, path: Path, n_threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        options.log_severity_level = 3
        # Threads that wait for long keep the core from other processes; those that do not wait at
        # all lose a tenth of the speed.
        options.add_session_config_entry("session.intra_op.spin_duration_us", "50")
        try:
            self._session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the classes of its errors are not public
            raise _unreadable(path, "ONNX Runtime") from error
        self.names = tuple(output.name for output in self._session.get_outputs())
        shape = self._session.get_inputs()[0].shape
        self.shape = tuple(axis if isinstance(axis, int) else None for axis in shape)
        self.description = self._session.get_modelmeta().custom_metadata_map.get("padim")

    def run(self, images: NDArray[np.uint8]) -> Arrays:
        """Run the graph on a batch."""
        return tuple(self._session.run(None, {INPUT: images}))
