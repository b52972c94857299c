"""ONNX Runtime as an engine."""

import threading
from collections.abc import Sequence

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from padim.errors import MemoryLimitError
from padim.files import plain_text
from padim.memory import format_bytes
from padim.scoring.engines import INPUT, N_BATCH, RATES, Arrays, Setup, n_cores
from padim.scoring.graph_file import (
    DESCRIPTION,
    GraphFile,
    no_image_graph,
    part_beside,
    unreadable,
    unrunnable,
)
from padim.scoring.operators import BYTES_PER_PX, read_image_shape
from padim.scoring.providers import check_provider, find_providers, not_working

onnxruntime.disable_telemetry_events()  # of the builds for Windows

_LEAST_BYTES = 1 << 30  # that any graph may take
_BYTES_PER_BYTE = 4  # of its file: constants, and what they are packed into
_bounding = threading.Lock()  # a session takes the bound that was registered last


class OnnxRuntime:
    """A graph in ONNX Runtime; ``kind`` is that of its providers."""

    def __init__(self, file: GraphFile, setup: Setup, kind: str) -> None:
        providers = find_providers(kind)
        self.any_batch = kind != "tensorrt"  # which builds an engine for each
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = setup.n_threads
        options.use_deterministic_compute = kind != "cpu"
        options.log_severity_level = 4  # its errors are raised as well
        # Threads that wait for long keep the core from other processes; those that do not wait at
        # all lose a tenth of the speed.
        options.add_session_config_entry("session.intra_op.spin_duration_us", "50")
        if file.beside is not None:
            beside = part_beside(file.path).name, file.beside, len(file.beside)
            options.add_external_initializers_from_files_in_memory(*([one] for one in beside))
        is_text = plain_text(str(file.path)) == str(file.path)  # it takes no other path
        options.add_session_config_entry("session.use_env_allocators", "1")
        self._most_bytes = _bound_bytes(file, max(n_cores(), setup.n_calls))
        try:
            with _bounding:
                onnxruntime.create_and_register_allocator(
                    onnxruntime.OrtMemoryInfo(
                        "Cpu",
                        onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR,
                        0,
                        onnxruntime.OrtMemType.DEFAULT,
                    ),
                    onnxruntime.OrtArenaCfg(self._most_bytes, -1, -1, -1),
                )
                self._session = onnxruntime.InferenceSession(
                    file.path if is_text else bytes(file.content),
                    options,
                    providers=providers,
                    enable_fallback=0,  # it would say on stdout that it tries the same again
                )
            self.names = tuple(output.name for output in self._session.get_outputs())
            inputs = [(one.name, one.type, one.shape) for one in self._session.get_inputs()]
            said = self._session.get_modelmeta().custom_metadata_map
        except Exception as error:  # the classes of its errors are not public; names are no text
            raise (
                unreadable(file.path, "onnxruntime") if kind == "cpu" else not_working(kind)
            ) from error
        check_provider(kind, self._session.get_providers())
        kinds = [one[:2] for one in inputs]
        rates = [(name, "tensor(float)") for name in RATES]
        if kinds[:1] != [(INPUT, "tensor(uint8)")] or kinds[1:] not in ([], rates):
            raise no_image_graph(file.path)
        self._path = file.path
        self._rates = RATES if kinds[1:] else ()
        self.shape = tuple(axis if isinstance(axis, int) else None for axis in inputs[0][-1])
        self.description = said.get(DESCRIPTION)

    def run(self, images: NDArray[np.uint8], rates: Sequence[float]) -> Arrays:
        """Run the graph on a batch; one with a verdict, at these ``RATES``."""
        given = dict(zip(self._rates, np.array(rates, np.float32)[:, None], strict=False))
        try:
            outputs = self._session.run(None, {INPUT: images, **given})
        except Exception as error:  # the classes of its errors are not public
            if "Available memory of" in str(error):
                raise MemoryLimitError(
                    f"{self._path} needs more than {format_bytes(self._most_bytes)} to run, which "
                    "is above its bound. Run fewer images at a time, or export it anew."
                ) from error
            raise unrunnable(self._path, error) from error
        return tuple(map(np.array, outputs))  # theirs are of the bounded memory


def _bound_bytes(file: GraphFile, n_calls: int) -> int:
    """How much memory a graph may take, run from so many threads at a time."""
    try:
        shape = read_image_shape(file.content)
    except ValueError as error:
        raise unreadable(file.path, "onnxruntime") from error
    if len(shape) != 4:
        raise no_image_graph(file.path)
    n_images, height, width, _ = shape
    n_pixels = (n_images or N_BATCH) * height * width
    n_file = len(file.content) + (0 if file.beside is None else len(file.beside))
    needed = _BYTES_PER_BYTE * n_file + BYTES_PER_PX * n_pixels * n_calls
    return max(_LEAST_BYTES, needed)


def open_graph(file: GraphFile, setup: Setup) -> OnnxRuntime:
    """Load a graph; it computes in float32."""
    return OnnxRuntime(file, setup, setup.device)
