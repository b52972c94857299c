"""A graph's verdict, as a program without padim reads it, is what padim decides."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import oracle
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import padim
from padim.cli import main
from padim.errors import UsageError
from padim.features.onnx import write_onnx
from padim.model.file import load_state, save_state
from padim.model.opening import verify
from padim.model.verdict import Judged, JudgingScorer
from padim.scoring.calibration import Calibration, Threshold
from padim.scoring.collector import Collector
from padim.scoring.engines import RATES
from padim.scoring.prediction import decide

SIZE_PX = (64, 96)
CAMERA_PX = (150, 130)
FORMATS = {"onnx": "a.onnx", "openvino": "a.xml"}
OWN = -1.0

Run = Callable[[NDArray[np.uint8], float, float], dict[str, NDArray]]


def open_plainly(path: Path) -> Run:
    """A graph in its runtime alone."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path)
        names = [output.name for output in session.get_outputs()]
        return lambda *given: dict(zip(names, session.run(None, feed(*given)), strict=True))
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda *given: {
        min(output.names & set(Judged._fields)): value
        for output, value in compiled(feed(*given)).items()
    }


def feed(image: NDArray[np.uint8], *rates: float) -> dict[str, NDArray]:
    return {"image": image} | {
        name: np.array([rate], np.float32) for name, rate in zip(RATES, rates, strict=True)
    }


def check(found: dict[str, NDArray], calibration: Calibration, *rates: float) -> None:
    """Hold what a graph says against what padim decides by the same scores."""
    own = [None if rate == OWN else rate for rate in rates]
    decision = decide(calibration, *own)
    scores, n = found["image_score"].astype(float), len(found["image_score"])
    expected = scores > decision.threshold.score
    # In a tail, a threshold is the same to the last digits of float32.
    is_clear = ~np.isclose(scores, decision.threshold.score, rtol=3e-7, atol=0)
    if decision.threshold.kind != "tail":
        is_clear[:] = True
    np.testing.assert_array_equal(found["label"][is_clear], expected[is_clear])
    p_values = [calibration.p_value(score) for score in scores]
    np.testing.assert_allclose(found["p_value"], p_values, rtol=5e-7)
    above = found["anomaly_map"] > decision.pixel_threshold
    np.testing.assert_array_equal(found["predicted_mask"], above)
    shapes = [found[name].shape for name in ("label", "p_value", "predicted_mask")]
    assert shapes == [(n,), (n,), found["anomaly_map"].shape]
    assert found["label"].dtype == found["predicted_mask"].dtype == np.uint8


# A scorer of three operators: what its images say is their scores and maps.


