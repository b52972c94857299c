"""Imported once by the server that forks: a case then costs a fork, not the import of torch."""

import matplotlib.figure  # noqa: F401  # drawn with by benchmark and report
import onnx  # noqa: F401
import onnxruntime  # noqa: F401
import onnxscript  # noqa: F401
import openvino  # noqa: F401
import timm  # noqa: F401
import torch
from PIL import Image

import padim.cli
import padim.evaluation.run
import padim.fitting.calibrate
import padim.fitting.update
import padim.model.export
import padim.model.opening
import padim.model.padim
import padim.report.page  # noqa: F401

torch.set_num_threads(1)
Image.init()
