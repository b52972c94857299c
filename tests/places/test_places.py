"""Paths of what is no plain file, without a network."""

import io
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import make_category, striped

from padim.cli import main
from padim.cli.images import name_outputs
from padim.datasets import list_images, read_dataset
from padim.datasets.left_out import find_left_out
from padim.errors import DatasetError, ImageReadError, UsageError, redact
from padim.images.ahead import content_sha256, load_ahead
from padim.images.decode import read_image, read_size_px
from padim.places import Place, find_place, join
from padim.scoring.graph_file import part_beside


def make_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def png(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    striped(seed).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/good/a.png",
        "gs://bucket",
        "az://container/a//b.png",
        "https://host:80/a.png?sig=x%2F&u=http://other//c",
    ],
)
def test_a_url_stays_as_it_is(url: str) -> None:
    place = find_place(url)

    assert str(place) == url
    assert str(pickle.loads(pickle.dumps(place))) == url
    assert find_place(place) is place


def test_a_url_has_the_parts_of_a_path() -> None:
    place = find_place("s3://bucket/good/a.png")

    assert (place.name, place.stem, place.suffix) == ("a.png", "a", ".png")
    assert str(place.parent) == "s3://bucket/good"
    assert str(place.parent / "b.png") == "s3://bucket/good/b.png"
    assert str(place.with_name("b.png")) == "s3://bucket/good/b.png"
    assert place.relative_to(find_place("s3://bucket")).as_posix() == "good/a.png"
    assert place.absolute() == place.resolve() == place
    assert find_place("https://host/m.onnx?key=1.2").suffix == ".onnx"


def test_a_url_that_pathlib_has_read_is_known_again() -> None:
    assert str(find_place(Path("s3://bucket/a.png"))) == "s3://bucket/a.png"


def test_another_kind_of_url_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"begins with ftp://, but needs to be a path or one of s3"
    ):
        find_place("ftp://host/a.png")


def test_what_a_list_names_is_found_from_its_folder() -> None:
    folder = find_place("s3://bucket/lists")

    assert str(join(folder, "../good/a.png")) == "s3://bucket/good/a.png"
    assert str(join(folder, "gs://other/a.png")) == "gs://other/a.png"
    assert str(join(Path("lists"), "s3://other/a.png")) == "s3://other/a.png"
    assert type(join(Path("lists"), "a.png")) is type(Path())


def test_a_tar_is_a_folder_of_its_images(tmp_path: Path) -> None:
    members = {"./b.png": png(1), "a.png": png(0), "a.json": b"{}", "deep/c.png": png(2)}
    tar = find_place(make_tar(tmp_path / "shots.tar", members))

    found = list_images(tar)

    assert isinstance(tar, Place)
    assert [path.name for path in found] == ["a.png", "b.png"]
    assert str(found[0]) == str(tmp_path / "shots.tar/a.png")
    assert [path.name for path in list_images(tar, recursive=True)] == ["a.png", "b.png", "c.png"]
    assert np.array_equal(read_image(found[1]), np.asarray(striped(1)))
    assert read_size_px(found[0]) == (72, 72)
    assert find_left_out([tar]).suffixes == ((".json", 1),)
    assert found[0].stat().st_size == len(members["a.png"])


def test_a_member_is_named_by_itself(tmp_path: Path) -> None:
    make_tar(tmp_path / "shots.tar", {"good/a.png": png()})

    loaded = list(load_ahead([str(tmp_path / "shots.tar/good/a.png")], np.asarray, hashed=True))

    assert loaded[0].sha256 == content_sha256(png())
    assert loaded[0].path == find_place(tmp_path / "shots.tar/good/a.png")


def test_only_regular_files_of_a_tar_count(tmp_path: Path) -> None:
    path = tmp_path / "shots.tar"
    with tarfile.open(path, "w") as tar:
        outside = (r"..\..\evil.png", r"C:\x.png", "C:x.png", "good/D:y.png")
        for name in ("../up.png", "/root.png", "a/../b.png", *outside, "a.png"):
            member = tarfile.TarInfo(name)
            member.size = len(png())
            tar.addfile(member, io.BytesIO(png()))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            member = tarfile.TarInfo(f"odd{kind.decode()}.png")
            member.type, member.linkname = kind, "a.png"
            tar.addfile(member)

    found = list_images(find_place(path), recursive=True)

    assert [path.name for path in found] == ["a.png"]


def test_a_member_with_the_time_in_its_name_counts(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "shots.tar", {"12:30:59.png": png()})

    assert [found.name for found in list_images(find_place(path))] == ["12:30:59.png"]


def test_the_bytes_of_a_member_are_never_those_of_another(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "shots.tar", {"a.png": png(0), "b.png": png(1)})
    listed = {found.name: found for found in list_images(find_place(path))}

    make_tar(path, {"b.png": png(1), "a.png": png(0)})

    with pytest.raises(ImageReadError, match=r"its tar has changed; list it again"):
        read_image(listed["a.png"])
    assert find_place(path / "a.png").read_bytes() == png(0)


def test_the_last_of_members_of_one_name_counts(tmp_path: Path) -> None:
    path = tmp_path / "shots.tar"
    with tarfile.open(path, "w") as tar:
        for content in (b"old", b"newer"):
            member = tarfile.TarInfo("a.png")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))

    assert find_place(path / "a.png").read_bytes() == b"newer"


def test_a_folder_may_be_called_as_a_tar_is(tmp_path: Path) -> None:
    (tmp_path / "set.tar").mkdir()
    path = make_tar(tmp_path / "set.tar/shots.tar", {"a.png": png()})

    assert list_images(find_place(path))[0].read_bytes() == png()
    assert find_place(path / "a.png").is_file()


