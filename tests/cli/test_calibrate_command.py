import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from trees import make_category, striped

import padim
from padim.cli import main
from padim.scoring.cost import least_cost

SUFFIXES = (".safetensors", ".onnx", ".xml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A category, its model and both graphs, and more good images."""
    root = tmp_path_factory.mktemp("calibrate")
    category = make_category(root / "stripes")
    padim.fit(category, size_px=(64, 64), recipe="fast", device="cpu").save(root / "m.safetensors")
    for to, suffix in (("onnx", ".onnx"), ("openvino", ".xml")):
        words = ["export", root / "m.safetensors", "-o", root / f"m{suffix}", "--to", to, "-q"]
        assert main(list(map(str, words))) == 0
    (root / "more").mkdir()
    for i in range(30):
        striped(1000 + i).save(root / f"more/{i}.png")
    return root


@pytest.fixture(params=SUFFIXES)
def model(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    for suffix in (request.param, ".bin") if request.param == ".xml" else (request.param,):
        shutil.copy(folder / f"m{suffix}", tmp_path)
    return tmp_path / f"m{request.param}"


def test_a_graph_decides_as_its_model_does(folder: Path) -> None:
    expected = padim.load(folder / "m.safetensors").decision
    assert expected is not None
    for suffix in SUFFIXES[1:]:
        assert padim.load(folder / f"m{suffix}").decision.threshold == expected.threshold
        found = padim.load(folder / f"m{suffix}").predict(folder / "stripes/test/spot/0.png")
        assert (found.label, found.p_value) == ("anomalous", pytest.approx(1 / 7))


def test_other_good_images_set_the_threshold(
    model: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = padim.load(model).predict(folder / "more/0.png")
    assert main(["calibrate", str(model), str(folder / "more"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["n_good"], document["n_anomalous"]) == (30, 0)
    assert document["threshold"]["kind"] == "conformal"
    loaded = padim.load(model)
    scores = np.sort([p.score for p in loaded.predict(sorted((folder / "more").iterdir()))])
    assert loaded.decision is not None
    calibration = loaded.decision.calibration
    assert calibration.source == "held-out"
    np.testing.assert_allclose(calibration.image_score, scores, rtol=1e-5)
    assert loaded.at(0.1).decision.threshold.score == pytest.approx(scores[-3], rel=1e-5)
    np.testing.assert_array_equal(
        loaded.predict(folder / "more/0.png").anomaly_map, before.anomaly_map
    )
    assert main(["info", str(model)]) == 0
    assert "by held-out scores of 30 good images" in capsys.readouterr().out


def test_known_defects_set_the_threshold_of_least_cost(
    model: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["calibrate", str(model), str(folder / "more"), "--miss-cost", "10"]
    assert main([*words, "--anomalous", str(folder / "stripes/test/spot")]) == 0
    assert "misses (a miss costs 10, a false alarm 1)" in capsys.readouterr().out
    loaded = padim.load(model)
    assert loaded.decision is not None
    assert loaded.decision.threshold.kind == "cost"
    assert loaded.at(0.1).decision.threshold.kind == "conformal"
    for place, label in (("more", "normal"), ("stripes/test/spot", "anomalous")):
        found = loaded.predict(sorted((folder / place).iterdir()))
        assert {prediction.label for prediction in found} == {label}


def test_images_of_the_fit_are_refused(
    model: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = model.read_bytes()
    assert main(["calibrate", str(model), str(folder / "stripes/train/good"), "-q"]) == 1
    assert "The model was fitted on 6 of the 6 images" in capsys.readouterr().err
    assert main(["calibrate", str(model), str(folder / "more"), "-q", "--miss-cost", "2"]) == 2
    assert "Costs and a share of defects need known defects" in capsys.readouterr().err
    words = ["calibrate", str(model), str(folder / "more"), "--defect-rate", "0.1"]
    assert main(words) == 2
    assert "Costs and a share of defects need known defects" in capsys.readouterr().err
    for option, reason in (
        (("--defect-rate", "2"), "The defect rate is 2, but needs to be a fraction"),
        (("--miss-cost", "-1"), "A cost needs to be a number above 0"),
    ):
        spots = str(folder / "stripes/test/spot")
        assert main([*words[:-2], *option, "--anomalous", spots]) == 2
        said = capsys.readouterr()
        assert reason in said.err
        assert said.out == ""  # nothing was read
    assert model.read_bytes() == before


def test_costs_weigh_mistakes() -> None:
    normal = np.array([1, 2, 3, 6], np.float32)
    anomalous = np.array([5, 9, 10], np.float32)
    assert least_cost(normal, anomalous, 1, 10).score == 7.5  # one missed
    assert least_cost(normal, anomalous, 10, 1).score == 4  # one false alarm
    assert least_cost(normal[:3], anomalous, 1, 1).score == 4
    assert least_cost(normal, np.array([0.5], np.float32), 1, 1).score == 6  # call nothing
    basis = least_cost(normal, anomalous, 1, 10).basis
    assert "on 4 good images, 0 of which it calls anomalous, and 3 anomalous ones, 1 of" in basis
    basis = least_cost(normal[:1], anomalous[:1], 1, 1).basis
    assert "on 1 good image, 0 of which it calls anomalous, and 1 anomalous one, 0 of" in basis


def test_the_share_of_defects_weighs_too() -> None:
    normal = np.array([1, 2, 3, 6], np.float32)
    anomalous = np.array([5, 9], np.float32)
    # By hand: at 4, a false alarm of 4 good parts; at 7.5, a miss of 2 defective ones.
    assert least_cost(normal, anomalous, 10, 1).score == 4
    assert least_cost(normal, anomalous, 1e308, 1e307).score == 4
    assert least_cost(normal, anomalous, 10, 1, 0.1).score == 4  # 0.9 / 4 < 10 * 0.1 / 2
    assert least_cost(normal, anomalous, 10, 1, 0.01).score == 7.5  # 0.99 / 4 > 10 * 0.01 / 2
    found = least_cost(normal, anomalous, 10, 1, 0.01)
    assert "(a miss costs 10, a false alarm 1, and 0.01 of all parts are defective)" in found.basis


def test_a_share_of_defects_below_what_the_images_can_tell_is_said() -> None:
    normal = np.array([1, 2, 3, 6], np.float32)
    anomalous = np.array([5, 9], np.float32)
    # By hand: all missed cost 10 x 0.01 = 0.1, less than one false alarm of n while 0.99 / n > 0.1.
    found = least_cost(normal, anomalous, 10, 1, 0.01)
    assert found.warning.startswith("With 0.01 of all parts defective, one of 4 good images that")
    assert found.warning.endswith("have no say. Give 10 good images or more.")
    assert not least_cost(np.linspace(1, 6, 10, dtype=np.float32), anomalous, 10, 1, 0.01).warning
    assert not least_cost(normal, anomalous, 10, 1).warning


def test_a_least_cost_that_is_no_use_says_so() -> None:
    normal = np.array([5, 6, 7], np.float32)
    anomalous = np.array([4, 5.5], np.float32)
    found = least_cost(normal, anomalous, 100, 1)
    assert found.score == 2  # half of the lowest: all are called anomalous
    assert "It calls 3 of 3 good images anomalous." in found.warning
    assert "It misses every known defect" in least_cost(normal, anomalous, 1, 100).warning


@pytest.mark.parametrize("cost", ["inf", "nan", "0", "-1"])
def test_impossible_costs_are_refused(
    folder: Path, cost: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model, spots = folder / "m.safetensors", folder / "stripes/test/spot"
    words = ["calibrate", str(model), str(folder / "more"), "--anomalous", str(spots)]
    assert main([*words, "--miss-cost", cost]) == 2
    assert "A cost needs to be a number above 0" in capsys.readouterr().err


@pytest.mark.parametrize("known", ["more", "stripes/train/good"])
def test_good_images_are_no_known_defects(
    folder: Path, known: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["calibrate", str(folder / "m.safetensors"), str(folder / "more")]
    assert main([*words, "--anomalous", str(folder / known)]) == 1
    assert "cannot be good ones as well" in capsys.readouterr().err
