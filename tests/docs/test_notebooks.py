"""The notebooks run from first cell to last, and show what they print."""

import importlib
import json
from pathlib import Path

import pytest
from pages import ROOT

NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))

pytestmark = [
    pytest.mark.slow,
    # nbclient asks for an event loop in a way that Python is about to change.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs/scripts"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    (tmp_path / "work").mkdir()
    script = importlib.import_module("notebooks")
    notebook = script.run_notebook(path, tmp_path / "work")
    printed = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert printed
    warned = [output["text"] for output in printed if output.get("name") == "stderr"]
    # The first import of timm in a kernel misses a widget for bars that nobody sees.
    assert not [text for text in warned if "TqdmWarning" not in text]


def test_there_are_two() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["compare_benchmarks", "first_model"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_with_its_outputs_and_credits(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert any(cell.get("outputs") for cell in json.loads(text)["cells"])
    assert "elpv-dataset" in text
    assert "CC BY-NC-SA 4.0" in text
