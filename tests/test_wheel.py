"""The wheel alone, as a machine on the line has it: the core install, without torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from trees import make_category

import padim
from padim.errors import install_command
from padim.model.export import export

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("line")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv/bin/python"
    subprocess.run([python, *pip[1:], "install", wheel], check=True)
    return python


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    category = make_category(folder / "stripes")
    padim.fit(category, size_px=(64, 64)).save(folder / "m.safetensors")
    export(folder / "m.safetensors", folder / "m.onnx")
    export(folder / "m.safetensors", folder / "m.xml", to="openvino")
    return folder


def run(python: Path, *arguments: object, status: int = 0) -> str:
    command = [python, "-m", "padim", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


def test_the_core_install_scores_what_was_exported(python: Path, folder: Path) -> None:
    found = subprocess.run(
        [python, "-c", "import importlib.util as u; print(u.find_spec('torch'))"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout.strip() == "None"
    model, test = folder / "m.onnx", folder / "stripes/test"
    predictions = json.loads(
        run(python, "predict", model, test, "-o", folder / "out", "--recursive", "--json")
    )["predictions"]
    expected = padim.load(folder / "m.safetensors", engine="torch")
    for prediction in predictions:
        score = expected.predict(prediction["path"]).score
        assert prediction["score"] == pytest.approx(score, rel=1e-3)
    assert len(predictions) == len(list((folder / "out/overlays").rglob("*.jpg"))) == 6
    assert json.loads(run(python, "verify", model, "--json"))["map_error"] < 1e-3
    assert "runs on onnxruntime" in run(python, "info", model)
    said = run(python, "evaluate", model, folder / "stripes", "--json", "-q")
    assert json.loads(said)["image_auroc"] == 1
    assert "onnxruntime  float32" in run(python, "doctor", model)


def test_what_is_no_module_travels_as_well(python: Path) -> None:
    words = "import padim, pathlib; print(pathlib.Path(padim.__file__).parent)"
    done = subprocess.run([python, "-c", words], check=True, capture_output=True, text=True)
    there, here = Path(done.stdout.strip()), ROOT / "src/padim"
    others = [
        path.relative_to(here)
        for path in here.rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".pyo")
    ]
    assert Path("store/migrations/versions/0001_first.py") in others
    assert [path for path in others if not (there / path).is_file()] == []


def test_what_the_core_install_lacks_is_named(python: Path, folder: Path) -> None:
    image, out = folder / "stripes/test/good/0.png", folder / "out"
    for command, extra in (
        (("predict", folder / "m.safetensors", image, "-o", out), "fit"),
        (("predict", folder / "m.xml", image, "-o", out), "openvino"),
        (("fit", folder / "stripes", "-o", folder / "n.safetensors"), "fit"),
        (("report", folder), "report"),
        (("export", folder / "m.safetensors", "-o", folder / "n.onnx"), "fit"),
    ):
        said = run(python, *command, status=1)
        assert said.startswith("error: ")
        assert said.rstrip().endswith(install_command(extra))
    said = run(python, "doctor")
    assert "Nothing is timed" in said
    assert "pip install 'padim-efficientnet[openvino]'" in said


def test_the_files_of_the_report_are_in_the_wheel(python: Path) -> None:
    code = (
        "from importlib.resources import files\n"
        "print(*(path.name for path in files('padim').joinpath('report/files').iterdir()))"
    )
    done = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    assert {"report.css", "report.html.jinja", "report.js"} <= set(done.stdout.split())
