from pathlib import Path

import pytest
import torch

from padim.backbones import BACKBONES
from padim.features.features import Features
from padim.features.onnx import write_onnx
from padim.features.trunk import build_trunk, optimise
from padim.images.preprocess import Preprocess
from padim.method.pyramid import build_pyramid
from padim.scoring.operators import check_onnx


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet18", "efficientnet_v2_m", "efficientnet_b5_ns", "efficientnetv2_m_in21ft1k"]
)
def test_a_trunk_of_each_family_is_exported_with_known_operators(tmp_path: Path, name: str) -> None:
    spec = BACKBONES[name]
    trunk = build_trunk(spec).to_empty(device="cpu")
    for tensor in trunk.state_dict().values():
        tensor.fill_(1)
    size_px = (2 * max(spec.strides),) * 2
    preprocess = Preprocess(size_px, 1.0, "bilinear", spec.mean, spec.std)
    pyramid = build_pyramid(spec, size_px)
    features = Features(optimise(trunk), pyramid, preprocess, torch.float32).eval()
    path = tmp_path / "trunk.onnx"
    write_onnx(features, path, size_px, [f"level_{i}" for i in range(len(pyramid.levels))], "")
    check_onnx(path.read_bytes())
