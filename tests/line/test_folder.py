import errno
import os
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest
from inspections import end, make_arrival

from padim.line import folder as folders
from padim.line.errors import SourceError
from padim.line.folder import FilePart, FolderSource
from padim.line.settings import FolderSettings
from padim.store.inspection import Verdict

PICTURE = b"picture of a part"


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    path = tmp_path / "inbox"
    path.mkdir()
    return path


def watch(path: Path, **more: object) -> FolderSource:
    chosen = {"recipe": "part", "poll_s": 0.01, "still_s": 0.05} | more
    source = FolderSource(FolderSettings(name="camera", path=path, **chosen))  # type: ignore[arg-type]  # of a test
    source.open()
    return source


def names(parts: list[FilePart]) -> list[str]:
    return [part.tags["file"] for part in parts]


def take(source: FolderSource, timeout_s: float = 2.0, n_most: int = 100) -> list[FilePart]:
    return source.take(n_most, timeout_s)  # type: ignore[return-value]  # of a folder


def forget(source: FolderSource, part: FilePart, verdict: Verdict = Verdict.OK) -> None:
    source.forget(part, end(make_arrival(), verdict))


def test_a_picture_is_handed_over_once_and_moved_when_it_may_be_forgotten(inbox: Path) -> None:
    (inbox / "a.png").write_bytes(PICTURE)
    source = watch(inbox)
    (part,) = take(source)
    assert (part.picture, part.recipe, part.reason) == (PICTURE, "part", "")
    assert take(source, 0.2) == []
    assert (inbox / "a.png").exists()
    forget(source, part)
    assert (inbox / "done/a.png").read_bytes() == PICTURE
    assert not (inbox / "a.png").exists()


def test_what_could_not_be_inspected_goes_elsewhere(inbox: Path) -> None:
    (inbox / "a.png").write_bytes(PICTURE)
    source = watch(inbox)
    forget(source, take(source)[0], Verdict.NOT_INSPECTED)
    assert (inbox / "failed/a.png").exists()


def test_inspected_pictures_may_be_removed(inbox: Path) -> None:
    for name in ("a.png", "b.png"):
        (inbox / name).write_bytes(name.encode())
    source = watch(inbox, delete_done=True)
    first, second = take(source)
    forget(source, first)
    forget(source, second, Verdict.NOT_INSPECTED)
    assert [one.name for one in inbox.rglob("*.png")] == ["b.png"]
    assert (inbox / "failed/b.png").exists()


def test_a_name_that_is_taken_gets_a_number(inbox: Path) -> None:
    source = watch(inbox)
    for n in range(3):
        (inbox / "a.png").write_bytes(PICTURE + bytes([n]))
        forget(source, take(source)[0])
    found = {one.name: one.read_bytes()[-1] for one in (inbox / "done").iterdir()}
    assert found == {"a.png": 0, "a-2.png": 1, "a-3.png": 2}


def test_the_key_is_of_the_bytes_and_not_of_the_name(inbox: Path) -> None:
    for name in ("a.png", "b.png"):
        (inbox / name).write_bytes(PICTURE)
    parts = take(watch(inbox))
    assert len(parts) == 2
    assert len({part.key for part in parts}) == 1


def test_a_slow_writer_is_waited_for(inbox: Path) -> None:
    source = watch(inbox, still_s=0.3)
    blocks = [bytes([n]) * 1000 for n in range(10)]

    def write() -> None:
        with (inbox / "slow.png").open("wb", buffering=0) as file:
            for block in blocks:
                file.write(block)
                time.sleep(0.1)

    writer = threading.Thread(target=write)
    writer.start()
    (part,) = take(source, 5)
    writer.join()
    assert part.picture == b"".join(blocks)


def test_one_that_is_renamed_into_place_is_whole(inbox: Path) -> None:
    source = watch(inbox)
    (inbox / "a.png.tmp").write_bytes(PICTURE)
    (inbox / ".hidden.png").write_bytes(PICTURE)
    assert take(source, 0.2) == []
    (inbox / "a.png.tmp").rename(inbox / "a.png")
    assert names(take(source)) == ["a.png"]


def test_one_that_changes_while_it_is_read_is_looked_at_again(
    inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inbox / "a.png").write_bytes(PICTURE)
    source = watch(inbox)
    read = folders._read_whole
    n_read = 0

    def change(file: folders._File) -> bytes | None:
        nonlocal n_read
        n_read += 1
        if n_read == 1:
            with file.path.open("ab") as more:
                more.write(b" and more")
        return read(file)

    monkeypatch.setattr(folders, "_read_whole", change)
    (part,) = take(source)
    assert part.picture == PICTURE + b" and more"