def test_images_of_a_relative_tar_are_named_as_those_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shots").mkdir()
    striped(0).save("shots/0.png")
    make_tar(Path("good.tar"), {"1.png": png()})
    given = [Path("shots"), find_place("good.tar")]
    chosen = [image for place in given for image in list_images(place)]

    assert list(name_outputs(chosen, given).values()) == [Path("shots/0"), Path("good.tar/1")]


@pytest.mark.skipif(os.sep == "\\", reason="a person may write a URL so on Windows")
def test_a_backslash_belongs_to_the_key() -> None:
    place = find_place(r"s3://bucket/a\b.png")

    assert str(place) == r"s3://bucket/a\b.png"
    assert place.name == r"a\b.png"


def test_what_lies_beside_a_graph_is_named_before_the_question_mark() -> None:
    for given, beside in (
        ("https://host/m.onnx?sig=a.b", "https://host/m.onnx.data?sig=a.b"),
        ("https://host/m.xml?sig=a.b", "https://host/m.bin?sig=a.b"),
        ("s3://bucket/m.onnx", "s3://bucket/m.onnx.data"),
    ):
        assert str(part_beside(find_place(given))) == beside
    assert part_beside(Path("a?.onnx")) == Path("a?.onnx.data")
    assert part_beside(Path("m.xml")) == Path("m.bin")


def test_errors_do_not_say_what_an_address_was_signed_with() -> None:
    error = ImageReadError("https://u:secret@host:1/a.png?sig=abc", "it is https://v@other/?k=d")

    assert str(error) == (
        "https://host:1/a.png?... cannot be read as an image: it is https://other/?..."
    )
    assert redact("s3://bucket/a?b.png and https://h/a") == "s3://bucket/a?b.png and https://h/a"


@pytest.mark.parametrize("n_left", [100, 512, 700, 1200, 6000])
def test_a_tar_that_is_cut_short_is_refused(tmp_path: Path, n_left: int) -> None:
    path = make_tar(tmp_path / "shots.tar", {"a.png": bytes(600), "b.png": bytes(5000)})
    path.write_bytes(path.read_bytes()[:n_left])

    with pytest.raises(DatasetError, match=r"shots.tar is no tar, or is cut short or damaged"):
        list_images(find_place(path))


def test_a_tar_that_is_cut_between_members_is_refused(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "shots.tar", {"a.png": bytes(512), "b.png": bytes(512)})
    path.write_bytes(path.read_bytes()[:1024])

    with pytest.raises(DatasetError, match=r"its end is missing"):
        list_images(find_place(path))


def test_a_packed_tar_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shots.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.png"))

    with pytest.raises(DatasetError, match=r"is packed, .* Unpack it to a plain .tar"):
        list_images(find_place(path))


def test_a_tar_that_has_changed_is_read_anew(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "shots.tar", {"a.png": b"one"})
    assert find_place(path / "a.png").read_bytes() == b"one"

    make_tar(path, {"a.png": b"another", "b.png": b"two"})

    assert find_place(path / "a.png").read_bytes() == b"another"
    assert len(list_images(find_place(path))) == 2


def test_a_tar_holds_a_category(tmp_path: Path) -> None:
    make_category(tmp_path / "part")
    with tarfile.open(tmp_path / "part.tar", "w") as tar:
        tar.add(tmp_path / "part", arcname=".")

    (plain,), (packed,) = read_dataset(tmp_path / "part"), read_dataset(tmp_path / "part.tar")

    assert [path.name for path in packed.train] == [path.name for path in plain.train]
    assert [one.defect for one in packed.test] == [one.defect for one in plain.test]
    assert all(one.masks for one in packed.test if one.defect == "spot")


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "good", "-o", "s3://bucket/part.safetensors"],
        ["predict", "part.safetensors", "good", "-o", "s3://bucket/results"],
        ["benchmark", "part", "-o", "s3://bucket/results"],
        ["merge", "a.safetensors", "b.safetensors", "-o", "s3://bucket/part.safetensors"],
    ],
)
def test_nothing_is_written_into_a_store(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    make_category(Path("part"))
    shutil.copytree("part/train/good", "good")
    Path("part.safetensors").touch()

    assert main(words) == 2
    assert capsys.readouterr().err == (
        f"error: {words[-1]} cannot be written to, since what is written stays on this machine. "
        "Name a file or folder here.\n"
    )


def test_a_member_that_is_no_image_is_named(tmp_path: Path) -> None:
    make_tar(tmp_path / "shots.tar", {"a.png": b"no image"})

    with pytest.raises(ImageReadError, match=r"shots.tar/a.png cannot be read as an image"):
        read_image(find_place(tmp_path / "shots.tar/a.png"))


def test_an_image_that_a_tar_lacks_is_named(tmp_path: Path) -> None:
    make_tar(tmp_path / "shots.tar", {"a.png": b"no image"})

    with pytest.raises(ImageReadError, match=r"shots.tar/b.png .* it does not exist"):
        read_image(find_place(tmp_path / "shots.tar/b.png"))


def test_a_tar_is_written_beside_and_not_into(tmp_path: Path) -> None:
    place = find_place(make_tar(tmp_path / "shots.tar", {"a.png": png()}))

    with pytest.raises(UsageError, match=r"cannot be written to"):
        (place / "b.png").open("wb")

    Image.new("L", (4, 4)).save(str(place.parent / "b.png"))
