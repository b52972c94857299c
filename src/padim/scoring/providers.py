"""What ONNX Runtime computes with: its providers for a CPU, for CUDA and for TensorRT."""

import io
import os
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from importlib import import_module

import onnxruntime

from padim.errors import DeviceError

Providers = list[tuple[str, dict[str, str]]]  # with their options, the one that is wanted first

_LIBRARIES = {
    "cuda": "pip install 'onnxruntime-gpu[cuda,cudnn]'",
    "tensorrt": "pip install 'onnxruntime-gpu[cuda,cudnn]' 'tensorrt-cu13-libs<11'",
}
# Without a search of the fastest convolution by timing, which would choose another each time.
_CUDA = ("CUDAExecutionProvider", {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"})
PROVIDERS: dict[str, Providers] = {
    "cpu": [("CPUExecutionProvider", {})],
    "cuda": [_CUDA],
    "tensorrt": [("TensorrtExecutionProvider", {}), _CUDA],
}


def find_providers(kind: str) -> Providers:
    """The providers of a kind, and load the libraries that those for a GPU need.

    Raises:
        DeviceError: ONNX Runtime was built without them.
    """
    providers = PROVIDERS[kind]
    if kind == "cpu":
        return providers
    wanted, _ = providers[0]
    if wanted not in onnxruntime.get_available_providers():
        raise DeviceError(
            f"This needs the {wanted} of ONNX Runtime, but the installed build has none. Put "
            f"another in its place: pip uninstall onnxruntime, then {_LIBRARIES[kind]}."
        )
    onnxruntime.set_default_logger_severity(4)  # `check_provider` says it, in one sentence
    with redirect_stdout(io.StringIO()), suppress(RuntimeError):  # likewise
        onnxruntime.preload_dlls()
    if kind == "tensorrt":
        # Its provider has no option for it; github.com/microsoft/onnxruntime/issues/26029.
        os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
        with suppress(ImportError):  # where they are not pip's, the system finds them
            import_module("tensorrt_libs")
    return providers


def check_provider(kind: str, found: Sequence[str]) -> None:
    """Raise a `DeviceError` if a session has fallen back to a CPU without a word."""
    wanted, _ = PROVIDERS[kind][0]
    if wanted not in found:
        raise not_working(kind)


def not_working(kind: str) -> DeviceError:
    """What to say of a provider that ONNX Runtime has, but that does not run."""
    return DeviceError(
        f"The {PROVIDERS[kind][0][0]} of ONNX Runtime does not work here. It needs an NVIDIA GPU "
        f"with its driver, and libraries: {_LIBRARIES[kind]}. Or use --device cpu."
    )