def test_one_that_is_replaced_while_it_is_inspected_is_taken_too(inbox: Path) -> None:
    path = inbox / "a.png"
    path.write_bytes(PICTURE)
    source = watch(inbox)
    (first,) = take(source)
    path.unlink()
    path.write_bytes(b"another part")
    forget(source, first)
    assert path.exists()
    (second,) = take(source)
    assert second.picture == b"another part"
    forget(source, second)
    assert (inbox / "done/a.png").read_bytes() == b"another part"


def test_an_empty_file_waits_longer_and_is_then_a_part_of_its_own(
    inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_EMPTY_S", 0.3)
    for name in ("a.png", "b.png"):
        (inbox / name).touch()
    source = watch(inbox)
    assert take(source, 0.15) == []
    first, second = take(source)
    assert (first.picture, first.reason) == (None, "The file is empty.")
    assert first.key != second.key


def test_a_marker_says_that_a_file_is_whole(inbox: Path) -> None:
    source = watch(inbox, marker_only=True)
    for name in ("a.png", "b.png", "c.png"):
        (inbox / name).write_bytes(name.encode())
    assert take(source, 0.2) == []
    (inbox / "a.png.done").touch()
    (inbox / "b.done").touch()
    parts = take(source)
    assert sorted(names(parts)) == ["a.png", "b.png"]
    for part in parts:
        forget(source, part)
    assert sorted(one.name for one in inbox.iterdir()) == ["c.png", "done", "failed"]


def test_a_marker_is_faster_than_standing_still(inbox: Path) -> None:
    source = watch(inbox, still_s=60.0)
    (inbox / "a.png").write_bytes(PICTURE)
    (inbox / "a.png.done").touch()
    assert names(take(source)) == ["a.png"]


def test_a_marker_that_a_crash_has_left_says_nothing_of_the_next_file(inbox: Path) -> None:
    (inbox / "a.png.done").touch()
    source = watch(inbox, marker_only=True)
    (inbox / "a.png").write_bytes(PICTURE)
    assert take(source, 0.2) == []


def test_ten_thousand_files_are_taken_a_few_at_a_time_and_soon(inbox: Path) -> None:
    for n in range(10_000):
        (inbox / f"{n:05}.png").write_bytes(b"%d" % n)
    source = watch(inbox)
    taken: set[str] = set()
    began_s = time.monotonic()
    first_s = None
    while len(taken) < 1000:
        parts = take(source, n_most=32)
        first_s = first_s or time.monotonic() - began_s
        taken |= set(names(parts))
        for part in parts:
            forget(source, part)
    assert len(taken) >= 1000
    assert first_s is not None
    assert first_s < 5
    began_s = time.monotonic()
    take(source, n_most=32)  # of those that are known to be ready
    assert time.monotonic() - began_s < 0.5


def test_the_oldest_comes_first(inbox: Path) -> None:
    for age_s, name in enumerate(("new.png", "middle.png", "old.png")):
        (inbox / name).write_bytes(name.encode())
        os.utime(inbox / name, (1e9 - age_s, 1e9 - age_s))
    assert names(take(watch(inbox))) == ["old.png", "middle.png", "new.png"]


def test_a_share_that_vanishes_fails_and_comes_back(inbox: Path) -> None:
    source = watch(inbox)
    (inbox / "a.png").write_bytes(PICTURE)
    assert names(take(source)) == ["a.png"]
    shutil.rmtree(inbox)
    with pytest.raises(SourceError, match="is gone"):
        take(source)
    source.close()
    with pytest.raises(SourceError, match="is not there"):
        source.open()
    assert not inbox.exists()
    inbox.mkdir()
    source.open()
    (inbox / "b.png").write_bytes(PICTURE)
    assert names(take(source)) == ["b.png"]


def test_a_verdict_that_comes_after_the_share_went_raises(inbox: Path) -> None:
    source = watch(inbox)
    (inbox / "a.png").write_bytes(PICTURE)
    (part,) = take(source)
    shutil.rmtree(inbox)
    with pytest.raises(FileNotFoundError):
        forget(source, part)


def test_one_that_someone_else_has_moved_is_forgotten(inbox: Path) -> None:
    source = watch(inbox)
    (inbox / "a.png").write_bytes(PICTURE)
    (part,) = take(source)
    (inbox / "a.png").unlink()
    forget(source, part)
    assert source.trouble == ""


def test_one_that_cannot_be_read_is_a_part_without_a_picture(
    inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_it(_file: folders._File) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(folders, "_read_whole", refuse_it)
    monkeypatch.setattr(folders, "_UNREADABLE_S", 0.2)
    (inbox / "a.png").write_bytes(PICTURE)
    source = watch(inbox)
    began_s = time.monotonic()
    (part,) = take(source)
    assert time.monotonic() - began_s > 0.2
    assert (part.picture, part.reason) == (None, "The file cannot be read: Permission denied.")
    forget(source, part, Verdict.NOT_INSPECTED)
    assert (inbox / "failed/a.png").exists()


def test_one_that_is_too_large_is_not_read(inbox: Path) -> None:
    (inbox / "a.png").write_bytes(PICTURE)
    (part,) = take(watch(inbox, picture_bytes=4))
    assert part.picture is None
    assert part.reason == f"The file has {len(PICTURE)} bytes, but may have 4."


def test_one_that_cannot_be_moved_is_not_taken_again_and_is_told(
    inbox: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = watch(inbox)
    (inbox / "a.png").write_bytes(PICTURE)
    (part,) = take(source)
    move = folders._move

    def refuse_it(_path: Path, _target: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(folders, "_move", refuse_it)
    forget(source, part)
    assert "a.png is inspected, but cannot be moved away: Permission denied." in source.trouble
    assert take(source, 0.2) == []
    assert len(caplog.records) == 1
    monkeypatch.setattr(folders, "_move", move)
    assert take(source, 0.2) == []
    assert source.trouble == ""
    assert (inbox / "done/a.png").exists()


def test_a_folder_that_nothing_can_be_moved_out_of_is_refused(
    inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_it(_path: Path, _target: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(folders, "_move", refuse_it)
    source = FolderSource(FolderSettings(name="camera", path=inbox, recipe="part"))
    with pytest.raises(SourceError, match="Read-only file system"):
        source.open()
    assert [one.name for one in inbox.rglob("*") if one.is_file()] == []


def test_another_disk_gets_a_whole_copy(
    inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def refuse_other_disk(path: Path, target: Path) -> Path:
        if Path(target).is_relative_to(tmp_path / "disk") and path.is_relative_to(inbox):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse_other_disk)
    (tmp_path / "disk").mkdir()
    source = watch(inbox, done=tmp_path / "disk/done")
    (inbox / "a.png").write_bytes(PICTURE)
    forget(source, take(source)[0])
    assert [one.name for one in (tmp_path / "disk/done").iterdir()] == ["a.png"]
    assert (tmp_path / "disk/done/a.png").read_bytes() == PICTURE
    assert not (inbox / "a.png").exists()


def test_folders_inside_are_recipes(inbox: Path) -> None:
    for recipe in ("screws", "nuts", "done", "failed"):
        (inbox / recipe).mkdir()
        (inbox / recipe / "a.png").write_bytes(recipe.encode())
    (inbox / "lost.png").write_bytes(PICTURE)
    source = watch(inbox, recipe=None)
    parts = {part.tags["file"]: part for part in take(source)}
    assert {name: part.recipe for name, part in parts.items()} == {
        "screws/a.png": "screws",
        "nuts/a.png": "nuts",
        "lost.png": "",
    }
    assert parts["lost.png"].reason == "The file lies in no folder of a recipe."
    for part in parts.values():
        forget(source, part)
    moved = {one.relative_to(inbox).as_posix() for one in inbox.rglob("*.png")}
    assert {"done/screws/a.png", "done/nuts/a.png", "done/lost.png"} <= moved


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_text_is_taken_and_moved(inbox: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(inbox) + b"/part-\xff.png"))
    path.write_bytes(PICTURE)
    source = watch(inbox)
    (part,) = take(source)
    assert part.tags["file"].encode() == b"part-\\udcff.png"
    forget(source, part)
    assert (inbox / "done" / path.name).exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_and_links_are_no_pictures(inbox: Path, tmp_path: Path) -> None:
    os.mkfifo(inbox / "pipe.png")
    (tmp_path / "elsewhere.png").write_bytes(PICTURE)
    (inbox / "link.png").symlink_to(tmp_path / "elsewhere.png")
    (inbox / "folder.png").mkdir()
    assert take(watch(inbox), 0.3) == []


def test_what_was_taken_and_not_forgotten_comes_again_under_its_key(inbox: Path) -> None:
    (inbox / "a.png").write_bytes(PICTURE)
    source = watch(inbox)
    (before,) = take(source)
    source.close()
    source.open()
    (after,) = take(source)
    assert after.key == before.key


def test_a_deadline_is_for_those_that_ask(inbox: Path) -> None:
    (inbox / "a.png").write_bytes(PICTURE)
    assert take(watch(inbox))[0].deadline_s is None
    assert take(watch(inbox, deadline_ms=250.0))[0].deadline_s == 0.25


def test_names_as_long_as_a_disk_has_them_are_moved(inbox: Path) -> None:
    source, name = watch(inbox), "n" * 251 + ".png"
    for seed in range(3):
        (inbox / name).write_bytes(PICTURE + bytes([seed]))
        (part,) = take(source)
        forget(source, part)
        assert not source.trouble
    assert not (inbox / name).exists()
    found = sorted(one.name for one in (inbox / "done").iterdir())
    assert found == sorted((name, "n" * 249 + "-2.png", "n" * 249 + "-3.png"))
