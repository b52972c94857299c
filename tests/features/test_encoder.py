from dataclasses import replace
from importlib.metadata import version

import numpy as np
import oracle
import pytest

from padim.features.encoder import Encoder, Engine

SIZE_PX = (64, 64)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return oracle.small_fitter().encoder


def test_an_engine_is_written_with_its_version_and_read_again() -> None:
    assert str(Engine("torch")) == "torch"
    assert str(Engine("onnxruntime", "1.32.0")) == "onnxruntime 1.32.0"
    for text in ("torch", "onnxruntime 1.32.0", "openvino 2026.0.0 (abc)"):
        assert str(Engine.parse(text)) == text
    assert Engine.parse("onnxruntime 1.32.0").name == "onnxruntime"


def test_the_version_of_torch_is_among_the_packages(encoder: Encoder) -> None:
    assert encoder.here("torch").engine == Engine("torch", "")
    assert encoder.here("openvino").engine == Engine("openvino", version("openvino"))
    assert encoder.here("torch").versions["torch"] == version("torch")


def test_prepared_alike_is_equal(encoder: Encoder) -> None:
    other = oracle.small_fitter(sigma_px=2.0, store="float32", n_batch=3).encoder
    assert encoder == other, "what is done with features does not decide them"
    assert encoder.differences(other) == {}


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"size_px": (64, 96)}, "preprocess"),
        ({"dims": 50}, "pyramid"),
        ({"taps": (1, 2)}, "backbone"),
        ({"tile_px": 32, "tile_overlap_px": 0}, "pyramid"),
        ({"roi": np.arange(64 * 64).reshape(SIZE_PX) < 2048}, "preprocess"),
        ({"engine": "torch"}, "engine"),
        ({"engine": "torch", "precision": "bfloat16"}, "precision"),
    ],
)
def test_what_decides_features_is_told(
    encoder: Encoder, options: dict[str, object], name: str
) -> None:
    other = oracle.small_fitter(**options).encoder
    assert encoder != other
    assert name in encoder.differences(other)


def test_other_weights_and_other_releases_are_told(encoder: Encoder) -> None:
    other = replace(encoder, weights_sha256="5" * 64)
    assert encoder.differences(other) == {"weights": (encoder.weights_sha256, "5" * 64)}
    older = replace(encoder, versions={**encoder.versions, "torch": "2.0"})
    assert encoder.differences(older) == {"torch": (version("torch"), "2.0")}
    without = replace(encoder, versions={})
    assert encoder.differences(without).keys() == encoder.versions.keys()
    assert older.here(encoder.engine.name) == encoder


def test_a_window_is_seen_whole(encoder: Encoder) -> None:
    roi = np.zeros((128, 128), np.bool_)
    roi[:32, :64] = True
    window = oracle.small_fitter(size_px=(128, 128), roi=roi).encoder.of_window()
    assert window.tiling.is_trivial
    assert window.preprocess.roi is None
    assert window.tiling.window_px == window.preprocess.size_px
    assert encoder.of_window() == encoder
