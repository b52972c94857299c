"""Real processes of torchrun: two of them give the bytes that one gives."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from trees import striped

from padim.cli import main

FORGETFUL = """
from functools import partial

from padim.workers import ranks


def count(_item, tell, *, given):
    return given.get(), len(ranks._blobs)


if ranks.is_first():
    with ranks.lead(2) as workers:
        kept = workers.put("kept")
        for i in range(4):
            for one in workers.map(partial(count, given=workers.put(i)), range(2), print):
                print(*one.result)
        for one in workers.map(partial(count, given=kept), range(2), print):
            print(*one.result)
else:
    ranks.follow()
"""
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    for i in range(12):
        striped(i).save(folder / f"{i:02}.png")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test puts its model, for those behind it."""
    return tmp_path_factory.mktemp("model") / "part.safetensors"


def run(n_ranks: int, *words: object) -> subprocess.CompletedProcess[str]:
    given = [*TORCHRUN, str(n_ranks), "-m", "padim", *map(str, words), "--cluster", "torchrun"]
    return subprocess.run(given, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_two_ranks_fit_the_bytes_that_one_fits(folder: Path, model: Path, tmp_path: Path) -> None:
    models = [tmp_path / f"{n}.safetensors" for n in (1, 2)]
    for n, out in enumerate(models, start=1):
        done = run(n, "fit", folder, "-o", out, "--size-px", 64, "--n-threads", 2)
        assert done.returncode == 0, done.stderr
        assert f"Cluster: torchrun, {n} rank" in done.stdout
        assert done.stdout.count("fitted on 12 images") == 1
    assert models[0].read_bytes() == models[1].read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in models}
    shutil.copyfile(models[0], model)


@pytest.mark.slow
def test_two_ranks_write_the_rows_that_one_process_writes(
    folder: Path, model: Path, tmp_path: Path
) -> None:
    done = run(2, "predict", model, folder, "-o", tmp_path / "two", "--no-overlays")
    assert done.returncode == 0, done.stderr
    assert main(["predict", str(model), str(folder), "-o", str(tmp_path / "one"), "-q"]) == 0
    two, one = ((tmp_path / name / "predictions.csv").read_text() for name in ("two", "one"))
    assert two == one


@pytest.mark.slow
def test_what_one_rank_cannot_read_is_said_once(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "good"
    broken.mkdir()
    for path in folder.iterdir():
        (broken / path.name).symlink_to(path)
    (broken / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = run(2, "fit", broken, "-o", tmp_path / "a.safetensors", "--size-px", 64)
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1
    assert "torn.png" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"good", "a.safetensors.begun"}
    assert "a.safetensors.begun keeps what is done: the same command goes on." in done.stderr


@pytest.mark.slow
def test_what_nobody_holds_is_forgotten_by_all_ranks(tmp_path: Path) -> None:
    script = tmp_path / "forgetful.py"
    script.write_text(FORGETFUL)
    done = subprocess.run(
        [*TORCHRUN, "2", script], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split("\n") == [f"{i} 2" for i in (0, 0, 1, 1, 2, 2, 3, 3)] + [
        "kept 2",
        "kept 2",
        "",
    ]


def test_what_torchrun_has_not_started_is_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "TORCHELASTIC_RUN_ID" not in os.environ
    out = tmp_path / "a.safetensors"
    assert main(["fit", str(folder), "-o", str(out), "--cluster", "torchrun"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: --cluster torchrun is for what torchrun starts")
    assert not list(tmp_path.iterdir())
