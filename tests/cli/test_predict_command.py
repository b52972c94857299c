import csv
import hashlib
import io
import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import make_category, striped

import padim
from padim.cli import main
from padim.errors import UsageError
from padim.model import opening


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A category, its model, and many images of another part."""
    root = tmp_path_factory.mktemp("predict")
    category = make_category(root / "stripes")
    padim.fit(category, size_px=(64, 64), recipe="fast").save(root / "m.safetensors")
    (root / "other").mkdir()
    for i in range(20):
        striped(300 + i).rotate(90).save(root / f"other/{i:02}.png")
    return root


def predict(folder: Path, images: str, out: Path, *more: str) -> int:
    model = str(folder / "m.safetensors")
    return main(["predict", model, str(folder / images), "-o", str(out), "--no-overlays", *more])


def test_the_summary_counts_what_is_anomalous(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(folder, "stripes/test", tmp_path, "--recursive") == 0
    said = capsys.readouterr()
    assert "3 of 6 images are anomalous:\npath" in said.out
    assert "warning" not in said.err


@pytest.mark.parametrize(
    ("images", "options", "expected"),
    [
        ("other", ("--n-threads", "3"), (3, 1)),
        ("other", ("--n-threads", "64"), (5, 12)),  # 20 images are five batches
        ("other", ("--n-threads", "64", "--device", "cuda"), (1, 64)),
        ("stripes/test/spot", ("--n-threads", "64"), (1, 64)),
    ],
)
def test_calls_at_a_time_share_the_threads_as_far_as_there_are_images(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    images: str,
    options: tuple[str, ...],
    expected: tuple[int, int],
) -> None:
    asked = {}

    def load(_path: Path, **given: object) -> None:
        asked.update(given)
        raise UsageError("enough")

    monkeypatch.setattr(opening, "load", load)
    assert predict(folder, images, tmp_path, *options) == 2
    assert (asked["n_calls"], asked["n_threads"]) == expected


def test_a_model_of_another_part_is_warned_of(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(folder, "other", tmp_path, "-q") == 0
    said = capsys.readouterr()
    assert "20 of 20 images are anomalous. The most anomalous:\npath" in said.out
    assert said.err.startswith("warning: All 20 images are as unlike the good ones as can be.")
    assert "a model of another part" in said.err
    (folder / "other/00.png").rename(folder / "one_less.png")
    try:
        assert predict(folder, "other", tmp_path, "-q") == 0
        assert capsys.readouterr().err == ""
    finally:
        (folder / "one_less.png").rename(folder / "other/00.png")


def test_one_image_is_one(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(folder, "stripes/test/spot/0.png", tmp_path) == 0
    said = capsys.readouterr().out
    assert said.startswith("1 image to score, 72x72 px.")
    assert "1 of 1 image is anomalous:\npath" in said
    assert predict(folder, "stripes/test/good/0.png", tmp_path / "good") == 0
    assert "0 of 1 image is anomalous:\npath" in capsys.readouterr().out


@pytest.mark.parametrize("more", [[], ["--fail-on-anomaly"]])
def test_it_fails_where_no_image_could_be_read(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("a.png", "b.png"):
        (broken / name).write_bytes(b"no image")
    words = ["predict", str(folder / "m.safetensors"), str(broken), "-o", str(tmp_path / "out")]
    assert main([*words, "--skip-unreadable", "-q", *more]) == 1
    said = "error: Nothing was judged: of 2 images none could be read. Check the files.\n"
    assert capsys.readouterr().err == said
    assert main([*words, "--skip-unreadable", "--json", *more]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["n_images"] == 0
    assert document["unreadable"] == [str(broken / "a.png"), str(broken / "b.png")]


def test_what_is_missing_says_what_was_looked_for(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(folder, "missing/", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "missing does not exist, but an image or a folder of images is needed." in said
    (tmp_path / "empty").mkdir()
    assert predict(folder, str(tmp_path / "empty"), tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "empty has no images; it needs files that end in .bmp, .gif, .j2k, .jfif" in said


def test_each_row_says_what_it_came_of(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rate = ("--false-alarm-rate", "0.3")
    assert predict(folder, "stripes/test/spot", tmp_path, "--json", *rate) == 0
    document = json.loads(capsys.readouterr().out)
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert lines == document["predictions"]
    model = hashlib.sha256((folder / "m.safetensors").read_bytes()).hexdigest()
    for row, line in zip(rows, lines, strict=True):
        image = hashlib.sha256(Path(row["path"]).read_bytes()).hexdigest()
        assert row["image_sha256"] == line["image_sha256"] == image
        assert row["model_sha256"] == line["model_sha256"] == model
        assert float(row["threshold"]) == line["threshold"] == document["threshold"]["score"]
        assert float(row["false_alarm_rate"]) == line["false_alarm_rate"] == 0.3
        assert float(row["pixel_threshold"]) == line["pixel_threshold"]
        assert row["padim"] == line["padim"] == version("padim-efficientnet")
        assert row["engine"] == line["engine"] == f"onnxruntime {version('onnxruntime')}"


def test_an_image_comes_through_a_pipe(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "stripes/test/spot/0.png"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    arguments = ["predict", str(folder / "m.safetensors"), "-", "-o", str(tmp_path / "piped")]
    assert main(arguments) == 0
    assert predict(folder, "stripes/test/spot/0.png", tmp_path / "named") == 0
    piped, named = (
        json.loads((tmp_path / name / "predictions.jsonl").read_text())
        for name in ("piped", "named")
    )
    assert named.pop("path") == str(path)
    assert piped.pop("path") is None
    assert piped == named
    assert (tmp_path / "piped/overlays/stdin.jpg").is_file()


def test_an_empty_pipe_is_not_said_to_be_left_out(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    model = str(folder / "m.safetensors")
    assert main(["predict", model, "-", "-o", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.endswith("it is empty; pipe one image file into it.\n")


def test_what_differs_from_the_fit_and_what_is_left_out_is_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    new.mkdir()
    picture = striped(7).convert("L")
    picture.save(new / "grey.bmp")
    Image.fromarray(np.asarray(picture).astype(np.uint16) * 16).save(new / "deep.png")
    striped(8).save(new / "like.jfif", "JPEG")
    (new / "notes.txt").touch()
    model = str(folder / "m.safetensors")
    assert main(["predict", model, str(new), "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "Left out: 1 file that is no image (.txt 1).\n" in said.out
    assert "warning: 2 of 3 images are not like those of the fit: " in said.err
    assert "1 of 16-bit grey, not 8-bit colour" in said.err
    assert "1 of 8-bit grey, not 8-bit colour" in said.err
    assert "1 much darker than any good image" in said.err


def test_images_of_the_fit_are_not_new(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "both").mkdir()
    shutil.copy(folder / "stripes/train/good/0.png", tmp_path / "both/seen.png")
    striped(99).save(tmp_path / "both/new.png")
    model = str(folder / "m.safetensors")
    assert main(["predict", model, str(tmp_path / "both"), "-o", str(tmp_path / "out"), "-q"]) == 0
    said = capsys.readouterr()
    assert "warning: The model was fitted on 1 of 2 images, and scores what it has" in said.err
    assert predict(folder, "stripes/test/good", tmp_path / "other", "-q") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("out", "more", "words"),
    [
        ("other", (), "other is where the images are"),
        ("other/out", ("--recursive",), "other, where the images are"),
        ("stripes/train/good", (), "good holds images (0.png, 1.png"),
    ],
)
def test_results_need_a_folder_of_their_own(
    folder: Path, out: str, more: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.rglob("*"))
    assert predict(folder, "other", folder / out, *more) == 2
    assert words in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before
