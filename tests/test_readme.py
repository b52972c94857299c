"""The README is short, and its figures are those of the benchmarks."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pages import ROOT, fences, follow
from trees import striped

README = ROOT / "README.md"
MOST_WORDS = 900
TWO = ("efficientnet_lite0", "standard"), ("efficientnet_lite0", "anomalib 2.7.0")


def result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())
    return found


def test_it_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").split()) <= MOST_WORDS


def test_what_it_shows_gives_a_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, seeds in (("good_parts", range(3)), ("new_parts", range(50, 53))):
        (tmp_path / folder).mkdir()
        for i, seed in enumerate(seeds):
            striped(seed).save(tmp_path / folder / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    assert follow(README) == 3
    assert re.search(r"^(normal|anomalous) \d+\.\d+ ", capsys.readouterr().out, re.MULTILINE)
    assert (tmp_path / "out/overlays/0.jpg").is_file()
    assert (tmp_path / "out/predictions.csv").is_file()


def test_its_python_has_ten_lines_at_most() -> None:
    (block,) = [content for language, content, _ in fences(README, "python")]
    assert len([line for line in block.splitlines() if line.strip()]) <= 10


def test_its_speeds_are_those_measured() -> None:
    text = README.read_text(encoding="utf-8")
    scoring, fit = result("scoring"), result("fit_peer")
    seconds, measured = scoring["seconds"], fit["measured"]

    def ms(name: str) -> str:
        return f"{seconds[name]['median'] * 1e3:.1f} ms"

    def cost(who: str) -> str:
        times = {"peer": "peer_fit_save_s"}
        memory = {"peer": "peer_fit_bytes"}
        time = measured[times.get(who, f"{who}_s")]["median"]
        n_bytes = measured[memory.get(who, f"{who}_bytes")]["median"]
        return f"{time:.1f} s, {n_bytes / 1e9:.2f} GB"

    sizes = scoring["file_bytes"]
    for row in (
        f"| one image to map and score, float32, three levels | {ms('openvino float32')} | "
        f"{ms('anomalib torch')} (torch), {ms('anomalib openvino_f32')} (its OpenVINO export) |",
        f"| exported file, three levels | {sizes['.onnx'] / 1e6:.0f} MB | "
        f"{sizes['anomalib'] / 1e6:.0f} MB |",
        f"| fit of 320 images, three levels, without threshold | {cost('ours')} | {cost('peer')} |",
        f"| the same, with its threshold | {cost('calibrated')} | |",
    ):
        assert row in text


def test_its_accuracies_are_those_measured() -> None:
    text = README.read_text(encoding="utf-8")
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    for words, category in (
        ("monocrystalline solar cells", "solar_mono"),
        ("polycrystalline solar cells", "solar_poly"),
        ("magnetic tiles", "magnetic_tile"),
    ):
        section = page.partition(f"\n## {category}\n")[2].partition("\n## ")[0]
        ours, theirs = (
            re.search(rf"^\| {backbone} \| {method} \| ([^|]+) \|", section, re.MULTILINE)
            for backbone, method in TWO
        )
        assert ours
        assert theirs
        assert f"| image AUROC, {words} | {ours[1]} | {theirs[1]} |" in text
