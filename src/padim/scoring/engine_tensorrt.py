"""TensorRT as an engine, through ONNX Runtime."""

from padim.scoring.engine_onnxruntime import OnnxRuntime
from padim.scoring.graph_file import GraphFile


def open_graph(file: GraphFile, n_threads: int, _precision: str, _device: str) -> OnnxRuntime:
    """Load a graph; it computes in float32, on a GPU."""
    return OnnxRuntime(file, n_threads, "tensorrt")