class Spoken(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        numbers = images.float() @ torch.tensor([2.0**8, 1.0, 2.0**-8])  # (N, H, W)
        # No score is below 1; what is black is no number.
        scores = (numbers[:, 0, 0].sqrt() ** 2 - 1).sqrt() ** 2 + 1
        return numbers, scores, scores[:, None]


def spell(numbers: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Images whose pixels are numbers of 24 bits below 2^16."""
    whole = np.round(numbers * 2**8).astype(np.int64)
    return np.stack([whole >> 16, whole >> 8, whole], axis=-1).astype(np.uint8)


@pytest.fixture(scope="module", params=[(5, None), (60, None), (99, 31.7)])
def calibration(request: pytest.FixtureRequest) -> Calibration:
    n, chosen = request.param
    rng = np.random.default_rng(n)
    maps = 20 + np.round(rng.exponential(3, size=(n, 4, 4)) * 2**8) / 2**8
    collector = Collector()
    collector.add(maps.astype(np.float32), maps[:, 0, 0])
    found = collector.calibration("held-out")
    return found if chosen is None else replace(found, chosen=Threshold(0.1, chosen, "cost"))


@pytest.fixture(scope="module", params=FORMATS)
def spoken(
    request: pytest.FixtureRequest,
    calibration: Calibration,
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    folder = tmp_path_factory.mktemp("spoken")
    graph = JudgingScorer(Spoken(), calibration)
    write_onnx(graph, folder / "a.onnx", (4, 4), Judged._fields, "", numbers=RATES)
    if request.param == "openvino":
        from padim.scoring.engine_openvino import convert

        convert(folder / "a.onnx", folder / "a.xml", "")
    return open_plainly(folder / FORMATS[request.param])


def draw_images(calibration: Calibration) -> NDArray[np.uint8]:
    """Images of every score: those of good ones, their neighbours, and what is beyond."""
    rng = np.random.default_rng(0)
    seen, step = calibration.image_score, 2.0**-8
    beyond = seen.max() + rng.exponential(5, size=60)
    scores = np.concatenate((seen, seen - step, seen + step, beyond, [5, 2000]))
    maps = rng.choice(calibration.pixel_score, size=(len(scores), 4, 4))
    maps[:, 0, 0] = scores
    return spell(maps)


def test_a_verdict_is_that_of_padim_at_any_rate(spoken: Run, calibration: Calibration) -> None:
    images, n, rng = draw_images(calibration), calibration.count, np.random.default_rng(1)
    ranks = np.arange(1, n + 1, max(1, n // 8)) / (n + 1)
    rates = [OWN, 0.1, 0.01, 0.001, 1e-7, *ranks, *ranks.astype(np.float32).astype(float)]
    rates += [0.1 / n, *rng.random(5), *10 ** rng.uniform(-5, -1, 20)]
    for rate in rates:
        check(spoken(images, rate, rate), calibration, rate, rate)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.5, -2.0, 7.0, np.inf, -np.inf, np.nan])
def test_nothing_is_normal_at_an_impossible_rate(
    spoken: Run, calibration: Calibration, rate: float
) -> None:
    images = draw_images(calibration)
    found = spoken(images, rate, 0.01)
    assert found["label"].all()
    assert not found["predicted_mask"].all()
    found = spoken(images, 0.01, rate)
    assert found["predicted_mask"].all()
    assert not found["label"].all()


def test_a_score_that_is_no_number_is_not_normal(spoken: Run) -> None:
    found = spoken(np.zeros((1, 4, 4, 3), np.uint8), 0.5, 0.5)
    assert np.isnan(found["image_score"]).all()
    assert found["label"].tolist() == [1]


# Whole models


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    good = list(oracle.random_images(12, SIZE_PX))
    padim.fit(good, size_px=SIZE_PX, recipe="fast", device="cpu").save(path)
    return path


@pytest.fixture(scope="module", params=FORMATS)
def exported(
    request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path: Path = tmp_path_factory.mktemp("exported") / FORMATS[request.param]
    padim.export(model, path, verdict=True)
    return path


def test_a_model_and_its_graph_decide_alike(exported: Path, model: Path) -> None:
    images = oracle.random_images(6, SIZE_PX, seed=3)
    images[3:, 20:40, 20:40] = 255
    run, opened, expected = open_plainly(exported), padim.load(exported), padim.load(model)
    assert verify(exported).n_images == 4
    for rate in (OWN, 0.5, 0.2, 0.01):
        found = run(images, rate, rate)
        chosen = None if rate == OWN else rate
        check(found, opened.decision.calibration, rate, rate)
        for predictor in (opened, expected):
            for i, one in enumerate(predictor.at(chosen, chosen).predict(list(images))):
                assert ("normal", "anomalous")[found["label"][i]] == one.label
                assert found["p_value"][i] == pytest.approx(one.p_value)
                mask = found["predicted_mask"][i]
                assert (mask == one.defects(min_region_px=0)[1]).mean() > 0.999
    assert set(found["label"]) == {0, 1}


def test_only_a_graph_with_a_verdict_is_of_a_newer_version(
    exported: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert padim.load(exported).description.facts["graph_version"] == 3
    assert main(["info", str(exported)]) == 0
    assert "inside: it takes false-alarm rates" in capsys.readouterr().out
    plain = tmp_path / "plain.onnx"
    padim.export(model, plain)
    facts = padim.load(plain).description.facts
    assert facts["graph_version"] == min(load_state(model).format_version + 1, 3)
    assert "verdict" not in facts
    assert main(["info", str(plain), "--json"]) == 0
    assert "verdict" not in json.loads(capsys.readouterr().out)


def test_the_thresholds_of_a_verdict_are_not_changed(
    exported: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shutil.copytree(exported.parent, tmp_path / "copy") / exported.name
    before = path.read_bytes()
    good = tmp_path / "good"
    good.mkdir()
    Image.fromarray(oracle.random_images(1, SIZE_PX, seed=9)[0]).save(good / "0.png")
    with pytest.raises(UsageError, match="judges by the thresholds that it was exported with"):
        padim.calibrate(path, good)
    assert main(["calibrate", str(path), str(good)]) == 2
    assert "Calibrate the model file, and export it again." in capsys.readouterr().err
    assert path.read_bytes() == before
    # A model that is loaded can take others, for itself.
    assert padim.calibrate(padim.load(path), good).decision.calibration.count == 1


def test_a_mask_has_the_size_of_the_map_and_keeps_to_the_region(tmp_path: Path) -> None:
    region = Image.new("L", CAMERA_PX[::-1])
    ImageDraw.Draw(region).rectangle((20, 20, 90, 110), fill=255)
    region.save(tmp_path / "roi.png")
    good = list(oracle.random_images(12, CAMERA_PX))
    model = tmp_path / "m.safetensors"
    roi = tmp_path / "roi.png"
    padim.fit(good, size_px=SIZE_PX, device="cpu", roi=roi).save(model)
    path = tmp_path / "a.onnx"
    padim.export(model, path, verdict=True, camera_px=CAMERA_PX, n_batch=2)
    image = oracle.random_images(2, CAMERA_PX, seed=3)
    found = open_plainly(path)(image, 0.2, 0.9)
    predictions = padim.load(path).at(0.2, 0.9).predict(list(image))
    for mask, one in zip(found["predicted_mask"], predictions, strict=True):
        assert mask.shape == SIZE_PX
        np.testing.assert_array_equal(mask, one.defects(min_region_px=0)[1])
        assert mask.any()
        assert not mask[np.isnan(one.anomaly_map)].any()
    assert open_plainly(path)(image, np.nan, np.nan)["predicted_mask"].all()


@pytest.mark.parametrize(
    ("stale", "message"),
    [(None, "The model has no threshold"), (True, r"is stale: the model has changed .* --verdict")],
)
def test_a_model_without_a_threshold_to_trust_gives_no_verdict(
    model: Path, tmp_path: Path, stale: bool | None, message: str
) -> None:
    state = load_state(model)
    assert state.calibration is not None
    calibration = replace(state.calibration, stale=True) if stale else None
    save_state(replace(state, calibration=calibration), tmp_path / "m.safetensors")
    with pytest.raises(UsageError, match=message):
        padim.export(tmp_path / "m.safetensors", tmp_path / "a.onnx", verdict=True)
    assert not (tmp_path / "a.onnx").exists()
