import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score
from trees import make_category

from padim.backbones import backbone
from padim.benchmark import COLUMNS, markdown
from padim.cli import main
from padim.weights import locate


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_category(tmp_path / "data" / "carpet")
    make_category(tmp_path / "data" / "bottle", n_train=4, masks=False)
    return tmp_path / "data"


def benchmark(root: Path, out: Path, *more: str) -> int:
    return main(["benchmark", str(root), "-o", str(out), "--size", "64", *more])


def test_benchmark_writes_what_it_promises(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert benchmark(root, out, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    document = json.loads((out / "results.json").read_text())
    assert printed == document
    assert document["schema_version"] == 1
    assert document["settings"]["size_px"] == [64, 64]
    bottle, carpet = document["rows"]
    assert list(carpet) == list(COLUMNS)
    assert (carpet["category"], carpet["n_train"], carpet["n_test"]) == ("carpet", 6, 6)
    assert carpet["model_bytes"] == (out / "models/carpet.safetensors").stat().st_size
    assert bottle["pixel_auroc"] is None
    assert bottle["pixel_f1_max"] is None
    assert document["means"]["texture"]["pixel_auroc"] == carpet["pixel_auroc"]
    assert document["means"]["object"]["pixel_auroc"] is None
    mean = (bottle["image_auroc"] + carpet["image_auroc"]) / 2
    assert document["means"]["all"]["image_auroc"] == mean

    with (out / "results.csv").open(newline="") as file:
        assert [row["category"] for row in csv.DictReader(file)] == ["bottle", "carpet"]
    table = (out / "results.md").read_text()
    assert table.count("All texture classes") == table.count("All object classes") == 2
    images = [json.loads(line) for line in (out / "images.jsonl").read_text().splitlines()]
    assert len(images) == 12
    carpets = [image for image in images if image["category"] == "carpet"]
    labels = [image["label"] == "anomalous" for image in carpets]
    scores = [image["score"] for image in carpets]
    assert carpet["image_auroc"] == roc_auc_score(labels, scores)
    with Image.open(out / "roc_curve.png") as curves:
        assert curves.size == (1500, 700)
    names = sorted(path.name for path in (out / "pictures/carpet").iterdir())
    assert names == [f"{defect}_{i}.png" for defect in ("good", "spot") for i in range(3)]


def test_groups_that_are_absent_have_no_row() -> None:
    means = dict.fromkeys(("image_auroc", "pixel_auroc", "image_f1_max", "pixel_f1_max"), 0.5)
    document = {
        "settings": {"backbone": "resnet18", "recipe": "standard"},
        "rows": [{"category": "mine", **means}],
        "means": {"texture": None, "object": None, "all": means},
    }
    assert "texture" not in markdown(document)
    assert "| All classes | 0.500 |" in markdown(document)


def test_a_finished_category_is_not_done_again(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert benchmark(root, out, "--category", "carpet") == 0
    before = (out / "models/carpet.safetensors").stat().st_mtime_ns
    capsys.readouterr()

    assert benchmark(root, out) == 0
    said = capsys.readouterr().out
    assert "carpet: finished before" in said
    assert "bottle: 4 train" in said
    assert (out / "models/carpet.safetensors").stat().st_mtime_ns == before
    assert len(json.loads((out / "results.json").read_text())["rows"]) == 2

    assert benchmark(root, out, "--eps", "0.02") == 0
    assert "carpet: done again, because of eps." in capsys.readouterr().out
    (root / "carpet/train/good/0.png").unlink()
    assert benchmark(root, out, "--eps", "0.02") == 0
    said = capsys.readouterr().out
    assert "carpet: done again, because of its images." in said
    assert "bottle: finished before" in said


def test_one_failing_category_does_not_stop_the_others(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (root / "bottle/test/spot/1.png").write_bytes(b"not an image")
    assert benchmark(root, out, "-q") == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: 1 of 2 categories failed. bottle: ")
    document = json.loads((out / "results.json").read_text())
    assert [row["category"] for row in document["rows"]] == ["carpet"]
    assert document["failed"][0]["type"] == "ImageReadError"
    assert not (out / "pictures/bottle").exists()
    assert benchmark(root, out, "--skip-unreadable") == 0
    document = json.loads((out / "results.json").read_text())
    assert [row["n_test"] for row in document["rows"]] == [5, 6]


def test_categories_that_are_not_there_are_wrong_usage(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark(root, tmp_path / "out", "--category", "carpets") == 2
    assert "Did you mean 'carpet'?" in capsys.readouterr().err


def test_pictures_show_the_image_its_truth_and_its_map(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert benchmark(root, out, "--category", "carpet", "-q") == 0
    spot = np.asarray(Image.open(out / "pictures/carpet/spot_0.png"))
    good = np.asarray(Image.open(out / "pictures/carpet/good_0.png"))
    left, top, side, gap = 12, 58, 256, 16
    truth = np.s_[top : top + side, left + side + gap : left + 2 * side + gap]
    assert set(np.unique(spot[truth])) == {0, 255}
    assert not good[truth].any()
    heat = np.s_[top : top + side, left + 2 * (side + gap) : left + 3 * side + 2 * gap]
    hot = spot[heat].astype(int).sum(axis=2)
    defect = spot[truth][:, :, 0] > 0
    assert hot[defect].mean() > 2 * hot[~defect].mean()


def test_a_category_without_test_images_has_no_figures(root: Path, tmp_path: Path) -> None:
    shutil.rmtree(root / "bottle/test")
    assert benchmark(root, tmp_path / "out", "--category", "bottle", "-q") == 0
    (row,) = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    assert row["n_test"] == 0
    assert row["image_auroc"] is None


def test_half_finished_work_leaves_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert benchmark(root, out, "--category", "carpet", "-q") == 0
    before = {path for path in out.rglob("*") if path.is_file()}

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("padim.state.write_tensors", interrupt)  # the last step of a category
        assert benchmark(root, out, "--category", "bottle", "-q") == 130
    assert {path for path in out.rglob("*") if path.is_file()} == before
    assert benchmark(root, out, "-q") == 0
    assert len(json.loads((out / "results.json").read_text())["rows"]) == 2


def test_images_left_out_are_listed_and_their_category_is_not_whole(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    bad = root / "carpet/train/good/1.png"
    bad.write_bytes(b"")
    arguments = ("--category", "carpet", "--json")
    for _ in range(2):
        capsys.readouterr()
        assert benchmark(root, out, *arguments, "--skip-unreadable") == 0
        assert json.loads(capsys.readouterr().out)["unreadable"] == [str(bad)]
    assert benchmark(root, out, *arguments) == 1


def test_images_of_one_stem_have_a_picture_each(root: Path, tmp_path: Path) -> None:
    spot = root / "carpet/test/good/0.png"
    Image.open(spot).save(spot.with_suffix(".bmp"))
    assert benchmark(root, tmp_path / "out", "--category", "carpet", "-q") == 0
    assert len(list((tmp_path / "out/pictures/carpet").iterdir())) == 7


def test_weights_of_a_file_serve_a_network_that_does_not_travel(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "elsewhere" / "efficientnet-lite0-57934424.pth"
    here = locate(backbone("efficientnet_lite0"))
    assert here is not None
    weights.parent.mkdir()
    shutil.copyfile(here, weights)
    monkeypatch.setattr("padim.preparing.INCLUDE_BACKBONE_BYTES", 0)
    monkeypatch.setattr("padim.weights.locate", lambda spec: None)
    arguments = ("--category", "carpet", "--weights", str(weights), "-q")
    assert benchmark(root, tmp_path / "out", *arguments) == 0
    model = tmp_path / "out/models/carpet.safetensors"
    predict = [
        "predict",
        str(model),
        str(root / "carpet/test/good"),
        "-o",
        str(tmp_path / "p"),
        "-q",
    ]
    assert main([*predict, "--weights", str(weights)]) == 0
    assert main([*predict, "--weights", str(tmp_path / "none.pth")]) == 2
