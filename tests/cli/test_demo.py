import json
from pathlib import Path

import pytest

from padim.cli import main
from padim.datasets import read_category
from padim.datasets.solar_cells import lay_out_solar_cells


def test_solar_cells_are_laid_out_by_probability(tmp_path: Path) -> None:
    pytest.importorskip("elpv_dataset")
    category = read_category(lay_out_solar_cells(tmp_path, "mono"))
    assert len(category.train) == 392
    assert (category.n_normal, category.n_anomalous) == (196, 313)
    names = [path.name for path in (*category.train[:2], category.test[-196].path)]
    assert names == sorted(names)
    stamp = category.root.stat().st_mtime_ns
    lay_out_solar_cells(tmp_path, "mono")
    assert category.root.stat().st_mtime_ns == stamp


@pytest.mark.slow
def test_demo_finds_the_defects_and_a_second_run_reuses_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "demo")
    assert main(["demo", "-o", out]) == 0
    first = capsys.readouterr().out
    assert "CC BY-NC-SA 4.0" in first
    (row,) = json.loads((tmp_path / "demo/results/results.json").read_text())["rows"]
    assert row["image_auroc"] > 0.94
    assert main(["demo", "-o", out]) == 0
    assert "solar_mono: finished before, nothing changed." in capsys.readouterr().out
