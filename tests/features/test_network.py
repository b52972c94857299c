import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import oracle
import pytest
import timm
import torch
from safetensors.torch import save_file

import padim
from padim.backbones import BACKBONES, BackboneSpec
from padim.cli import main
from padim.errors import WeightsError
from padim.features import trunk_cache
from padim.features.network import GraphFeatures
from padim.features.trunk import build_trunk, load_trunk
from padim.features.weights import read_weights
from padim.fitting.fitter import Fitter
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitSettings
from padim.model.file import load_state, save_state
from padim.scoring.graph import Graph
from padim.scoring.graph_file import write_seal

SIZE_PX = (64, 64)


def trunks(cache: Path, suffix: str = ".onnx") -> list[Path]:
    return sorted((cache / "padim-efficientnet/trunks").glob(f"*{suffix}"))


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


def fit_bytes(path: Path) -> bytes:
    padim.fit(list(oracle.random_images(3, SIZE_PX)), size_px=SIZE_PX, recipe="fast").save(path)
    return path.read_bytes()


def write_with_other_trunk(path: Path, target: Path) -> None:
    """A model file that is whole and says what it said, with other tensors in it."""
    state = load_state(path)
    trunk = {name: tensor * 1.25 for name, tensor in state.trunk.items()}
    save_state(replace(state, trunk=trunk), target)


def test_a_model_file_does_not_decide_what_others_are_fitted_with(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fit_bytes(tmp_path / "a.safetensors")
    write_with_other_trunk(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    image = oracle.random_images(1, SIZE_PX, seed=4)[0]
    of_torch = padim.load(tmp_path / "b.safetensors", engine="torch").predict(image)
    before = padim.load(tmp_path / "a.safetensors").predict(image)
    for name in ("filled", "empty"):
        found = padim.load(tmp_path / "b.safetensors").predict(image)
        np.testing.assert_allclose(found.anomaly_map, of_torch.anomaly_map, rtol=1e-3)
        assert found.score != pytest.approx(before.score, rel=1e-2)
        assert fit_bytes(tmp_path / f"{name}.safetensors") == expected
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))


