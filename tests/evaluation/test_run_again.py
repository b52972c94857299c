"""A benchmark that is run again, is interrupted, or meets what cannot be foreseen."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from trees import (
    benchmark,
    make_category,
    make_fingerprint,
    make_record,
    make_two_categories,
    striped,
)

from padim.datasets import Category
from padim.errors import DatasetError, PadimError
from padim.evaluation.category import evaluate
from padim.evaluation.job import Job, complete, find_ready
from padim.evaluation.record import Record, read_record, record_name, write_record
from padim.files import lock_folder
from padim.workers.processes import Processes
from padim.workers.protocol import Ended


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_two_categories(tmp_path / "data")


def document(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


def events(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def of(name: str, out: Path) -> set[Path]:
    """The files of a category and its folders, but not empty folders."""
    return {path for path in out.rglob("*") if path.is_file() and name in str(path)}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("test/good/0.png,test,good", "test/good/0.png,test,spot"),
        ("train/good/0.png,train,good", "train/good/0.png,test,good"),
        ("spot/0.png,test,spot,{}/0_mask", "spot/0.png,test,spot,{}/1_mask"),
    ],
    ids=["label", "split", "mask"],
)
def test_another_meaning_of_the_same_files_is_another_benchmark(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], before: str, after: str
) -> None:
    carpet, out = root / "carpet", tmp_path / "out"
    lines = ["path,split,label,mask"]
    for path in sorted(carpet.glob("t*/*/*.png")):
        name, kind = path.relative_to(carpet).as_posix(), path.parent.name
        mask = f"ground_truth/spot/{path.stem}_mask.png" if kind == "spot" else ""
        lines.append(f"{name},{path.parts[-3]},{kind},{mask}")
    text = "\n".join(lines)
    before, after = (words.replace("{}", "ground_truth/spot") for words in (before, after))
    assert before in text
    (carpet / "manifest.csv").write_text(text)
    words = ("--layout", "manifest")
    assert benchmark(carpet, out, *words) == 0
    assert benchmark(carpet, out, *words) == 0
    assert "carpet: finished before" in capsys.readouterr().out
    (carpet / "manifest.csv").write_text(text.replace(before, after))
    assert benchmark(carpet, out, *words) == 0
    said = capsys.readouterr().out
    assert "its test images and what is known of them" in said
    assert "finished before" not in said


def test_other_saturations_are_another_benchmark(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, config = tmp_path / "out", root / "carpet/defects_config.json"
    kind = {"defect_name": "spot", "pixel_value": 255, "relative_saturation": False}
    words = ("--category", "carpet", "--layout", "mvtec-loco")
    config.write_text(json.dumps([kind | {"saturation_threshold": 10}]))
    assert benchmark(root, out, *words) == 0
    before = document(out)["rows"][0]["spro_05"]
    config.write_text(json.dumps([kind | {"saturation_threshold": 150}]))
    capsys.readouterr()
    assert benchmark(root, out, *words) == 0
    assert "because of the saturations of its defects." in capsys.readouterr().out
    assert document(out)["rows"][0]["spro_05"] != before

    assert benchmark(root, out, "--category", "carpet", "--layout", "mvtec") == 0
    assert "its layout" in capsys.readouterr().out


def test_what_is_missing_is_made_again(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, words = tmp_path / "out", ("--category", "carpet", "--keep-maps")
    assert benchmark(root, out, *words) == 0
    for what, path in {
        "model": "models/carpet.safetensors",
        "preview": "previews/carpet.npy",
        "pictures": "pictures/carpet",
        "maps": "maps/carpet/00003.npy",
    }.items():
        gone = out / path
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
        capsys.readouterr()
        assert benchmark(root, out, *words) == 0
        assert f"carpet: done again, because of missing {what}.\n" in capsys.readouterr().out
        assert gone.exists()
    model = out / "models/carpet.safetensors"
    whole = model.read_bytes()
    model.write_bytes(whole[:-100])
    assert benchmark(root, out, *words) == 0
    assert "done again, because of missing a part of the model.\n" in capsys.readouterr().out
    assert model.read_bytes() == whole


def test_an_interrupted_rerun_leaves_what_it_has_not_finished(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert benchmark(root, out, "-q") == 0
    before, tables = {path: path.read_bytes() for path in of("", out)}, document(out)
    striped(99).save(root / "bottle/train/good/0.png")

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("padim.model.file.write_tensors", interrupt)
        assert benchmark(root, out, "-q") == 130
    assert document(out) == tables
    assert events(out)[-1]["event"] == "stopped"
    assert events(out)[-1]["type"] == "KeyboardInterrupt"
    del before[out / "log.jsonl"]
    assert {path: path.read_bytes() for path in of("", out) if path.name != "log.jsonl"} == before

    capsys.readouterr()
    assert benchmark(root, out) == 0
    said = capsys.readouterr().out
    assert "bottle: done again, because of its images." in said
    assert "carpet: finished before" in said
    model = out / "models/bottle.safetensors"
    assert model.read_bytes() != before[model]


def test_results_that_were_ready_take_their_places_whenever_that_is_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(Category("a", tmp_path, (), ()), 0, make_fingerprint())
    old = ("records/a.json", "records/a.npz", "models/a.safetensors", "maps/a/0.npy")
    new = (*old[:3], "pictures/a/0.png")
    replace, rename = Path.replace, os.rename
    for n_moves in range(6):

        def write(folder: Path, names: tuple[str, ...], text: str) -> None:
            for name in names:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(text)

        out, left = tmp_path / f"out{n_moves}", n_moves
        write(out, old, "old")
        write(find_ready(job, out), new, "new")
        places = '["record", "arrays", "model", "pictures"]'
        written = f'{{"category": "a", "seed": 0, "places": {places}}}'
        (find_ready(job, out) / "written.json").write_text(written)

        def count() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise SystemExit

        monkeypatch.setattr(Path, "replace", lambda *words: (count(), replace(*words))[1])
        monkeypatch.setattr(os, "rename", lambda *words: (count(), rename(*words))[1])
        with suppress(SystemExit):
            complete(out)
        assert (left < 0) == (out / f"{find_ready(job, out).name}/written.json").exists()
        monkeypatch.setattr(Path, "replace", replace)
        monkeypatch.setattr(os, "rename", rename)
        complete(out)
        complete(out)
        assert {path.relative_to(out).as_posix() for path in of("", out)} == set(new)
        assert all(path.read_text() == "new" for path in of("", out))
    assert left == 1


def test_a_benchmark_of_another_release_takes_no_place_unless_told_to(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out/results.json"
    path.parent.mkdir()
    path.write_text('{"schema_version": 1}')
    assert benchmark(root, path.parent, "-q") == 2
    assert "a benchmark that this release cannot read. Replace" in capsys.readouterr().err
    assert path.read_text() == '{"schema_version": 1}'


def test_what_was_ready_of_a_category_takes_its_places_in_a_run_of_others(
    root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    job = Job(Category("carpet", root / "carpet", (), ()), 0, make_fingerprint())
    model = find_ready(job, out) / "models/carpet.safetensors"
    model.parent.mkdir(parents=True)
    model.write_text("whole")
    written = {"category": "carpet", "seed": 0, "places": ["model"]}
    (find_ready(job, out) / "written.json").write_text(json.dumps(written))
    assert benchmark(root, out, "--category", "bottle", "-q") == 0
    assert (out / "models/carpet.safetensors").read_text() == "whole"
    assert not list(out.glob(".*.ready"))


def test_a_list_of_what_is_ready_that_is_none_is_refused(tmp_path: Path) -> None:
    job = Job(Category("a", tmp_path, (), ()), 0, make_fingerprint())
    find_ready(job, tmp_path).mkdir()
    for text in ("5", "[5]", "[" * 200_000):
        (find_ready(job, tmp_path) / "written.json").write_text(text)
        with pytest.raises(DatasetError, match=r"written\.json cannot be understood.*Remove"):
            complete(tmp_path)


def test_an_interrupted_run_has_tables_of_what_is_finished(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert benchmark(root, out, "--eps", "0.02", "-q") == 0
    assert benchmark(root, out, "-q") == 2

    def mistaken(predictor: Any, category: Category, **rest: Any) -> Any:
        if category.name == "carpet":
            raise ZeroDivisionError
        return evaluate(predictor, category, **rest)

    monkeypatch.setattr("padim.evaluation.job.evaluate", mistaken)
    with pytest.raises(ZeroDivisionError):
        benchmark(root, out, "--overwrite", "-q")
    assert [row["category"] for row in document(out)["rows"]] == ["bottle"]
    assert "carpet" not in (out / "images.jsonl").read_text()
    assert [event["event"] for event in events(out)[-2:]] == ["finished", "stopped"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "The memory ran out."),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "The memory ran out."),
        (OSError(28, "No space left on device"), "No space left on device. Free the disk"),
    ],
    ids=["memory", "allocator", "disk"],
)
def test_a_category_that_needs_too_much_does_not_stop_the_others(
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    words: str,
) -> None:
    def measured(predictor: Any, category: Category, **rest: Any) -> Any:
        if category.name == "bottle":
            raise error
        return evaluate(predictor, category, **rest)

    monkeypatch.setattr("padim.evaluation.job.evaluate", measured)
    assert benchmark(root, tmp_path / "out", "-q") == 1
    assert f"1 of 2 categories failed. bottle: {words}" in capsys.readouterr().err
    assert [row["category"] for row in document(tmp_path / "out")["rows"]] == ["carpet"]


def test_a_category_fails_once_however_many_seeds(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(job: Job, *_: object) -> Record:
        raise PadimError(f"Not with {job.seed}.")

    monkeypatch.setattr("padim.evaluation.run.run_job", refuse)
    assert benchmark(root, tmp_path / "out", "--dims", "20", "--seeds", "2", "-q") == 1
    said = "2 of 2 categories failed. bottle: Not with 0. carpet: Not with 0."
    assert capsys.readouterr().err == f"error: {said}\n"
    assert len(document(tmp_path / "out")["failed"]) == 2
    assert [event["event"] for event in events(tmp_path / "out")].count("failed") == 4


def test_more_seeds_keep_those_that_are_there(root: Path, tmp_path: Path) -> None:
    # In torch each seed's choice of dimensions need not be written as a graph first.
    words = ("--category", "carpet", "--dims", "20", "--engine", "torch", "-q")
    out = tmp_path / "out"
    assert benchmark(root, out, *words) == 0
    assert benchmark(root, out, *words, "--seeds", "2") == 0
    assert [event["event"] for event in events(out)[-4:]] == [
        "started",
        "reused",
        "finished",
        "ended",
    ]
    assert document(out)["settings"]["n_seeds"] == 2
    assert len(list(out.glob("models/**/*.safetensors"))) == 2


def test_no_two_records_have_one_name() -> None:
    categories = ["x", "x.seed1", "x@seed1", "seed1", "seed1.x"]
    names = [record_name(category, seed) for category in categories for seed in range(3)]
    assert len({name.casefold() for name in names}) == len(names)


@pytest.mark.parametrize("damage", ["cut", "empty", "list", "number", "type", "lack", "masks"])
def test_a_damaged_record_is_refused(tmp_path: Path, damage: str) -> None:
    write_record(make_record("carpet", metrics={"image_auroc": 0.9}), tmp_path)
    assert read_record(tmp_path, "carpet") is not None
    document, arrays = (tmp_path / f"records/carpet.{suffix}" for suffix in ("json", "npz"))
    if damage in ("cut", "empty"):
        arrays.write_bytes(arrays.read_bytes()[:200] if damage == "cut" else b"")
    elif damage == "type":
        document.write_text(document.read_text().replace('"n_train": 3', '"n_train": "3"'))
    elif damage == "masks":
        document.write_text(document.read_text().replace('"masks": []', '"masks": [[]]'))
    elif damage == "lack":
        document.write_text(document.read_text().replace('"colormap"', '"colors"'))
    else:
        document.write_text("[]" if damage == "list" else "3")
    with pytest.raises(
        DatasetError, match=r"carpet\.json cannot be understood: .* benchmark again"
    ):
        read_record(tmp_path, "carpet")


def test_a_name_need_not_be_text_nor_fit_a_table(tmp_path: Path) -> None:
    name, out = os.fsdecode(b"caf\xe9|(M8)"), tmp_path / "out"
    try:
        make_category(tmp_path / "data" / name)
    except OSError:
        pytest.skip("file names are text here")
    assert benchmark(tmp_path / "data", out, "-q") == 0
    assert document(out)["rows"][0]["category"] == name
    table = (out / "results.md").read_bytes()
    assert b"| caf\xe9\\|(M8) |" in table
    assert name in (out / "results.csv").read_text(errors="surrogateescape")


def test_what_a_dead_process_left_is_removed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def first_dies(
        self: Processes, work: Any, jobs: Sequence[Job], hear: Any, clean_up: Callable[[Job], None]
    ) -> Iterator[Ended[Any, Any]]:
        dead, alive = jobs
        left = subprocess.run(
            [sys.executable, "-c", "from padim.temporary import *; print(name_temporary())"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        (out / left).mkdir()
        (out / left / dead.name).touch()
        clean_up(dead)
        yield Ended(dead, None, ("ProcessDied", "Its process was ended by signal 9."))
        yield Ended(alive, work(alive, lambda content: None), None)

    monkeypatch.setattr(Processes, "map", first_dies)
    assert benchmark(root, out, "--workers", "2", "-q") == 1
    assert [row["category"] for row in document(out)["rows"]] == ["carpet"]
    assert not of("bottle", out)


def test_another_benchmark_takes_no_place_unless_told_to(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert benchmark(root, out, "-q") == 0
    (out / "report.html").touch()
    before = {path: path.read_bytes() for path in of("", out)}
    for more, words in (
        (("--category", "carpet"), "holds a benchmark of bottle as well."),
        (("--eps", "0.02"), "holds a benchmark with another eps."),
    ):
        capsys.readouterr()
        assert benchmark(root, out, *more, "-q") == 2
        said = capsys.readouterr().err
        assert words in said
        assert "with --overwrite, or choose another folder." in said
        assert {path: path.read_bytes() for path in of("", out)} == before
        assert benchmark(root, out, *more, "--overwrite", "-q") == 0
        assert not (out / "report.html").exists()
        assert benchmark(root, out, "--overwrite", "-q") == 0
        (out / "report.html").touch()
        before = {path: path.read_bytes() for path in of("", out)}
    assert benchmark(root, out, "-q") == 0
    assert (out / "report.html").exists()


@pytest.mark.parametrize("place", ["data", "data/bottle/test", "data/out", "mine"])
def test_results_do_not_go_among_images(
    tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_two_categories(tmp_path / "data")
    (tmp_path / "mine").mkdir()
    striped(0).save(tmp_path / "mine/a.png")
    before = sorted(tmp_path.rglob("*"))
    assert benchmark(tmp_path / "data", tmp_path / place) == 2
    assert re.search("where the images are|holds images", capsys.readouterr().err)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_is_written_by_one_benchmark_at_a_time(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with lock_folder(out):
        assert benchmark(root, out, "-q") == 1
        assert f"Another padim is writing into {out}." in capsys.readouterr().err
        with pytest.raises(PadimError, match="choose another folder"), lock_folder(out):
            pass
    assert not (out / "log.jsonl").exists()
    with lock_folder(out):
        pass


def test_a_budget_of_memory_is_for_the_waiting_process_too(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("padim.cli.benchmark_command.resident_bytes", lambda: 10**15)
    assert benchmark(root, tmp_path / "out", "--workers", "2", "--max-memory", "1000TB") == 0
    assert "1000TB allow 1 at a time." in capsys.readouterr().out


def test_results_are_told_before_they_are_sent(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    away = ("--mlflow", "nonsense://nowhere")
    (root / "bottle/test/spot/1.png").write_bytes(b"not an image")
    assert benchmark(root, out, *away) == 1
    captured = capsys.readouterr()
    assert "### Every metric" in captured.out
    assert "1 of 2 categories failed. bottle: " in captured.err
    assert "MLflow at nonsense://nowhere did not take the results" in captured.err

    assert benchmark(root, out, "--category", "carpet", "--json", *away) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out) == document(out)
    assert "did not take the results" in captured.err
