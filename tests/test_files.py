import errno
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import product
from pathlib import Path, PurePath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import make_category, striped

from padim.cli import main
from padim.cli.images import name_outputs
from padim.errors import PadimError, UsageError, failure_of
from padim.evaluation.run_folder import record_name
from padim.files import (
    Names,
    complete,
    lock_file,
    lock_folder,
    lock_new,
    move,
    safe_name,
    same_name,
    write_text,
    write_together,
    write_whole,
)
from padim.temporary import sweep


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("0017", "0017"),
        ("Kratzer groß, 3. Teil", "Kratzer groß, 3. Teil"),
        (".hidden", ".hidden"),
        ("console", "console"),
        ("con", "_con"),
        ("NUL", "_NUL"),
        ("aux.2024", "_aux.2024"),
        ("com1", "_com1"),
        ("lpt\u00b2 .x", "_lpt\u00b2 .x"),
        ("2024-05-01T10:00:00", "2024-05-01T10_00_00"),
        ('a<b>c:d"e/f\\g|h?i*j\tk', "a_b_c_d_e_f_g_h_i_j_k"),
        ("end.", "end_"),
        ("end ", "end_"),
        ("..", "._"),
        ("a" * 240, "a" * 240),
        ("a" * 231 + "b" * 20, "a" * 231 + "-47c811e2"),
        (os.fsdecode(b"caf\xe9"), os.fsdecode(b"caf\xe9")),
    ],
)
def test_a_name_that_some_system_refuses_is_made_safe(name: str, safe: str) -> None:
    assert safe_name(name) == safe


@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(' .:con1"'), min_size=1))
def test_a_safe_name_is_safe_and_stays(name: str) -> None:
    safe = safe_name(name)
    assert safe_name(safe) == safe
    assert len(os.fsencode(safe)) <= 240
    assert not PureWindowsPath(safe).is_reserved()
    assert PureWindowsPath(safe).name == PurePath(safe).name == safe


def test_no_two_outputs_have_one_name_on_any_system() -> None:
    names = Names()
    assert names.take("spot/a", "spot/a.png") == Path("spot/a")
    assert names.take("spot/A", "spot/A.png") == Path("spot/A.png")
    assert names.take("spot/a", "spot/a.png") == Path("spot/a.png-2")
    assert names.take("con/caf\u00e9") == Path("_con/caf\u00e9")
    assert names.take("con/cafe\u0301") == Path("_con/cafe\u0301-2")


def test_images_are_named_apart_where_letters_have_no_case() -> None:
    chosen = [Path(f"/in/{name}") for name in ("a.png", "A.png", "b.png", "b.jpg", "con.png")]
    named = {path.name: name for path, name in name_outputs(chosen, [Path("/in/a.png")]).items()}
    assert named == {
        "a.png": Path("a.png"),
        "A.png": Path("A.png-2"),
        "b.png": Path("b.png"),
        "b.jpg": Path("b.jpg"),
        "con.png": Path("_con"),
    }


def test_images_on_two_drives_are_named_by_the_whole_way_simulated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(paths: object) -> None:  # as ntpath.commonpath does
        raise ValueError("Paths don't have the same drive")

    monkeypatch.setattr(os.path, "commonpath", refuse)
    chosen = [Path("/c/in/0.png"), Path("/d/in/0.png")]
    assert list(name_outputs(chosen, chosen).values()) == [Path("c/in/0"), Path("d/in/0")]


@pytest.mark.slow
def test_results_of_odd_names_are_written_under_safe_ones(tmp_path: Path) -> None:
    category = make_category(tmp_path / "aux.1")
    (category / "test/spot").rename(category / "test/a:b")
    (category / "ground_truth/spot").rename(category / "ground_truth/a:b")
    (category / "test/a:b/0.png").rename(category / "test/a:b/nul.png")
    (category / "ground_truth/a:b/0_mask.png").rename(category / "ground_truth/a:b/nul_mask.png")
    out = tmp_path / "out"
    for _ in range(2):  # and it is found again
        assert main(["benchmark", str(category), "-o", str(out), "--size", "64", "-q"]) == 0
    assert (out / "models/_aux.1.safetensors").exists()
    assert record_name("aux.1", 2) == "seed2/_aux.1"
    pictures = {path.name for path in (out / "pictures/_aux.1").iterdir()}
    assert {"a_b_nul.png", "a_b_1.png", "good_0.png"} <= pictures
    for path in out.rglob("*"):
        assert path.name == safe_name(path.name)
    assert main(["report", str(out), "-q"]) == 0