def test_info_says_whether_the_network_inside_is_the_one_that_is_named(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit_bytes(tmp_path / "a.safetensors")
    write_with_other_trunk(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    for name, said in (("a", "the network inside is theirs"), ("b", "BUT THE NETWORK INSIDE IS")):
        assert main(["info", str(tmp_path / f"{name}.safetensors")]) == 0
        assert f"as published; {said}" in capsys.readouterr().out


def test_models_of_other_trunks_are_not_joined(cache: Path, tmp_path: Path) -> None:
    for i, name in enumerate(("a", "b")):
        images = list(oracle.random_images(3, SIZE_PX, seed=i))
        model = padim.fit(images, size_px=SIZE_PX, keep_moments=True)
        trunk = {key: tensor * (1 + i) for key, tensor in model.state.trunk.items()}
        model.state = replace(model.state, trunk=trunk)
        model.save(tmp_path / f"{name}.safetensors", moments=True)
    with pytest.raises(padim.UsageError, match=r"the networks inside differ.*Fit both alike"):
        padim.merge(*(tmp_path / f"{name}.safetensors" for name in "abc"))


@pytest.mark.parametrize("suffix", [".onnx", ".safetensors"])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_what_is_damaged_in_the_cache_is_written_anew(
    cache: Path, suffix: str, damage: str
) -> None:
    pixels = torch.from_numpy(oracle.random_images(1, SIZE_PX))
    expected = prepare(FitSettings(size_px=SIZE_PX)).features(pixels)
    (written,) = trunks(cache, suffix)
    whole = written.read_bytes()
    content = bytearray(whole)
    content[len(whole) // 2] ^= 1
    written.write_bytes(whole[:1000] if damage == "cut" else content)
    for ours, before in zip(
        prepare(FitSettings(size_px=SIZE_PX)).features(pixels), expected, strict=True
    ):
        assert torch.equal(ours, before)
    assert written.read_bytes() == whole


def test_a_sealed_graph_of_something_else_is_not_taken(cache: Path, in_torch: Fitter) -> None:
    pixels = torch.from_numpy(oracle.random_images(1, SIZE_PX))
    prepare(FitSettings(size_px=SIZE_PX)).features(pixels)
    (first,) = trunks(cache)
    before = first.read_bytes()
    prepare(FitSettings(size_px=SIZE_PX, dims=50)).features(pixels)
    (other,) = set(trunks(cache)) - {first}
    first.write_bytes(other.read_bytes())
    write_seal(first)
    found = prepare(FitSettings(size_px=SIZE_PX)).features(pixels)
    assert first.read_bytes() == before
    assert [level.shape for level in found] == [level.shape for level in in_torch.features(pixels)]


def test_the_cache_has_a_bound(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cache / "padim-efficientnet/trunks"
    folder.mkdir(parents=True)
    for i, name in enumerate(("3-old.onnx", "3-old.onnx.data", "3-new.onnx", "3-newest.onnx")):
        (folder / name).write_bytes(bytes(10))
        os.utime(folder / name, (1000 + i, 1000 + i))
    (folder / "efficientnet_lite0-1234.onnx").touch()
    (folder / ".being-written").touch()
    monkeypatch.setattr(trunk_cache, "_MOST_BYTES", 20)
    trunk_cache.sweep()
    assert {path.name for path in folder.iterdir()} == {
        "3-new.onnx",
        "3-newest.onnx",
        ".being-written",
    }
    monkeypatch.setattr(trunk_cache, "_MOST_BYTES", 5)
    trunk_cache.sweep(folder / "3-new.onnx", None)
    assert {path.name for path in folder.iterdir()} == {"3-new.onnx", ".being-written"}


def test_weights_that_change_while_they_are_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "own.pth").write_bytes(b"now")
    with pytest.raises(WeightsError, match=r"own\.pth has changed while it was read"):
        read_weights(tmp_path / "own.pth", "5" * 64)


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


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "timm:test_convnext"])
def test_the_default_type_of_torch_changes_nothing(tmp_path: Path, backbone: str) -> None:
    images, weights = list(oracle.random_images(4, SIZE_PX)), None
    if backbone.startswith("timm:"):
        weights = tmp_path / "net.safetensors"
        network = timm.create_model(backbone.removeprefix("timm:"))
        save_file({n: t.contiguous() for n, t in network.state_dict().items()}, weights)
    said = []
    for n, dtype in enumerate((torch.float32, torch.float64)):
        path, before = tmp_path / f"{n}.safetensors", torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            settings = {"backbone": backbone, "weights": weights, "size_px": SIZE_PX}
            padim.fit(images[:3], engine="torch", **settings).save(path)
            prediction = padim.load(path, engine="torch").predict(images[3])
        finally:
            torch.set_default_dtype(before)
        said.append((path.read_bytes(), prediction.score, prediction.anomaly_map.tobytes()))
    assert said[0] == said[1]


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


@pytest.mark.parametrize("architecture", ["hf-hub:a/b", "local-dir:/a", "TF_EFFICIENTNET_LITE0"])
@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_network_is_one_that_its_library_has_here(
    library: Literal["timm", "torchvision"], architecture: str
) -> None:
    spec = replace(BACKBONES["efficientnet_lite0"], library=library, architecture=architecture)
    with pytest.raises(WeightsError, match=f"{library} has no network {architecture}, but"):
        build_trunk(spec)


@pytest.mark.parametrize(
    "spec",
    [
        replace(BACKBONES["efficientnet_lite0"], stem=("conv_stem", "conv_stem")),
        replace(BACKBONES["efficientnet_lite0"], stem=("bn1",)),
        replace(BACKBONES["efficientnet_lite0"], channels=(24, 40, 113)),
    ],
)
def test_a_network_that_is_described_otherwise_than_it_is_is_refused(spec: BackboneSpec) -> None:
    with pytest.raises(WeightsError, match="m describes tf_efficientnet_lite0 otherwise than it"):
        load_trunk(spec, {}, "m")


def test_a_part_that_the_network_lacks_is_named() -> None:
    spec = replace(BACKBONES["efficientnet_lite0"], block="locks.{}")
    with pytest.raises(WeightsError, match=r"tf_efficientnet_lite0 has no part locks\.0"):
        build_trunk(spec)


def test_models_of_one_network_share_it(tmp_path: Path) -> None:
    model = padim.fit(list(oracle.random_images(4, (64, 64))), size_px=(64, 64))
    model.save(tmp_path / "m.safetensors")
    opened = [padim.load(tmp_path / "m.safetensors", n_threads=1) for _ in range(2)]
    other = padim.load(tmp_path / "m.safetensors", n_threads=2)
    graphs = [
        module.open()
        for one in (*opened, other)
        for module in one.score.scorer.modules()
        if isinstance(module, GraphFeatures)
    ]
    assert graphs[0] is graphs[1]
    assert graphs[2] is not graphs[0]
