"""``padim monitor`` over what ``padim predict`` wrote."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from trees import make_category

import padim
from padim.cli import main
from padim.model.file import load_state, save_state

CAMERA = ("grey", "contrast", "sharpness", "shift_px")


def write_results(path: Path, n: int, n_good: int, *, n_rejected: int = 0) -> Path:
    """Rows of parts that get brighter after some good ones, and are rejected at last."""
    rng = np.random.default_rng(3)
    with path.open("w", encoding="utf-8") as file:
        for i in range(n + n_rejected):
            camera = dict(zip(CAMERA, rng.normal(100, 1, 4).tolist(), strict=True))
            camera["grey"] += 5 * (i >= n_good)
            row = {
                "path": f"{i:04d}.png",
                "score": float(rng.normal(10, 1)),
                "label": "normal" if i < n else "anomalous",
                "threshold": 20.0,
                "model_sha256": "0" * 64,
                "level_scores": rng.normal(5, 1, 2).tolist(),
                "camera": camera,
                "coarse_map": np.zeros((8, 8)).tolist(),
            }
            file.write(json.dumps(row) + "\n")
    return path


def test_a_line_that_stays_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(tmp_path / "predictions.jsonl", 200, 200)
    assert main(["monitor", str(tmp_path), "--fail-on-alarm"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("200 parts, 200 accepted: no drift.\n")
    assert "the mean grey level" in out
    assert "The alarm rings when all together reach 10,000:" in out
    assert err == ""


def test_a_change_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_results(tmp_path / "rows.jsonl", 300, 200)
    assert main(["monitor", str(path)]) == 0
    out, _ = capsys.readouterr()
    assert "1 alarm.\nDrift: since part 2" in out
    assert "the mean grey level is higher than before" in out
    assert main(["monitor", str(path), "--json", "--fail-on-alarm"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["n_parts"] == document["n_accepted"] == 300
    (alarm,) = document["alarms"]
    assert alarm["culprit"]["statistic"] == "grey"
    assert alarm["culprit"]["is_higher"] is True
    assert abs(alarm["culprit"]["since"]["number"] - 201) < 20
    assert alarm["sentence"] in out
    assert {one["statistic"] for one in document["evidence"]} == {
        *("score", "level_1", "level_2"),
        *CAMERA,
    }


def test_a_row_of_rejected_parts_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_results(tmp_path / "rows.jsonl", 100, 100, n_rejected=30)
    assert main(["monitor", str(path)]) == 0
    out, err = capsys.readouterr()
    assert "130 parts, 100 accepted" in out
    assert "warning: Up to part 130: The last 30 parts were all rejected" in err


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        ("", 1, "has no prediction"),
        ("{", 1, "Line 1 of"),
        ('{"score": 1}', 1, "missing required field label"),
        ('{"score": 1e400, "label": null}', 1, "is not finite"),
        ('{"score": 1, "label": null, "coarse_map": 5}', 1, "coarse_map"),
        (
            '{"score": 1, "label": null, "model_sha256": "a"}\n'
            '{"score": 1, "label": null, "model_sha256": "b"}\n',
            1,
            "of several models",
        ),
        (
            '{"score": 1, "label": null, "level_scores": [1]}\n{"score": 1, "label": null}\n',
            1,
            "has no level_1",
        ),
    ],
)
def test_what_is_no_result_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, status: int, words: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text, encoding="utf-8")
    assert main(["monitor", str(path)]) == status
    err = capsys.readouterr().err
    assert words in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("option", ["--every", "--parts-between-alarms"])
def test_bad_usage_exits_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    path = write_results(tmp_path / "rows.jsonl", 2, 2)
    assert main(["monitor", str(tmp_path / "none")]) == 2
    (tmp_path / "empty").mkdir()
    assert main(["monitor", str(tmp_path / "empty")]) == 2
    assert "but what padim predict wrote with -o is needed" in capsys.readouterr().err
    assert main(["monitor", str(path), option, "0"]) == 2
    assert "needs to be a whole number" in capsys.readouterr().err


def test_it_begins_with_the_good_images_of_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    category = make_category(tmp_path / "stripes")
    model, graph, out = tmp_path / "m.safetensors", tmp_path / "m.onnx", str(tmp_path / "out")
    padim.fit(category, size_px=(64, 64), device="cpu", recipe="fast").save(model)
    padim.export(model, graph)
    assert main(["predict", str(graph), str(category / "test/good"), "-o", out]) == 0
    capsys.readouterr()
    for path, told in ((graph, ""), (model, "warning: The predictions are of another model file")):
        assert main(["monitor", out, "--model", str(path), "--json"]) == 0
        text, err = capsys.readouterr()
        assert err.startswith(told)
        assert bool(err) == bool(told)
        assert json.loads(text)["basis"] == "leave-one-out"
    assert main(["monitor", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["basis"] == "parts"
    state = load_state(model)
    save_state(replace(state, calibration=None), model)
    assert main(["monitor", out, "--model", str(model)]) == 2
    assert "Leave --model out" in capsys.readouterr().err
