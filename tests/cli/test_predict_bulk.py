"""``padim predict --parquet``: as without it, but for a million images."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pytest
from trees import make_category, striped

import padim
from padim.cli import main
from padim.files import lock_folder
from padim.scoring import bulk
from padim.scoring.journal import Run
from padim.scoring.parts import PartFolder
from padim.scoring.predictor import Predictor

N_PART = 8  # two batches


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bulk")
    path = root / "m.safetensors"
    padim.fit(make_category(root / "stripes"), size_px=(64, 64), recipe="fast").save(path)
    return path


@pytest.fixture(autouse=True)
def few_images_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "_MOST_IMAGES", N_PART)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(12):
        striped(i, spot=i == 7).save(folder / f"{i:02}.png")
    return folder


def predict(model: Path, images: Path, out: Path, *more: str) -> int:
    return main(["predict", str(model), str(images), "-o", str(out), *more])


def rows_of(out: Path) -> list[dict[str, object]]:
    table = pyarrow.dataset.dataset(out / "predictions.parquet", format="parquet").to_table()
    rows: list[dict[str, object]] = table.to_pylist()
    return rows


def test_rows_are_those_of_the_plain_command(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(model, images, tmp_path / "plain", "--json", "--maps", "npy") == 0
    plain = json.loads(capsys.readouterr().out)
    more = ("--parquet", "--maps", "zarr", "--json")
    assert predict(model, images, tmp_path / "out", *more) == 0
    document = json.loads(capsys.readouterr().out)
    rows = rows_of(tmp_path / "out")
    for index, (row, line) in enumerate(zip(rows, plain["predictions"], strict=True)):
        assert row.pop("index") == index
        np.testing.assert_allclose(row.pop("coarse_map"), line.pop("coarse_map"), rtol=1e-6)
        assert row == line
        found = padim.read_map(tmp_path / "out", index)
        exact = padim.load(model).predict(str(row["path"])).anomaly_map if index == 7 else found
        np.testing.assert_allclose(found, exact, rtol=0.018)
    hottest = document.pop("hottest")
    assert len(hottest) == 10
    assert hottest[0]["path"] == str(images / "07.png")
    for one in (plain, document):
        del one["out"]
    del plain["predictions"]
    assert document == plain


def test_it_says_where_results_are_and_what_need_not_be_done(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert predict(model, images, out, "--parquet", "--maps", "zarr") == 0
    said = capsys.readouterr().out
    assert "1 of 12 images is anomalous. The most anomalous:\npath" in said
    assert f"Scores and regions: {out / 'predictions.parquet'}. Maps: {out / 'maps.zarr'}." in said
    striped(99).save(images / "11.png")
    assert predict(model, images, out, "--parquet", "--maps", "zarr") == 0
    said = capsys.readouterr().out
    assert "8 images of parts that are whole need not be scored again.\n" in said
    assert predict(model, images, out, "--parquet") == 0
    said = capsys.readouterr().out
    assert "has parts of another model or other options. This run begins anew.\n" in said
    assert not (out / "maps.zarr").exists()


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), 1)]
)
def test_a_run_that_is_stopped_goes_on(
    model: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
) -> None:
    write = PartFolder.write

    def stop(self: PartFolder, part: object) -> None:
        if part.number == 1:  # type: ignore[attr-defined]  # a Part
            raise error
        write(self, part)  # type: ignore[arg-type]  # a Part

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PartFolder, "write", stop)
        assert predict(model, images, tmp_path / "out", "--parquet", "-q") == status
    said = capsys.readouterr().err
    assert "8 of 12 images are done: the same command goes on." in said
    assert len(rows_of(tmp_path / "out")) == 8
    scored: list[str] = []
    stream = Predictor.stream

    def count(self: Predictor, waiting: list[Path], *words: object, traced: bool) -> object:
        scored.extend(path.name for path in waiting)
        return stream(self, waiting, *words, traced=traced)  # type: ignore[arg-type]  # as given

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Predictor, "stream", count)
        assert predict(model, images, tmp_path / "out", "--parquet", "-q") == 0
    assert scored == ["08.png", "09.png", "10.png", "11.png"]
    assert predict(model, images, tmp_path / "whole", "--parquet", "-q") == 0
    for path in (tmp_path / "whole").rglob("*.parquet/*"):
        assert path.read_bytes() == (tmp_path / "out" / path.parent.name / path.name).read_bytes()


def test_the_monitor_reads_the_rows(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plain = tmp_path / "out", tmp_path / "plain"
    assert predict(model, images, out, "--parquet", "-q") == 0
    assert predict(model, images, plain, "--no-overlays", "-q") == 0
    said = []
    for results in (plain, out, out / "predictions.parquet"):
        capsys.readouterr()
        assert main(["monitor", str(results)]) == 0
        said.append(capsys.readouterr())
    assert said[0].out.startswith("12 parts, 11 accepted: no drift.")
    assert said[0] == said[1] == said[2]
    part = out / "predictions.parquet/part-000001.parquet"
    part.write_bytes(b"PAR1")
    assert main(["monitor", str(out)]) == 1
    assert f"{part} cannot be read as Parquet" in capsys.readouterr().err


def test_the_monitor_refuses_a_run_that_is_not_whole(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    parts = out / "predictions.parquet"
    assert predict(model, images, out, "--parquet", "-q") == 0
    capsys.readouterr()
    (parts / "part-000000.parquet").rename(parts / "part-000002.parquet")
    assert main(["monitor", str(out)]) == 1
    said = f"error: {parts} has part-000001.parquet, but not part 0. Run padim predict again.\n"
    assert capsys.readouterr().err == said
    (out / "predictions.json").unlink()
    assert main(["monitor", str(out)]) == 1
    said = f"error: {parts} is not finished. Run padim predict again.\n"
    assert capsys.readouterr().err == said


def test_rows_come_by_the_numbers_of_their_parts(tmp_path: Path) -> None:
    numbers = [2, 1_000_000, 999_999]
    for number in numbers:
        (tmp_path / f"part-{number:06d}.parquet").touch()
    run = Run("0" * 64, "1", "onnxruntime", None, None, None, False, None, 1)
    assert list(PartFolder(tmp_path, run, None).list_files().values()) == sorted(numbers)


def test_another_model_takes_nothing_over(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(model, images, tmp_path / "out", "--parquet", "-q") == 0
    other = tmp_path / "other.safetensors"
    padim.fit([images / f"{i:02}.png" for i in range(5)], size_px=(64, 64), recipe="fast").save(
        other
    )
    assert predict(other, images, tmp_path / "out", "--parquet") == 0
    said = capsys.readouterr()
    assert "This run begins anew." in said.out
    assert "warning: The model was fitted on 5 of 12 images" in said.err
    assert len({row["model_sha256"] for row in rows_of(tmp_path / "out")}) == 1


def test_it_fails_where_an_image_is_anomalous_if_asked(
    model: Path, images: Path, tmp_path: Path
) -> None:
    words = ("--parquet", "--fail-on-anomaly", "-q")
    assert predict(model, images, tmp_path / "out", *words) == 1
    assert predict(model, images, tmp_path / "out", *words) == 1  # of rows that were there
    (images / "07.png").unlink()
    assert predict(model, images, tmp_path / "out", *words) == 0


def test_images_that_cannot_be_read_are_listed_and_have_no_row(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "09.png").write_bytes(b"no image")
    out = tmp_path / "out"
    assert predict(model, images, out, "--parquet", "-q") == 1
    assert "8 of 12 images are done: the same command goes on." in capsys.readouterr().err
    for _ in range(2):
        assert predict(model, images, out, "--parquet", "--skip-unreadable", "--json") == 0
        document = json.loads(capsys.readouterr().out)
        assert document["unreadable"] == [str(images / "09.png")]
        assert document["n_images"] == 11
    assert [row["index"] for row in rows_of(out)] == [*range(9), 10, 11]
    for path in images.iterdir():
        path.write_bytes(b"no image")
    assert predict(model, images, out, "--parquet", "--skip-unreadable", "-q") == 1
    assert "Nothing was judged: of 12 images none could be read." in capsys.readouterr().err


def test_a_folder_that_is_another_runs_or_no_folder_is_refused(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with lock_folder(tmp_path / "out"):
        assert predict(model, images, tmp_path / "out", "--parquet", "-q") == 1
    assert "Another padim is writing into" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert predict(model, images, tmp_path / "file", "--parquet", "-q") == 1
    assert "is no folder. Choose another place." in capsys.readouterr().err
    assert predict(model, images, tmp_path / "tables", "--no-overlays", "-q") == 0
    assert predict(model, images, tmp_path / "tables", "--parquet", "-q") == 2
    assert "has predictions.csv, results as CSV, but Parquet needs" in capsys.readouterr().err
    assert predict(model, images, tmp_path / "parts", "--parquet", "-q") == 0
    assert predict(model, images, tmp_path / "parts", "-q") == 2
    assert "has results in Parquet, but others need a folder of their" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--parquet", "--maps", "npy"), "Take --maps zarr."),
        (("--maps", "zarr"), "--maps zarr is for --parquet."),
        (("--parquet", "-"), "--parquet takes files, but - is a pipe."),
        (("--parquet", "--min-region-px", "0"), "--min-region-px is 0, but needs to be 1"),
    ],
)
def test_what_does_not_go_together_is_refused(
    model: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    words: str,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert predict(model, images, tmp_path / "out", *more) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