@pytest.mark.slow
def test_categories_that_are_one_file_are_refused_where_they_would_be_simulated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("Bolt", "bolt"):
        make_category(tmp_path / "in" / name, n_test=1)
    out = tmp_path / "out"
    arguments = ["benchmark", str(tmp_path / "in"), "-o", str(out), "--size", "64", "-q"]
    out.mkdir()
    (out / ".LOCK").touch()  # where letters have no case, it is there as soon as .lock is
    assert main(arguments) == 1
    assert "The categories Bolt and bolt would be one file in" in capsys.readouterr().err
    (out / ".LOCK").unlink()
    assert main(arguments) == 0
    assert {path.stem for path in (out / "models").iterdir()} == {"Bolt", "bolt"}


# Replacing


def held_open(n_times: int, winerror: int | None = 32) -> object:
    """Stands in for Windows, which renames nothing to the name of a file that is open."""
    replace = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        nonlocal n_times
        n_times -= 1
        if n_times < 0:
            return replace(self, target)
        error = PermissionError(errno.EACCES, "The process cannot access the file", str(self))
        error.winerror = winerror  # type: ignore[attr-defined]  # typeshed has it on Windows alone
        raise error

    return refuse


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


def test_a_file_that_is_held_open_for_a_moment_is_replaced_simulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    (tmp_path / "m").write_text("old")
    monkeypatch.setattr(Path, "replace", held_open(2))
    write_text(tmp_path / "m", "new")
    assert (tmp_path / "m").read_text() == "new"
    assert waits == [0.1, 0.2]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_that_stays_open_stays_as_it_was_simulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    (tmp_path / "m").write_text("old")
    monkeypatch.setattr(Path, "replace", held_open(99, winerror=5))
    with pytest.raises(PadimError, match=r"m cannot be replaced while another program has it open"):
        write_text(tmp_path / "m", "new")
    with pytest.raises(PadimError, match=r"Close it there"), write_together(tmp_path / "m") as m:
        m.write_text("new")
    assert (tmp_path / "m").read_text() == "old"
    assert sum(waits) == pytest.approx(2 * 3.1)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_refusal_of_another_kind_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    monkeypatch.setattr(Path, "replace", held_open(9, winerror=None))
    with pytest.raises(PermissionError):
        write_text(tmp_path / "m", "new")
    assert not waits
    assert not list(tmp_path.iterdir())


def test_a_folder_without_locks_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock.FileLock._acquire", refuse)
    with lock_folder(tmp_path / "out"):
        pass


def test_a_new_file_is_written_by_one_whether_or_not_it_stands_alone(tmp_path: Path) -> None:
    path = tmp_path / "new/m.safetensors"
    for one, other in product((False, True), repeat=2):
        with (
            lock_new(path, is_one_of_several=one),
            pytest.raises(PadimError, match="Another padim is changing"),
            lock_new(path, is_one_of_several=other),
        ):
            pass
        assert not path.parent.exists()
    with lock_new(path, is_one_of_several=False):
        path.touch()
    assert list(path.parent.iterdir()) == [path]


def test_the_longest_name_leaves_room_to_be_written(tmp_path: Path) -> None:
    name = safe_name("x" * 400)
    with write_whole(tmp_path / f"{name}.tiff") as partial:
        striped(0).save(partial)
    assert [path.stem for path in tmp_path.iterdir()] == [name]
    assert same_name(name) == name


@pytest.mark.parametrize("writer", [write_whole, write_together])
def test_a_file_replaces_neither_folder_nor_device(
    writer: Callable[[Path], AbstractContextManager[Path]], tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    kinds = {"folder": "folder"}
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "pipe")
        kinds["pipe"] = "device"
    for name, kind in kinds.items():
        with (
            pytest.raises(UsageError, match=f"is a {kind}, but a file is to be written"),
            writer(tmp_path / name),
        ):
            pass
    assert {one.name for one in tmp_path.iterdir()} == set(kinds)
    assert not any(one.is_file() for one in tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="modes and links of POSIX")
