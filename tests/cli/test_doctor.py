import json
from pathlib import Path

import pytest
from trees import make_category

import padim
from padim.cli import main
from padim.doctor import examine, time_graph
from padim.model.export import export


def test_a_machine_is_described() -> None:
    machine = examine()
    assert machine.n_cores >= 1
    assert machine.memory_bytes is None or machine.memory_bytes > 1e8
    assert set(machine.engines) == {"torch", "onnxruntime", "openvino"}


@pytest.mark.slow
def test_doctor_times_each_engine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    rows = {(timing["engine"], timing["precision"]): timing for timing in document["timings"]}
    assert set(rows) == {
        ("torch", "float32"),
        ("onnxruntime", "float32"),
        ("openvino", "float32"),
        ("openvino", "bfloat16"),
    }
    for timing in rows.values():
        assert timing["trunk_ms"] > 0
        assert timing["image_ms"] > 0
    assert set(document["auto"]) == {".safetensors", ".onnx", ".xml"}
    assert document["advice"] == []


def test_doctor_times_a_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    category = make_category(tmp_path / "stripes")
    padim.fit(category, size_px=(64, 64), recipe="fast").save(tmp_path / "m.safetensors")
    export(tmp_path / "m.safetensors", tmp_path / "m.xml", to="openvino")
    assert [timing.precision for timing in time_graph(tmp_path / "m.xml", 1)] == [
        "float32",
        "bfloat16",
    ]
    assert main(["doctor", str(tmp_path / "m.xml")]) == 0
    (header,) = [one for one in capsys.readouterr().out.splitlines() if "ms an image" in one]
    assert header.split("  ")[-1].strip() == "ms an image"
    assert main(["doctor", str(tmp_path / "none.xml")]) == 2
    assert main(["doctor", str(tmp_path / "m.safetensors")]) == 2
    assert "is no graph, whose name ends in .onnx or .xml" in capsys.readouterr().err
