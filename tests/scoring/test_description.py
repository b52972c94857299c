import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile.mutate_json import mutate_value

from padim.errors import ModelFileError, ModelFileVersionError
from padim.scoring.calibration import Calibration
from padim.scoring.description import Description
from padim.scoring.graph import Graph
from padim.scoring.graph_file import write_description

KEPT = Path(__file__).parents[1] / "kept/v1/model.onnx"


@cache
def kept() -> str:
    """What a graph of 64x64 px says, with levels of 8x8 and 16x16 cells."""
    return Graph(KEPT).runtime.description or ""


def said(**changes: object) -> str:
    return json.dumps(json.loads(kept()) | changes)


def changed(place: str, value: object) -> str:
    """The same with another value at a place such as ``levels/0/grid``."""
    facts = json.loads(kept())
    *parents, last = (int(key) if key.isdecimal() else key for key in place.split("/"))
    parent: Any = facts
    for key in parents:
        parent = parent[key]
    parent[last] = value
    return json.dumps(facts)


def test_a_description_is_read_as_it_was_written() -> None:
    found = Description.read(said(camera_px=[30, 40]), Path("a.onnx"))
    assert found.preprocess.size_px == (64, 64)
    assert found.camera_px == (30, 40)
    assert found.calibration is not None
    assert found.calibration.to_json() == json.loads(kept())["calibration"]
    without = Description.read(said(calibration=None), Path("a.onnx"))
    assert without.calibration is None
    again = without.calibrate(found.calibration)
    assert again.facts["calibration"] == json.loads(kept())["calibration"]


def test_what_a_newer_release_added_stays() -> None:
    found = Description.read(said(more={"a": [1]}), Path("a.onnx"))
    assert found.calibration is not None
    assert found.calibrate(found.calibration).facts["more"] == {"a": [1]}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "{}", "[" * 200_000, '{"graph_version": NaN}']
)
def test_a_description_that_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ModelFileError, match=r"a\.onnx describes itself in a way that cannot"):
        Description.read(text, Path("a.onnx"))


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        ("preprocess", None, "at preprocess, expected object"),
        ("preprocess/size_px", 3, "at preprocess.size_px, expected array"),
        ("preprocess/size_px", [30000, 30000], "have one size_px"),
        ("preprocess/size_px", [64, 1 << 17], r"size_px\[1\], expected int <= 65536"),
        ("preprocess/std", [0.5, 0, 0.5], r"std\[1\], expected float > 0"),
        ("preprocess/crop_fraction", 1e-9, "expected float >= 0.1"),
        ("preprocess/roi", {"source_px": [9, 9], "png": "AAAA"}, "a picture in it is no PNG"),
        ("recipe/size_px", [30000, 30000], "needs to be 64 megapixels or less"),
        ("recipe/sigma_px", 1e7, "sigma_px, expected float <= 65536"),
        ("recipe/sigma_px", 65, "sigma_px is 65, but needs to lie between 0 and 64"),
        ("recipe/name", "other", "there is no recipe 'other'"),
        ("recipe/resample", "nearest", "invalid enum value 'nearest'"),
        ("recipe/tile_px", 0, "expected int >= 1"),
        ("levels", [], "at levels, expected array of length >= 1"),
        ("levels/0/grid", [1 << 20, 1 << 20], r"at levels\[0\].grid\[0\], expected int <= 65536"),
        ("levels/0/grid", [9, 8], r"the grid \(9, 8\) of tap 1 does not fit its stride"),
        ("levels/0/taps", [0, 1], "2 taps need as many lists of channels"),
        ("levels/0/taps", [2], "tap 2 is none of the 2 of the backbone"),
        ("levels/0/channels", [[0, 40]], "tap 1 has 40 channels, not 40"),
        ("levels/0/channels", [[1, 1]], "channels need to ascend"),
        ("backbone/strides", [4], "need to be of one length"),
        ("backbone/taps", [2, 1], "taps ascending"),
        ("backbone/architecture", "hf-hub:a/b", "at backbone.architecture, expected str matching"),
        ("coarse_cells", [0, 64], "need to be different and below 64"),
        ("coarse_cells", [1, 1], "need to be different and below 64"),
        ("eps", [0.1], "2 levels need as many eps"),
        ("engine", "mxnet 10", "there is no engine 'mxnet 10'"),
        ("precision", "float8", "invalid enum value 'float8'"),
        ("count", 0, "at count, expected int >= 1"),
        ("camera_px", [1], "at camera_px, expected array of length 2"),
        ("camera_px", 5, "at camera_px, expected array"),
        ("calibration", 7, "at calibration, expected object"),
        ("calibration", {"source": "held-out"}, "missing required field stale"),
        ("calibration/source", "felt", "invalid enum value 'felt'"),
        ("calibration/image_score", [], "image_score needs to be a list of finite numbers"),
        ("calibration/image_score", [2, 1], "image_score needs to ascend"),
        ("calibration/image_score/0", float("nan"), "NaN is no number"),
        ("calibration/pixel_count", [1], "how many pixels have each pixel_score"),
        ("calibration/pixel_count/0", -1, "expected int >= 0"),
        (
            "calibration/chosen",
            {"rate": 2, "score": 1, "kind": "cost"},
            "rate, expected float <= 1",
        ),
        ("graph_version", "one", "at graph_version, expected int, got str"),
        ("graph_version", 0, "at graph_version, expected int >= 1"),
        ("graph_version", -1, "at graph_version, expected int >= 1"),
        ("graph_version", None, "at graph_version, expected int, got null"),
    ],
)
def test_a_field_that_makes_no_sense_is_refused(place: str, value: object, reason: str) -> None:
    with pytest.raises(
        ModelFileError,
        match=rf"^a\.onnx describes itself .*{reason}.*\. Copy it or export it again",
    ):
        Description.read(changed(place, value), Path("a.onnx"))


def test_changes_at_random_are_the_same_or_refused() -> None:
    facts, source = json.loads(kept()), random.Random(0)
    facts["samples"] = []  # large, and read by nobody here
    n_refused = 0
    for _ in range(500):
        text = json.dumps(mutate_value(source, facts)[0])
        try:
            found = Description.read(text, Path("a.onnx"))
        except ModelFileError:
            n_refused += 1
        else:
            assert found.words()
            assert found.preprocess(np.zeros((4, 4, 3), np.uint8)).shape == (64, 64, 3)
            calibration = found.calibration
            assert calibration is None or isinstance(calibration, Calibration)
            if calibration is not None:
                assert np.isfinite(calibration.threshold(0.01).score)
                assert np.isfinite(calibration.pixel_threshold(0.01))
    assert 250 < n_refused < 500


def test_a_newer_description_is_refused() -> None:
    text = json.dumps({"graph_version": 4, "preprocess": "otherwise"})
    with pytest.raises(ModelFileVersionError, match="graph version 4, but this release reads up"):
        Description.read(text, Path("a.onnx"))


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_what_is_no_model_is_not_changed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"<net></net>" if suffix == ".xml" else b"\x08\x01")
    before = path.read_bytes()
    with pytest.raises(ModelFileError, match="is a graph, but no model"):
        write_description(path, "{}")
    assert path.read_bytes() == before
