import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from padim import temporary
from padim.files import lock_new, write_text, write_whole
from padim.temporary import TemporaryFolder, name_temporary, sweep, sweep_once


def make_left(folder: Path, suffix: str = "") -> Path:
    """A temporary file of a process that is gone."""
    code = f"from padim.temporary import *; print(name_temporary({suffix!r}))"
    words = [sys.executable, "-c", code]
    name = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    left = folder / name
    left.write_text("left")
    return left


def test_what_a_dead_process_left_goes_with_the_next_file_that_is_written(tmp_path: Path) -> None:
    left = make_left(tmp_path, ".safetensors")
    folder = tmp_path / left.name.replace(".safetensors", "x")
    folder.mkdir()
    (folder / "deep").touch()
    write_text(tmp_path / "new", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_what_lives_or_is_of_others_stays(tmp_path: Path) -> None:
    _, machine, boot, pid, token = make_left(tmp_path).name.split("-")
    alive = os.getpid()
    kept = [
        f".padim-{machine}-{boot}-{alive}-{token}",
        f".padim-00000000-{boot}-{pid}-{token}",  # of another machine
        f".padim-{machine}-{boot}-abcd-{token}",
        ".padim-notes",
        "padim-00000000",
    ]
    for name in (*kept, f".padim-{machine}-00000000-{alive}-{token}"):  # before it was started anew
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(kept)


def test_a_temporary_folder_of_the_system_is_swept_and_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    sweep_once.cache_clear()
    left = make_left(tmp_path)
    with TemporaryFolder() as folder:
        assert folder.parent == tmp_path
        assert not left.exists()
        if sys.platform != "win32":
            assert folder.stat().st_mode & 0o777 == 0o700
    assert not list(tmp_path.iterdir())


def test_a_system_without_room_for_temporary_files_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    with pytest.raises(OSError, match="Name a folder for temporary files in the variable TMPDIR"):
        TemporaryFolder()


def test_an_interruption_while_a_folder_is_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(temporary, "sweep_once", interrupt)
    with pytest.raises(KeyboardInterrupt):
        TemporaryFolder(tmp_path / "out")
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_whoever_is_the_last_to_leave_a_new_folder_removes_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with lock_new(out / "model", is_one_of_several=False):
        held = TemporaryFolder(out)  # as a traceback holds it
    assert out.exists()
    del held
    assert not list(tmp_path.iterdir())


def test_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with TemporaryFolder(out):
        pass
    with pytest.raises(KeyboardInterrupt), write_whole(out / "file"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_that_another_made_anew_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with TemporaryFolder(out):
        pass
    out.mkdir()
    with TemporaryFolder(out):
        pass
    assert list(tmp_path.iterdir()) == [out]


def test_a_name_is_never_longer_than_a_folder_takes() -> None:
    assert len(name_temporary("." + "x" * 250)) < 60
    assert name_temporary(".tiff").endswith(".tiff")
    assert len(temporary.name_temporary(".safetensors")) < 80
