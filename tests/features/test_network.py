import os
import subprocess
import sys
from pathlib import Path

import oracle
import pytest
import torch

from padim.fitting.fitter import Fitter
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitSettings
from padim.scoring.graph import Graph

SIZE_PX = (64, 64)


def trunks(cache: Path) -> list[Path]:
    return sorted((cache / "padim-efficientnet/trunks").glob("*.onnx"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def in_torch() -> Fitter:
    return prepare(FitSettings(size_px=SIZE_PX, engine="torch"))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_another_engine_gives_the_features_that_torch_gives(in_torch: Fitter, engine: str) -> None:
    pixels = torch.from_numpy(oracle.random_images(5, SIZE_PX))
    features = prepare(FitSettings(size_px=SIZE_PX, engine=engine)).features
    with torch.inference_mode():
        for ours, expected in zip(features(pixels), in_torch.features(pixels), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_a_trunk_is_written_once(cache: Path, in_torch: Fitter) -> None:
    pixels = torch.from_numpy(oracle.random_images(1, SIZE_PX))
    features = prepare(FitSettings(size_px=SIZE_PX)).features
    assert not cache.joinpath("padim-efficientnet").exists(), "written before it is needed"
    features(pixels)
    (written,) = trunks(cache)
    before = written.stat().st_mtime_ns
    prepare(FitSettings(size_px=SIZE_PX)).features(pixels)
    assert trunks(cache) == [written]
    assert written.stat().st_mtime_ns == before
    prepare(FitSettings(size_px=SIZE_PX, dims=50)).features(pixels)
    assert len(trunks(cache)) == 2


def test_a_damaged_trunk_is_written_anew(cache: Path) -> None:
    pixels = torch.from_numpy(oracle.random_images(1, SIZE_PX))
    prepare(FitSettings(size_px=SIZE_PX)).features(pixels)
    (written,) = trunks(cache)
    whole = written.read_bytes()
    written.write_bytes(whole[:1000])
    prepare(FitSettings(size_px=SIZE_PX)).features(pixels)
    assert len(written.read_bytes()) == len(whole)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_torch: Fitter, engine: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    features = prepare(FitSettings(size_px=SIZE_PX, engine=engine)).features
    pixels = torch.from_numpy(oracle.random_images(1, SIZE_PX))
    with torch.inference_mode():
        for ours, expected in zip(features(pixels), in_torch.features(pixels), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_two_processes_may_write_a_trunk_at_once(cache: Path) -> None:
    code = (
        "import oracle, torch\n"
        "from padim.fitting.prepare import prepare\n"
        "from padim.fitting.settings import FitSettings\n"
        "features = prepare(FitSettings(size_px=(64, 64))).features\n"
        "features(torch.from_numpy(oracle.random_images(1, (64, 64))))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    processes = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    (written,) = trunks(cache)
    Graph(written)
