"""ONNX Runtime as an engine."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from padim.scoring.engines import INPUT, Arrays, unreadable

_METADATA = 14 << 3 | 2  # metadata_props of ModelProto, in onnx.proto


class OnnxRuntime:
    """A graph in ONNX Runtime, on a CPU."""

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
            raise unreadable(path, "ONNX Runtime") from error
        self.names = tuple(output.name for output in self._session.get_outputs())
        shape = self._session.get_inputs()[0].shape
        self.shape = tuple(axis if isinstance(axis, int) else None for axis in shape)
        self.description = self._session.get_modelmeta().custom_metadata_map.get("padim")

    def run(self, images: NDArray[np.uint8]) -> Arrays:
        """Run the graph on a batch."""
        return tuple(self._session.run(None, {INPUT: images}))


def open_graph(path: Path, n_threads: int, _precision: str) -> OnnxRuntime:
    """Load a graph; it computes in float32."""
    return OnnxRuntime(path, n_threads)


def with_description(path: Path, description: str) -> bytes | None:
    """What a graph's file holds with another description, without a library that builds graphs."""
    content = path.read_bytes()
    key = _field(1, b"padim")
    kept, n_replaced, start = [], 0, 0
    while start < len(content):
        tag, value = _varint(content, start)
        n_bytes = 0
        if tag & 7 == 2:
            n_bytes, value = _varint(content, value)
        elif tag & 7 == 0:
            _, value = _varint(content, value)
        else:
            raise unreadable(path, "ONNX Runtime")
        stop = value + n_bytes
        if tag == _METADATA and content[value:stop].startswith(key):
            n_replaced += 1
            kept.append(_field(14, key + _field(2, description.encode())))
        else:
            kept.append(content[start:stop])
        start = stop
    return b"".join(kept) if n_replaced == 1 else None


def _field(number: int, content: bytes) -> bytes:
    """A field of protobuf that holds bytes."""
    return _as_varint(number << 3 | 2) + _as_varint(len(content)) + content


def _as_varint(number: int) -> bytes:
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def _varint(content: bytes, start: int) -> tuple[int, int]:
    """The whole number that is written from a place on, and the place behind it."""
    number = shift = 0
    while True:
        byte = content[start]
        start += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, start
        shift += 7
