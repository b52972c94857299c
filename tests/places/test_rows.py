"""Manifests in Parquet that hold the bytes of the pictures."""

import io
from pathlib import Path

import pytest
from trees import make_category, striped

pyarrow = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
from pyarrow import parquet  # noqa: E402  # once pyarrow is there

from padim.datasets import read_dataset  # noqa: E402  # after importorskip
from padim.errors import DatasetError, ImageReadError  # noqa: E402  # after importorskip
from padim.images.ahead import content_sha256  # noqa: E402  # after importorskip
from padim.images.decode import read_image  # noqa: E402  # after importorskip
from padim.places import find_place, rows  # noqa: E402  # after importorskip


def write_table(file: Path, /, **columns: object) -> Path:
    parquet.write_table(pyarrow.table(columns), file, row_group_size=2)
    return file


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    striped(seed).save(buffer, "PNG")
    return buffer.getvalue()


PICTURES = [png(i) for i in range(5)]
REST = {"split": ["train"] * 5, "label": ["good"] * 5}


def test_the_bytes_of_rows_are_those_of_files(tmp_path: Path) -> None:
    names = [f"good/{i}.png" for i in (3, 1, 4, 0, 2)]
    file = write_table(tmp_path / "manifest.parquet", path=names, image=PICTURES, **REST)

    (category,) = read_dataset(file)

    assert [path.name for path in category.train] == ["0.png", "1.png", "2.png", "3.png", "4.png"]
    assert str(category.train[0]) == str(file / "good/0.png")
    hashes = [content_sha256(path) for path in category.train]
    assert hashes == [content_sha256(PICTURES[i]) for i in (3, 1, 4, 0, 2)]


def test_pictures_as_hugging_face_writes_them_are_read(tmp_path: Path) -> None:
    images = [{"bytes": one, "path": f"{i}.png"} for i, one in enumerate(PICTURES)]
    label = [0, 0, 0, 0, 1]
    split = ["train", "train", "train", "test", "test"]
    write_table(tmp_path / "manifest.parquet", image=images, split=split, label=label)

    (category,) = read_dataset(tmp_path)

    assert [path.name for path in category.train] == ["0.png", "1.png", "2.png"]
    assert [one.defect for one in category.test] == ["defective", "good"]
    assert content_sha256(category.test[1].path) == content_sha256(PICTURES[3])


def test_pictures_without_a_name_have_the_number_of_their_row(tmp_path: Path) -> None:
    file = write_table(tmp_path / "a.parquet", image=PICTURES, **REST)
    again = [{"bytes": one, "path": "x.png"} for one in PICTURES]
    same = write_table(tmp_path / "b.parquet", image=again, **REST)

    assert [path.name for path in read_dataset(file)[0].train][:2] == ["1_", "2_"]
    assert [path.name for path in read_dataset(same)[0].train][:2] == ["1_x.png", "2_x.png"]


def test_names_that_lead_elsewhere_are_rows_all_the_same(tmp_path: Path) -> None:
    names = ["../a.png", "/etc/passwd", "b/../c.png", "s3://bucket/d.png", "e.png"]
    file = write_table(tmp_path / "manifest.parquet", path=names, image=PICTURES, **REST)

    found = read_dataset(file)[0].train

    assert {content_sha256(path) for path in found} == set(map(content_sha256, PICTURES))


def test_names_of_rows_lead_nowhere_on_windows(tmp_path: Path) -> None:
    names = [r"..\..\evil.png", r"C:\x.png", "D:/y.png", "good/12:30.png", "nul\0/e.png"]
    file = write_table(tmp_path / "manifest.parquet", path=names, image=PICTURES, **REST)

    found = [path.relative_to(file).as_posix() for path in read_dataset(file)[0].train]

    assert sorted(found) == ["e.png", "evil.png", "good/12:30.png", "x.png", "y.png"]


def test_a_table_that_has_changed_is_read_anew(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(5)]
    file = write_table(tmp_path / "rows.parquet", path=names, image=PICTURES, **REST)
    named = find_place(file / "0.png")
    assert named.is_file()
    assert named.read_bytes() == PICTURES[0]

    write_table(file, path=names[::-1], image=PICTURES, **REST)

    with pytest.raises(OSError, match=r"its table has changed; list it again"):
        named.read_bytes()
    assert find_place(file / "0.png").read_bytes() == PICTURES[4]


def test_a_row_without_bytes_is_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    images = [*PICTURES[:4], None]
    names = [f"{i}.png" for i in range(5)]
    file = write_table(tmp_path / "manifest.parquet", path=names, image=images, **REST)
    (category,) = read_dataset(file)

    with pytest.raises(ImageReadError, match=r"4.png .*: row 5 holds no bytes; write it anew"):
        read_image(category.train[4])
    assert read_image(category.train[3]).shape == (72, 72, 3)


def test_a_row_group_beyond_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_table(tmp_path / "manifest.parquet", image=PICTURES, **REST)
    monkeypatch.setattr(rows, "_MOST_GROUP_BYTES", 100)

    with pytest.raises(DatasetError, match=r"in one row group, .* smaller row groups"):
        read_image(read_dataset(file)[0].train[0])


def test_a_table_of_bytes_needs_its_other_columns(tmp_path: Path) -> None:
    file = write_table(tmp_path / "manifest.parquet", image=PICTURES)

    with pytest.raises(DatasetError, match=r"has the columns image, but needs split, label"):
        read_dataset(file)


def test_paths_and_bytes_of_one_dataset_are_one_category(tmp_path: Path) -> None:
    part = make_category(tmp_path / "part")
    files = sorted(part.glob("t*/*/*.png"))
    names = [path.relative_to(part).as_posix() for path in files]
    columns = {
        "path": names,
        "split": [name.split("/")[0] for name in names],
        "label": [name.split("/")[1] for name in names],
    }
    write_table(part / "paths.parquet", **columns)
    write_table(part / "bytes.parquet", image=[one.read_bytes() for one in files], **columns)

    (named,), (held,) = (read_dataset(part / f"{one}.parquet") for one in ("paths", "bytes"))

    assert [content_sha256(path) for path in named.images()] == [
        content_sha256(path) for path in held.images()
    ]
    assert [one.defect for one in named.test] == [one.defect for one in held.test]
