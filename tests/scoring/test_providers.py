"""ONNX Runtime's providers for a GPU. A CPU's stands in for one, so that no GPU is needed."""

import pickle
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from trees import make_category

import padim
from padim.cli import main
from padim.errors import DeviceError, ParityError, UsageError
from padim.features import network
from padim.model.export import export
from padim.model.file import load_state
from padim.model.padim import network_of
from padim.scoring import engines, parity, providers
from padim.scoring.engines import ENGINES
from padim.scoring.graph import Graph

SIZE_PX = (64, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("providers")
    model = padim.fit(make_category(folder / "stripes"), size_px=SIZE_PX, engine="torch")
    model.save(folder / "m.safetensors")
    export(folder / "m.safetensors", folder / "m.onnx")
    return folder


@pytest.fixture
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("cuda", "tensorrt"):
        monkeypatch.setitem(providers.PROVIDERS, kind, providers.PROVIDERS["cpu"])
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")


@pytest.mark.parametrize("engine", ["onnxruntime", "tensorrt"])
def test_a_build_without_a_gpu_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], engine: str
) -> None:
    monkeypatch.setattr(
        providers.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"]
    )
    model, images = str(folder / "m.onnx"), str(folder / "stripes/test/spot")
    command = ["predict", model, images, "--engine", engine, "--device", "cuda"]
    assert main([*command, "-o", str(folder / "out")]) == 1
    said = capsys.readouterr().err
    assert "Put another in its place: pip uninstall onnxruntime" in said
    assert "Traceback" not in said


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_session_that_falls_back_to_the_cpu_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(providers.PROVIDERS, "cuda", [("NoExecutionProvider", {})])
    known = ["NoExecutionProvider"]
    monkeypatch.setattr(providers.onnxruntime, "get_available_providers", lambda: known)
    with pytest.raises(DeviceError, match=r"NoExecutionProvider .* does not work here"):
        padim.load(folder / "m.onnx", device="cuda")


@pytest.mark.usefixtures("_stand_in")
@pytest.mark.parametrize("engine", ["onnxruntime", "tensorrt"])
def test_a_graph_on_a_gpu_scores_as_on_a_cpu(folder: Path, engine: str) -> None:
    pixels = oracle.random_images(5, SIZE_PX)
    expected = padim.load(folder / "m.onnx").score(pixels)
    predictor = padim.load(folder / "m.onnx", engine=engine, device="cuda")
    assert predictor.engine == engine
    for ours, theirs in zip(predictor.score(pixels), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    graph = Graph(folder / "m.onnx", engine, device="cuda")
    assert graph.n_step == 32
    assert pickle.loads(pickle.dumps(graph)).setup == graph.setup


@pytest.mark.usefixtures("_stand_in")
def test_a_graph_on_a_gpu_has_to_agree_with_its_samples(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    category = folder / "stripes"
    model = padim.fit(category, size_px=SIZE_PX, engine="torch", keep_samples=False)
    model.save(tmp_path / "m.safetensors")
    export(tmp_path / "m.safetensors", tmp_path / "m.onnx", [category / "test/good/0.png"])
    with pytest.raises(UsageError, match="brings no samples"):
        padim.load(tmp_path / "m.onnx", device="cuda")
    monkeypatch.setitem(parity.TOLERANCE, "float32", 0.0)
    padim.load(folder / "m.onnx", device="cpu")
    with pytest.raises(ParityError, match="differs from torch"):
        padim.load(folder / "m.onnx", device="cuda")


@pytest.mark.usefixtures("_stand_in")
@pytest.mark.parametrize("engine", ["onnxruntime", "tensorrt"])
def test_a_trunk_on_a_gpu_has_to_agree_with_the_cpu(
    folder: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    of_model = network_of(load_state(folder / "m.safetensors"))
    images = torch.from_numpy(oracle.random_images(3, SIZE_PX))
    expected = of_model.features("torch")(images)
    for ours, theirs in zip(of_model.features(engine, 1, "cuda")(images), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    monkeypatch.setattr(network, "_TOLERANCE", -1.0)
    with pytest.raises(ParityError, match="of the largest feature"):
        of_model.features(engine, 1, "cuda")(images)


@pytest.mark.parametrize("installed", ["onnxruntime", "onnxruntime-gpu"])
def test_either_build_of_onnxruntime_has_a_version(
    monkeypatch: pytest.MonkeyPatch, installed: str
) -> None:
    def find(name: str) -> str:
        if name != installed:
            raise PackageNotFoundError(name)
        return "1.2.3"

    monkeypatch.setattr(engines, "version", find)
    assert ENGINES["onnxruntime"].version() == "1.2.3"
