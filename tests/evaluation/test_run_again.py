"""A benchmark that is run again, is interrupted, or meets what cannot be foreseen."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from trees import benchmark, make_category, make_fingerprint, make_record, make_two_categories

from padim.datasets import Category
from padim.errors import PadimError
from padim.evaluation.category import evaluate
from padim.evaluation.job import Job, remove_half_done
from padim.evaluation.processes import Ended
from padim.evaluation.record import Record, read_record, record_name, write_record
from padim.files import lock_folder
from padim.tensors.file_tensor import write_tensors


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


def test_an_interrupted_rerun_leaves_what_it_has_not_begun(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert benchmark(root, out, "-q") == 0
    bottle, carpet = of("bottle", out), of("carpet", out)

    def interrupt(*_: object, **__: object) -> None:
        assert (out / "records/carpet.json").exists()
        assert document(out)["rows"] == []
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("padim.model.file.write_tensors", interrupt)
        assert benchmark(root, out, "--eps", "0.02", "-q") == 130
    assert (of("bottle", out), of("carpet", out)) == (set(), carpet)
    assert events(out)[-1]["event"] == "stopped"
    assert events(out)[-1]["type"] == "KeyboardInterrupt"

    capsys.readouterr()
    assert benchmark(root, out) == 0
    assert "carpet: finished before" in capsys.readouterr().out
    assert of("bottle", out) == bottle


def test_an_interrupted_run_has_tables_of_what_is_finished(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert benchmark(root, out, "--eps", "0.02", "-q") == 0

    def mistaken(tensors: Any, path: Path, metadata: Any) -> None:
        if "carpet" in path.name:
            raise ZeroDivisionError
        write_tensors(tensors, path, metadata)

    monkeypatch.setattr("padim.model.file.write_tensors", mistaken)
    with pytest.raises(ZeroDivisionError):
        benchmark(root, out, "-q")
    assert [row["category"] for row in document(out)["rows"]] == ["bottle"]
    assert "carpet" not in (out / "images.jsonl").read_text()
    assert not of("carpet", out)
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
    out, words = tmp_path / "out", ("--category", "carpet", "--dims", "20", "-q")
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
def test_a_damaged_record_is_none(tmp_path: Path, damage: str) -> None:
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
    assert read_record(tmp_path, "carpet") is None


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
    scratches: list[Path] = []

    def measured(predictor: Any, category: Category, **rest: Any) -> Any:
        scratches.append(rest["scratch"])
        return evaluate(predictor, category, **rest)

    def first_dies(
        work: Any, jobs: Sequence[Job], n: int, hear: Any, clean_up: Callable[[Job], None]
    ) -> Iterator[Ended[Any, Any]]:
        dead, alive = jobs
        (out / "models").mkdir()
        (out / "models" / f".{dead.name}-abcd1234.safetensors").touch()
        (work.keywords["scratch"] / "maps").touch()
        clean_up(dead)
        yield Ended(dead, None, ("ProcessDied", "Its process was ended by signal 9."))
        yield Ended(alive, work(alive, lambda content: None), None)

    monkeypatch.setattr("padim.evaluation.job.evaluate", measured)
    monkeypatch.setattr("padim.evaluation.run.in_processes", first_dies)
    assert benchmark(root, out, "--workers", "2", "-q") == 1
    assert [row["category"] for row in document(out)["rows"]] == ["carpet"]
    assert not of("bottle", out)
    (scratch,) = scratches
    assert not scratch.exists()


def test_whole_results_and_those_of_others_stay(tmp_path: Path) -> None:
    job = Job(Category("a", tmp_path, (), ()), 0, make_fingerprint())
    other = tmp_path / "models/.a-b-abcd1234.safetensors"
    for path in (tmp_path / "models/a.safetensors", other, tmp_path / "records/a.json"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    remove_half_done(job, tmp_path)
    assert (tmp_path / "models/a.safetensors").exists()
    (tmp_path / "records/a.json").unlink()
    remove_half_done(job, tmp_path)
    assert list((tmp_path / "models").iterdir()) == [other]


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
