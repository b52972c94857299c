from pathlib import Path

import numpy as np
import onnxruntime
import oracle
import pytest
import torch

from padim.backbones import BACKBONES
from padim.features.features import Features
from padim.features.onnx import write_onnx
from padim.features.trunk import optimise
from padim.images.preprocess import Preprocess
from padim.method.pyramid import build_pyramid
from padim.scoring.engines import INPUT
from padim.scoring.operators import check_onnx


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet18", "efficientnet_v2_m", "efficientnet_b5_ns", "efficientnetv2_m_in21ft1k"]
)
def test_a_trunk_of_each_family_computes_as_a_graph_what_it_does_in_torch(
    tmp_path: Path, name: str
) -> None:
    spec = BACKBONES[name]
    trunk = oracle.random_trunk(name)
    size_px = (2 * max(spec.strides),) * 2
    preprocess = Preprocess(size_px, 1.0, "bilinear", spec.mean, spec.std)
    pyramid = build_pyramid(spec, size_px)
    features = Features(optimise(trunk), pyramid, preprocess, torch.float32).eval()
    path = tmp_path / "trunk.onnx"
    write_onnx(features, path, size_px, [f"level_{i}" for i in range(len(pyramid.levels))], "")
    check_onnx(path.read_bytes())
    torch.manual_seed(0)
    images = torch.randint(256, (5, *size_px, 3), dtype=torch.uint8)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for found, expected in zip(
        session.run(None, {INPUT: images.numpy()}), features(images), strict=True
    ):
        assert np.abs(found - expected.numpy()).max() < 1e-4 * float(expected.abs().max())
