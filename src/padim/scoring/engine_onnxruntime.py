"""ONNX Runtime as an engine."""

import numpy as np
from numpy.typing import NDArray

from padim.files import plain_text
from padim.scoring.engines import INPUT, Arrays
from padim.scoring.graph_file import (
    DESCRIPTION,
    GraphFile,
    no_image_graph,
    part_beside,
    unreadable,
    unrunnable,
)


class OnnxRuntime:
    """A graph in ONNX Runtime, on a CPU."""

    any_batch = True

    def __init__(self, file: GraphFile, n_threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        options.log_severity_level = 3
        # Threads that wait for long keep the core from other processes; those that do not wait at
        # all lose a tenth of the speed.
        options.add_session_config_entry("session.intra_op.spin_duration_us", "50")
        if file.beside is not None:
            beside = part_beside(file.path).name, file.beside, len(file.beside)
            options.add_external_initializers_from_files_in_memory(*([one] for one in beside))
        is_text = plain_text(str(file.path)) == str(file.path)  # it takes no other path
        try:
            self._session = onnxruntime.InferenceSession(
                file.path if is_text else bytes(file.content),
                options,
                providers=["CPUExecutionProvider"],
                enable_fallback=0,  # it would say on stdout that it tries the same again
            )
            self.names = tuple(output.name for output in self._session.get_outputs())
            inputs = [(one.name, one.type, one.shape) for one in self._session.get_inputs()]
            said = self._session.get_modelmeta().custom_metadata_map
        except Exception as error:  # the classes of its errors are not public; names are no text
            raise unreadable(file.path) from error
        if [one[:2] for one in inputs] != [(INPUT, "tensor(uint8)")]:
            raise no_image_graph(file.path)
        self._path = file.path
        self.shape = tuple(axis if isinstance(axis, int) else None for axis in inputs[0][-1])
        self.description = said.get(DESCRIPTION)

    def run(self, images: NDArray[np.uint8]) -> Arrays:
        """Run the graph on a batch."""
        try:
            return tuple(self._session.run(None, {INPUT: images}))
        except Exception as error:  # the classes of its errors are not public
            raise unrunnable(self._path, error) from error


def open_graph(file: GraphFile, n_threads: int, _precision: str) -> OnnxRuntime:
    """Load a graph; it computes in float32."""
    return OnnxRuntime(file, n_threads)