@pytest.mark.parametrize("writer", [write_whole, write_together])
def test_rights_and_links_of_what_is_replaced_are_kept(
    writer: Callable[[Path], AbstractContextManager[Path]], tmp_path: Path
) -> None:
    (tmp_path / "store").mkdir()
    target, link = tmp_path / "store/m.bin", tmp_path / "m.bin"
    link.symlink_to(target)
    for text, mode in (("old", 0o600), ("new", 0o440), ("newer", 0o604)):
        with writer(link) as partial:
            partial.write_text(text)
        assert target.read_text() == text
        target.chmod(mode)
        with writer(link) as partial:
            assert partial.parent in (target.parent, *target.parent.iterdir())
            partial.write_text(text)
        assert target.stat().st_mode & 0o777 == mode
    assert link.is_symlink()
    assert [path.name for path in target.parent.iterdir()] == ["m.bin"]


def test_a_file_moves_to_another_disk_simulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "source", tmp_path / "deep/target"
    target.parent.mkdir()
    source.write_text("new")
    replace = Path.replace

    def refuse(self: Path, to: Path) -> Path:
        if self == source:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", refuse)
    move(source, target)
    assert target.read_text() == "new"
    assert not source.exists()


def test_the_longest_name_of_all_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250 + ".json")
    write_text(path, "whole")
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    with lock_file(path), pytest.raises(PadimError, match="is changing"), lock_file(path):
        pass


@pytest.mark.skipif(os.name == "nt", reason="links need rights")
def test_a_file_is_locked_whatever_link_leads_to_it(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    target, link = tmp_path / "store/m", tmp_path / "m"
    target.touch()
    link.symlink_to(target)
    for first, second in ((target, link), (link, target)):
        with lock_file(first), pytest.raises(PadimError, match="is changing"), lock_file(second):
            pass


def test_a_disk_to_be_read_only_is_that_of_the_file_simulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OSError, match="Read-only") as caught, write_whole(tmp_path / "m"):
        pass
    assert failure_of(caught.value) == (
        "OSError",
        f"{tmp_path / 'm'}: Read-only file system. Choose another folder.",
    )


def test_a_full_disk_is_that_of_the_file(tmp_path: Path) -> None:
    def fill(partial: Path) -> None:
        assert partial.exists()
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as caught, write_whole(tmp_path / "m") as it:
        fill(it)
    assert caught.value.filename == str(tmp_path / "m")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the end of a process needs one to end")
@pytest.mark.parametrize("is_first", [True, False])
def test_of_files_that_belong_together_all_are_old_or_new(
    is_first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended between any two moves, a later call or whoever reads makes up the rest."""
    main, beside = tmp_path / "g.xml", tmp_path / "g.bin"
    replace, rename = Path.replace, Path.rename
    for n_moves in range(5):
        for path in (main, beside):
            path.unlink(missing_ok=True) if is_first else path.write_text("old")
        left = n_moves

        def die(self: Path, target: Path, move: Callable[[Path, Path], Path]) -> Path:
            nonlocal left
            left -= 1
            if left < 0:
                os._exit(9)
            return move(self, target)

        process = os.fork()
        if not process:
            Path.replace = lambda self, to: die(self, to, replace)  # type: ignore[method-assign, assignment]  # in the child alone
            Path.rename = lambda self, to: die(self, to, rename)  # type: ignore[method-assign, assignment]  # in the child alone
            with write_together(main) as partial:
                partial.write_text("new")
                partial.with_suffix(".bin").write_text("new")
            os._exit(0)
        _, status = os.waitpid(process, 0)
        complete(main)
        found = {path.read_text() if path.exists() else None for path in (main, beside)}
        assert found == {"new" if n_moves else (None if is_first else "old")}
        for path in (main, beside):
            path.touch()
    assert status == 0
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"g.xml", "g.bin"}
