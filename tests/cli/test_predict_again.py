"""Predictions of a run that is stopped, goes on, or meets what an earlier one has left."""

import csv
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trees import make_category, striped

import padim
from padim.cli import main
from padim.files import lock_folder
from padim.scoring.predictor import Predictor
from padim.scoring.writer import PredictionWriter


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("again")
    path = root / "m.safetensors"
    padim.fit(make_category(root / "stripes"), size_px=(64, 64), recipe="fast").save(path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(6):
        striped(i).save(folder / f"{i}.png")
    return folder


def predict(model: Path, images: Path, out: Path, *more: str) -> int:
    return main(["predict", str(model), str(images), "-o", str(out), *more])


def contents(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def stop_after(n_rows: int, patch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let a run end with an error when so many rows are there."""
    write = PredictionWriter.write

    def stop(*words: Any) -> Iterator[Any]:
        for i, record in enumerate(write(*words), 1):
            yield record
            if i == n_rows:
                raise error

    patch.setattr(PredictionWriter, "write", stop)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (KeyboardInterrupt(), 130, "error: Interrupted. 9 of 10 images are done: the same"),
        (OSError(28, "No space left on device"), 1, "Free the disk or choose another folder. 9 of"),
    ],
)
def test_a_run_that_is_stopped_goes_on(
    model: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    words: str,
) -> None:
    out, scored = tmp_path / "out", []
    for i in range(6, 10):
        striped(i).save(images / f"{i}.png")
    assert predict(model, images, tmp_path / "whole", "--maps", "npy") == 0
    with pytest.MonkeyPatch.context() as patch:
        stop_after(9, patch, error)
        assert predict(model, images, out, "--maps", "npy", "-q") == status
    assert words in capsys.readouterr().err
    assert not (out / "predictions.csv").exists()
    with (out / ".predictions.jsonl").open("ab") as file:
        file.write(b'{"row": {"path": "torn')  # as a process leaves it that was killed
    striped(9).save(images / "1.png")
    (out / "overlays/2.jpg").unlink()
    stream = Predictor.stream

    def count(self: Predictor, waiting: list[Path], *rest: Any, **more: Any) -> Any:
        scored.extend(path.name for path in waiting)
        return stream(self, waiting, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Predictor, "stream", count)
        assert predict(model, images, out, "--maps", "npy") == 0
    assert scored == [f"{i}.png" for i in (1, 2, 6, 7, 8, 9)]
    assert "4 images of a run that was stopped need not be scored" in capsys.readouterr().out
    assert predict(model, images, tmp_path / "whole", "--maps", "npy") == 0
    ours, whole = contents(out), contents(tmp_path / "whole")
    assert set(ours) == set(whole)
    for name in ("0", "1", "2", "5"):  # batches are others, and so the last digit
        maps = [np.load(folder / f"maps/{name}.npy") for folder in (out, tmp_path / "whole")]
        np.testing.assert_allclose(*maps, rtol=1e-4)
    columns = [
        csv.reader(table["predictions.csv"].decode().splitlines()) for table in (ours, whole)
    ]
    assert [row[0] for row in columns[0]] == [row[0] for row in columns[1]]


def test_what_a_run_gives_is_the_same_wherever_it_was_stopped(
    model: Path, images: Path, tmp_path: Path
) -> None:
    assert predict(model, images, tmp_path / "whole", "-q") == 0
    for n_rows in (1, 5, 6):
        with pytest.MonkeyPatch.context() as patch:
            stop_after(n_rows, patch, KeyboardInterrupt())
            assert predict(model, images, tmp_path / "out", "-q") == 130
        assert predict(model, images, tmp_path / "out", "-q") == 0
        assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("more", [["--false-alarm-rate", "0.3"], ["--no-overlays"]])
def test_another_run_begins_anew_and_says_so(
    model: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
) -> None:
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(4, patch, KeyboardInterrupt())
        assert predict(model, images, out) == 130
    shutil.rmtree(images)
    images.mkdir()
    striped(9).save(images / "9.png")
    assert predict(model, images, out, *more) == 0
    assert "another model or other options. This one begins anew." in capsys.readouterr().out
    kept = set() if "--no-overlays" in more else {"overlays/9.jpg"}
    tables = {"predictions.csv", "predictions.jsonl", ".pictures.json"}
    assert set(contents(out)) == tables | kept


def test_a_used_folder_keeps_no_pictures_of_before(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, words = tmp_path / "out", f"The results in {tmp_path / 'out'} are replaced by new ones."
    assert predict(model, images, out, "--maps", "tiff") == 0
    assert words not in capsys.readouterr().out
    (out / "overlays/mine.jpg").touch()
    (images / "0.png").unlink()
    assert predict(model, images, out) == 0
    assert words in capsys.readouterr().out
    names = {name for name in contents(out) if "/" in name}
    assert names == {"overlays/mine.jpg", *(f"overlays/{i}.jpg" for i in range(1, 6))}


def test_a_list_of_pictures_removes_nothing_else(model: Path, images: Path, tmp_path: Path) -> None:
    out, mine = tmp_path / "out", tmp_path / "mine.jpg"
    out.mkdir()
    for path in (mine, out / "mine.txt"):
        path.touch()
    names = ["overlays/../../mine.jpg", "mine.txt", str(mine), 3]
    (out / ".pictures.json").write_text(json.dumps(names))
    assert predict(model, images, out, "-q") == 0
    assert mine.exists()
    assert (out / "mine.txt").exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"files": ["overlays/../../mine.jpg"]},
        {"files": [3]},
        {"row": {"path": "0.png", "score": "high"}},
        {"row": "none"},
    ],
)
def test_a_row_that_is_not_as_it_was_written_is_not_taken_over(
    model: Path, images: Path, tmp_path: Path, changed: dict[str, object]
) -> None:
    out, mine = tmp_path / "out", tmp_path / "mine.jpg"
    mine.touch()
    with pytest.MonkeyPatch.context() as patch:
        stop_after(4, patch, KeyboardInterrupt())
        assert predict(model, images, out) == 130
    rows = out / ".predictions.jsonl"
    lines = rows.read_text().splitlines()
    lines[-1] = json.dumps(json.loads(lines[-1]) | changed)
    rows.write_text("\n".join([*lines, "[" * 200_000, ""]))
    assert predict(model, images, out, "-q") == 0
    assert mine.exists()
    assert len((out / "predictions.jsonl").read_text().splitlines()) == 6


def test_each_image_has_a_picture_of_its_own(model: Path, tmp_path: Path) -> None:
    names = ["x.jpg", "x.png", "x.jpg.jpg", "x.jpg.png", "X.png"]
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for i, name in enumerate(names):
        striped(i).save(folder / name)
    assert predict(model, folder, out, "--maps", "npy", "-q") == 0
    for kind in ("overlays", "maps"):
        assert len(list((out / kind).iterdir())) == len(names)


@pytest.mark.skipif(os.name == "nt", reason="Windows takes no such path without a setting")
def test_the_trouble_of_one_image_is_its_own(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (out / "overlays/2.jpg").mkdir(parents=True)
    long = images / ("9" * 246 + ".png")
    striped(9).save(tmp_path / "9.png")
    (tmp_path / "9.png").rename(long)
    assert predict(model, images, out, "-q") == 1
    said = capsys.readouterr().err
    assert "error: The pictures of 1 image are not there. " in said
    assert "2.jpg is a folder, but a file is to be written." in said
    with (out / "predictions.csv").open(newline="") as file:
        assert [Path(row["path"]).name for row in csv.DictReader(file)] == sorted(
            path.name for path in images.iterdir()
        )
    assert len(list((out / "overlays").glob("9*.jpg"))) == 1


def test_an_unreadable_image_stops_a_run_that_goes_on_without_it(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "3.png").write_bytes(b"no image")
    assert predict(model, images, tmp_path / "out", "-q") == 1
    assert "3 of 6 images are done: the same command goes on." in capsys.readouterr().err
    assert predict(model, images, tmp_path / "out", "--skip-unreadable") == 0
    assert "of a run that was stopped" not in capsys.readouterr().out  # no batch was whole


def test_two_runs_into_one_folder_keep_apart(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with lock_folder(tmp_path / "out"):
        assert predict(model, images, tmp_path / "out", "-q") == 1
    assert "Another padim is writing into" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_name_is_no_formula_of_a_table(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    names = ["=1+1.png", "+1.png", "-1.png", "@a.png", "\tb.png", "plain.png"]
    if os.name == "nt":
        names.remove("\tb.png")
    for i, name in enumerate(names):
        striped(i).save(folder / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = ["predict", str(model), *(f"./{name}" for name in names), "-o", "out", "-q"]
        assert main(words) == 0
        with Path("out/predictions.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        lines = [
            json.loads(line) for line in Path("out/predictions.jsonl").read_text().splitlines()
        ]
    assert [line["path"] for line in lines] == names
    assert [row["path"] for row in rows] == [
        name if name == "plain.png" else f"'{name}" for name in names
    ]
    assert all(float(row["score"]) == line["score"] for row, line in zip(rows, lines, strict=True))
