"""Imported once by the server that forks: a case then costs a fork, not the import of torch."""

from importlib import import_module

import torch
from PIL import Image

_IMPORTED_LATE = (
    "matplotlib.figure",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "timm",
    "padim.cli",
    "padim.evaluation.run",
    "padim.fitting.calibrate",
    "padim.fitting.update",
    "padim.model.export",
    "padim.model.opening",
    "padim.model.padim",
    "padim.report.page",
)

for name in _IMPORTED_LATE:
    import_module(name)
torch.set_num_threads(1)
Image.init()
