from dataclasses import replace
from pathlib import Path

import oracle
import pytest
import torch
from torch import nn

from padim import memory
from padim.errors import MemoryLimitError
from padim.features import trunk_cache
from padim.features.trunk import activation_bytes
from padim.fitting import forecast
from padim.fitting.fit import fit
from padim.fitting.forecast import Forecast
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitSettings
from padim.memory import machine_bytes


def test_a_fit_that_would_not_fit_is_refused() -> None:
    wanted = Forecast(peak_bytes=2_000_000_000, file_bytes=1)
    wanted.check(None)
    wanted.check(2_000_000_000)
    with pytest.raises(
        MemoryLimitError,
        match=r"needs about 2\.00 GB of memory, but may have 2\.00 GB\. Raise --max-memory, or",
    ):
        wanted.check(1_999_999_999)


def test_a_fit_that_the_machine_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "machine_bytes", lambda: 1_000_000_000)
    with pytest.raises(MemoryLimitError, match=r"2647 GB of memory, but this machine has 1\.00"):
        Forecast(2_647_000_000_000, 1).check(None)
    near = Forecast(950_000_000, 1)
    near.check(None)
    assert "of the 1.00 GB that this machine has" in near.warning
    assert Forecast(800_000_000, 1).warning == ""


def test_a_fit_that_the_gpu_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fitter = prepare(FitSettings(size_px=(64, 64), device="cpu", engine="torch"))
    on_cpu = fitter.forecast(n_images=100)
    assert on_cpu.device_bytes == 0
    embedder = replace(fitter.embedder, device=torch.device("cuda"))
    on_gpu = replace(fitter, embedder=embedder).forecast(n_images=100)
    n_moments = 8 * fitter.encoder.pyramid.n_entries
    assert n_moments < on_gpu.device_bytes < on_cpu.peak_bytes
    assert on_gpu.peak_bytes < on_cpu.peak_bytes
    monkeypatch.setattr(forecast, "free_bytes", lambda: on_gpu.device_bytes)
    on_gpu.check(None)
    monkeypatch.setattr(forecast, "free_bytes", lambda: on_gpu.device_bytes - 1)
    with pytest.raises(MemoryLimitError, match=r"of the GPU's memory, but .* are free\. Use --dev"):
        on_gpu.check(None)


def test_a_container_has_less_than_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = machine_bytes()
    (tmp_path / "a").write_text("100000000\n")
    (tmp_path / "b").write_text("max\n")
    paths = (tmp_path / "a", tmp_path / "b", tmp_path / "c")
    monkeypatch.setattr(memory, "_CGROUP_LIMITS", paths)
    assert machine_bytes() == 100_000_000 < whole
    monkeypatch.setattr(memory, "_CGROUP_LIMITS", paths[1:])
    assert machine_bytes() >= whole


@pytest.mark.parametrize("max_memory", ["100MB", 100_000_000])
def test_a_fit_is_refused_before_an_image_is_read(max_memory: int | str) -> None:
    with pytest.raises(MemoryLimitError, match="but may have 100 MB"):
        fit(["no such image.png"], max_memory=max_memory)


def test_the_file_is_forecast_as_it_will_be(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("sizes")
    for store in ("float16", "float32"):
        for include_backbone in (True, False):
            fitter = prepare(
                FitSettings(size_px=(64, 64), store=store, include_backbone=include_backbone)
            )
            path = folder / f"{store}{include_backbone}"
            model = fit(
                list(oracle.random_images(4, (64, 64))),
                size_px=(64, 64),
                store=store,
                include_backbone=include_backbone,
            )
            model.save(path)
            # Names, shapes and hashes are not forecast.
            difference = path.stat().st_size - fitter.forecast().file_bytes
            assert 0 < difference < 60_000


def test_the_forecast_grows_with_what_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "graph.onnx").touch()  # of all of them
    monkeypatch.setattr(trunk_cache, "find_graph", lambda *_: tmp_path / "graph.onnx")
    small = prepare(FitSettings(size_px=(64, 64))).forecast()
    large = prepare(FitSettings(size_px=(256, 256))).forecast()
    double = prepare(FitSettings(size_px=(256, 256), store="float32")).forecast()
    batch = prepare(FitSettings(size_px=(256, 256), n_batch=64)).forecast()
    plain = prepare(FitSettings(size_px=(256, 256), store="float32", calibrate=False))
    moments = replace(plain, settings=replace(plain.settings, keep_moments=True)).forecast()
    assert small.peak_bytes < large.peak_bytes
    assert large.file_bytes < double.file_bytes
    assert large.peak_bytes < batch.peak_bytes
    assert plain.forecast().peak_bytes == moments.peak_bytes  # written piece by piece
    assert plain.forecast().peak_bytes < double.peak_bytes


def test_a_network_that_is_still_to_be_written_takes_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = tmp_path / "graph.onnx"
    monkeypatch.setattr(trunk_cache, "find_graph", lambda *_: graph)
    settings = FitSettings(size_px=(64, 64), engine="openvino")
    first = prepare(settings).network_bytes.engine
    graph.touch()
    assert first > prepare(settings).network_bytes.engine + 100_000_000


def test_activations_are_counted_on_their_way_through() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv2d(3, 8, 1)
            self.two = nn.Conv2d(8, 2, 1)

        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            return [self.two(self.one(images))]

    with torch.device("meta"):
        network = Two()
    pixels = 10 * 20
    widest, tap = 3 + 8, 2  # channels in and out of the first convolution; of the feature map
    assert activation_bytes(network, (10, 20)) == 4 * pixels * (widest + tap)
