import json
from pathlib import Path

import pytest

from padim.errors import ModelFileError, ModelFileVersionError
from padim.scoring.description import Description
from padim.scoring.graph_file import write_description
from padim.scoring.predictor import Predictor


def said(predictor: Predictor) -> dict[str, object]:
    assert predictor.decision is not None
    return {
        "graph_version": 1,
        "preprocess": predictor.preprocess.to_json(),
        "camera_px": [30, 40],
        "calibration": predictor.decision.calibration.to_json(),
    }


def test_a_description_is_read_as_it_was_written(predictor: Predictor) -> None:
    facts = said(predictor)
    found = Description.read(json.dumps(facts), Path("a.onnx"))
    assert found.preprocess == predictor.preprocess
    assert found.camera_px == (30, 40)
    assert found.calibration is not None
    assert found.calibration.to_json() == facts["calibration"]
    without = Description.read(json.dumps(facts | {"calibration": None}), Path("a.onnx"))
    assert without.calibration is None
    again = without.calibrate(found.calibration)
    assert again.facts["calibration"] == facts["calibration"]


@pytest.mark.parametrize(
    "change",
    [
        {"preprocess": {"size_px": 3}},
        {"preprocess": None},
        {"camera_px": [1]},
        {"camera_px": 5},
        {"graph_version": "one"},
        {"graph_version": None},
        {"graph_version": 0},
        {"graph_version": -1},
        {"calibration": {"source": "held-out"}},
        {"calibration": 7},
    ],
)
def test_a_description_that_makes_no_sense_is_refused(
    predictor: Predictor, change: dict[str, object]
) -> None:
    for text in (json.dumps(said(predictor) | change), "{", "[]", "7"):
        with pytest.raises(ModelFileError, match=r"a\.onnx describes itself in a way that cannot"):
            Description.read(text, Path("a.onnx"))


def test_a_newer_description_is_refused(predictor: Predictor) -> None:
    text = json.dumps(said(predictor) | {"graph_version": 3, "preprocess": "otherwise"})
    with pytest.raises(ModelFileVersionError, match="graph version 3, but this release reads up"):
        Description.read(text, Path("a.onnx"))


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_what_is_no_model_is_not_changed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"<net></net>" if suffix == ".xml" else b"\x08\x01")
    before = path.read_bytes()
    with pytest.raises(ModelFileError, match="is a graph, but no model"):
        write_description(path, "{}")
    assert path.read_bytes() == before
