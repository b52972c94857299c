import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter
from trees import make_category, striped

from padim.cli import main
from padim.cli.check_command import weigh
from padim.datasets import Category
from padim.datasets.check import DOUBTFUL, KINDS, SEVERE


@pytest.fixture
def stripes(tmp_path: Path) -> Path:
    return make_category(tmp_path / "data" / "stripes", n_train=6, n_test=3)


def checked(
    data: Path, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, list[tuple[str, str]], dict[str, Any]]:
    """The exit status, kinds and file names of what was found, and the document."""
    capsys.readouterr()
    status = main(["check", str(data), "--json", *arguments])
    document = json.loads(capsys.readouterr().out)
    found = [(finding["kind"], Path(finding["path"]).name) for finding in document["findings"]]
    assert document["is_sound"] == (status == 0)
    assert sum(document["counts"].values()) == len(found)
    return status, found, document


def test_a_sound_dataset_has_no_findings(stripes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(stripes.parent)]) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == "Layout: MVTec AD, 1 category (stripes)."
    assert last == "Nothing was found in 12 images and their masks."
    assert checked(stripes, capsys)[:2] == (0, [])


def test_one_file_in_two_splits_is_a_leak(
    stripes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(stripes / "train/good/2.png", stripes / "test/good/copy.png")
    status, found, document = checked(stripes, capsys)
    assert (status, found) == (1, [("leak", "copy.png")])
    (finding,) = document["findings"]
    assert finding["other"] == str(stripes / "train/good/2.png")
    assert "(train, good)" in finding["detail"]


def test_one_picture_in_two_splits_is_a_leak_whatever_its_file(
    stripes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    striped(2).save(stripes / "test/good/copy.jpg", quality=95)
    striped(3).resize((288, 288), Image.Resampling.NEAREST).save(stripes / "test/good/large.png")
    status, found, _ = checked(stripes, capsys)
    assert status == 1
    assert found == [
        ("look-alike", "copy.jpg"),
        ("look-alike", "large.png"),
        ("size", "large.png"),
    ]


def test_copies_within_a_split_are_told_and_do_not_fail(
    stripes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(stripes / "train/good/0.png", stripes / "train/good/9.png")
    striped(1).save(stripes / "train/good/8.jpg", quality=95)
    assert checked(stripes, capsys)[:2] == (0, [("duplicate", "8.jpg"), ("duplicate", "9.png")])


def test_one_file_that_is_good_and_bad_is_a_contradiction(
    stripes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(stripes / "test/spot/0.png", stripes / "test/good/9.png")
    status, found, document = checked(stripes, capsys)
    assert (status, found) == (1, [("contradiction", "0.png")])
    assert "9.png (test, good)" in document["findings"][0]["detail"]


def test_unreadable_files_are_named_and_the_rest_is_looked_at(
    stripes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (stripes / "train/good/0.png").write_bytes((stripes / "train/good/0.png").read_bytes()[:99])
    (stripes / "test/good/1.png").write_bytes(b"")
    (stripes / "ground_truth/spot/2_mask.png").write_text("no mask")
    Image.new("L", (72, 72)).save(stripes / "test/good/grey.png")
    status, found, document = checked(stripes, capsys)
    assert status == 1
    assert found == [
        ("unreadable", "2_mask.png"),
        ("unreadable", "1.png"),
        ("unreadable", "0.png"),
        ("mode", "grey.png"),
    ]
    assert document["findings"][1]["detail"] == "it is empty; copy it again"


def test_masks_are_compared_with_image_and_label(
    stripes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = stripes / "ground_truth"
    Image.fromarray(np.ones((72, 71), np.uint8)).save(truth / "spot/0_mask.png")
    Image.new("L", (72, 72)).save(truth / "spot/1_mask.png")
    (truth / "spot/2_mask.png").rename(truth / "spot/7_mask.png")
    (truth / "good").mkdir()
    Image.new("L", (72, 72)).save(truth / "good/0_mask.png")
    Image.new("L", (72, 72), 1).save(truth / "good/1_mask.png")
    status, found, document = checked(stripes, capsys)
    assert status == 1
    assert found == [
        ("contradiction", "1.png"),
        ("contradiction", "1.png"),
        ("mask-size", "0_mask.png"),
        ("covering-mask", "0_mask.png"),
        ("no-mask", "2.png"),
        ("stray-mask", "7_mask.png"),
    ]
    details = [finding["detail"] for finding in document["findings"]]
    assert "marks a defect" in details[0]
    assert details[1].endswith("1_mask.png marks no defect")
    assert details[2] == "72x71 px, but its image has 72x72 px"


def test_a_dataset_without_masks_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_category(tmp_path / "stripes", masks=False)
    status, found, document = checked(folder, capsys)
    assert (status, found) == (0, [("no-mask", "stripes")])
    detail = "none of 3 defects has a mask, so that no metric of pixels can be had"
    assert document["findings"][0]["detail"] == detail


@pytest.mark.parametrize(
    ("place", "seeming"),
    [
        ("masks/other/0.png", "masks"),
        ("gt/0.png", "gt"),
        ("Ground_Truth/other/0.png", "Ground_Truth"),
        ("test/labels/spot/0.png", "test/labels"),
        ("test/spot/1/mask.png", "test/spot/1"),
        ("ground_truth/spot/2/mask_0.png", "ground_truth"),
    ],
)
def test_a_folder_that_looks_like_masks_is_named_where_there_are_none(
    place: str, seeming: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_category(tmp_path / "stripes", masks=False)
    (folder / "ground_truth/spot").rmdir()
    (folder / "ground_truth").rmdir()
    (folder / place).parent.mkdir(parents=True)
    Image.new("L", (72, 72)).save(folder / place)
    _, _, document = checked(folder, capsys)
    (finding,) = (one for one in document["findings"] if one["kind"] == "no-mask")
    assert finding["other"] == str(folder / seeming)
    assert f"but {seeming} looks as if it held some" in finding["detail"]


def test_what_is_doubtful_about_masks_is_found(
    stripes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = stripes / "ground_truth/spot"
    sharp = Image.open(truth / "0_mask.png").convert("L")
    Image.fromarray(255 - np.asarray(sharp)).save(truth / "0_mask.png")
    Image.open(truth / "1_mask.png").convert("L").filter(ImageFilter.BLUR).save(
        truth / "1_mask.png"
    )
    alpha = Image.open(truth / "2_mask.png").convert("L")
    drawn = Image.new("RGBA", alpha.size, "white")
    drawn.putalpha(alpha)
    drawn.save(truth / "2_mask.png")
    status, found, _ = checked(stripes, capsys)
    assert status == 1
    assert found == [
        ("inverted-mask", "0_mask.png"),
        ("mask-levels", "1_mask.png"),
        ("alpha-mask", "2_mask.png"),
    ]


def test_one_empty_mask_of_several_is_told(
    stripes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = stripes / "ground_truth/spot"
    (stripes / "defects_config.json").write_text("[]")
    for i in range(3):
        (truth / str(i)).mkdir()
        (truth / f"{i}_mask.png").rename(truth / f"{i}/000.png")
    Image.new("L", (72, 72)).save(truth / "1/001.png")
    (stripes / "validation/good").mkdir(parents=True)
    shutil.copy(stripes / "test/good/0.png", stripes / "validation/good/5.png")
    status, found, document = checked(stripes, capsys)
    assert document["layout"] == "MVTec LOCO AD"
    assert (status, found) == (1, [("leak", "0.png"), ("empty-mask", "001.png")])


def test_sizes_that_vary_are_odd_only_far_from_the_median(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tiles"
    (folder / "train/good").mkdir(parents=True)
    for i, side_px in enumerate((60, 64, 70, 71, 80, 200)):
        striped(i, side_px).save(folder / f"train/good/{i}.png")
    status, found, document = checked(folder, capsys)
    assert (status, found) == (0, [("one-class", folder.name), ("size", "5.png")])
    assert document["findings"][1]["detail"] == "200x200 px; 70x70 is usual (HxW)"


def test_each_finding_is_a_line_and_each_kind_a_row(
    stripes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(stripes / "train/good/2.png", stripes / "test/good/copy.png")
    (stripes / "test/good/bad.png").touch()
    (stripes / "ground_truth/spot/9_mask.png").touch()
    assert main(["check", str(stripes), "-q", "--threads", "1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"unreadable: {stripes / 'test/good/bad.png'}: it is empty; copy it again"
    assert lines[1].startswith(f"leak: {stripes / 'test/good/copy.png'}: test, good; the same file")
    assert lines[2] == f"stray-mask: {stripes / 'ground_truth/spot/9_mask.png'}: it is of no image"
    assert [line.split()[:3] for line in lines[5:]] == [
        ["unreadable", "1", "yes"],
        ["leak", "1", "yes"],
        ["stray-mask", "1", "no"],
    ]


def test_a_manifest_may_name_a_file_that_is_not_there(
    stripes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stripes.parent / "all.csv"
    path.write_text(
        "path,split,label,mask\n"
        "stripes/train/good/0.png,train,good,\n"
        "stripes/gone.png,test,good,\n"
        "stripes/test/good/0.png,test,good,stripes/ground_truth/spot/0_mask.png\n"
    )
    status, found, document = checked(path, capsys)
    assert status == 1
    assert found == [("unreadable", "gone.png"), ("contradiction", "0.png"), ("one-class", "data")]
    assert document["layout"] == "manifest"


def test_a_manifest_without_masks_is_told_of_their_column_alone(
    stripes: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(stripes.parent)
    Path("all.csv").write_text(
        "path,split,label\nstripes/train/good/0.png,train,good\n"
        "stripes/test/good/0.png,test,good\nstripes/test/spot/0.png,test,spot\n"
    )
    assert main(["check", "all.csv"]) == 0
    assert (
        "\nno-mask: data: none of 1 defect has a mask, so that no metric of pixels can be had. "
        "The column mask of a manifest names masks\n"
    ) in capsys.readouterr().out


@pytest.mark.parametrize("is_good", [False, True])
def test_an_annotation_names_its_image_and_says_what_it_marks(
    is_good: bool, stripes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(stripes / "ground_truth")
    names = [f"spot/{i}.png" for i in range(3)]
    document = {
        "images": [
            {"id": i, "file_name": name, "height": 72, "width": 72} for i, name in enumerate(names)
        ],
        "annotations": [{"image_id": i, "category_id": 1, "bbox": [4, 3, 6, 5]} for i in range(3)],
        "categories": [{"id": 1, "name": "dent"}],
    }
    (stripes / "all.json").write_text(json.dumps(document))
    for i in range(3) if is_good else ():
        shape = {"label": "OK", "points": [[1, 1], [9, 1], [9, 9]]}
        file = {"shapes": [shape], "imageHeight": 72, "imageWidth": 72}
        (stripes / f"test/spot/{i}.json").write_text(json.dumps(file))
    status, found, document = checked(stripes, capsys)
    details = [finding["detail"] for finding in document["findings"]]
    images = [str(stripes / "test" / name) for name in names]
    if is_good:
        assert (status, found) == (1, [("contradiction", f"{i}.png") for i in range(3)])
        assert details[0].endswith("0.json marks no defect (a shape whose label says good is none)")
    else:
        assert (status, found) == (0, [("box-mask", "all.json")] * 3)
        assert details == [f"all of the box counts: {image}" for image in images]
        assert main(["check", str(stripes)]) == 0
        row = capsys.readouterr().out.splitlines()[-1].split()
        assert row[:3] == ["box-mask", "3", "maybe"]


def test_a_category_that_cannot_be_read_is_found_and_others_are_checked(
    stripes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_category(stripes.parent / "other", masks=False)
    (other / "a.xml").write_text("<annotations><track label='dent'/></annotations>")
    shutil.copy(stripes / "test/spot/0.png", stripes / "test/good/9.png")
    status, found, document = checked(stripes.parent, capsys)
    assert (status, found) == (1, [("unreadable", "data"), ("contradiction", "0.png")])
    assert document["categories"] == ["other", "stripes"]
    assert document["findings"][0]["category"] == "other"
    assert main(["check", str(stripes.parent)]) == 1
    line = f"unreadable: other: {other / 'a.xml'} cannot be understood: it has tracks of a video"
    assert line in capsys.readouterr().out
    assert main(["check", str(other)]) == 1
    assert "tracks of a video" in capsys.readouterr().err


def test_a_damaged_annotation_is_named_once(
    stripes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (stripes / "ground_truth/spot/0_mask.png").unlink()
    (stripes / "test/spot/0.json").write_text('{"shapes": 3}')
    _, found, document = checked(stripes, capsys)
    assert found == [("unreadable", "0.json")]
    assert document["findings"][0]["detail"].startswith("cannot be understood: ")


def test_only_the_named_category_is_checked(
    stripes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_category(stripes.parent / "other")
    (other / "train/good/0.png").write_text("x")
    assert checked(stripes.parent, capsys, "--category", "stripes")[0] == 0
    assert checked(stripes.parent, capsys)[0] == 1
    assert main(["check", str(stripes.parent), "--layout", "btd", "--json"]) == 2
    assert "Did you mean 'btad'?" in capsys.readouterr().err


@pytest.mark.parametrize("n_threads", ["0", "-2"])
def test_a_number_of_threads_below_one_is_wrong_usage(
    n_threads: str, stripes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(stripes), "--threads", n_threads]) == 2
    assert f"threads is {n_threads}, but needs to be between 1 and 1024" in capsys.readouterr().err


def test_as_many_threads_look_as_there_are_cores_for_this_process(
    stripes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def check_one(category: Category, n_threads: int, advance: Callable[[int], None]) -> list[Any]:
        asked.append(n_threads)
        return []

    monkeypatch.setattr("padim.cli.check_command.check_category", check_one)
    monkeypatch.setattr("padim.scoring.engines.n_cores", lambda: 17)
    assert main(["check", str(stripes)]) == 0
    assert asked == [17]


def test_what_makes_numbers_wrong_is_a_kind() -> None:
    assert set(KINDS) > SEVERE | DOUBTFUL
    assert not SEVERE & DOUBTFUL
    page = Path(__file__).parents[2] / "docs/reference/datasets.md"
    rows = re.findall(r"^\| `([a-z-]+)` \| .* \| (yes|maybe|no) \|$", page.read_text("utf-8"), re.M)
    assert dict(rows) == {kind: weigh(kind) for kind in KINDS}


def test_a_category_that_cannot_be_measured_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_category(tmp_path / "carpet")
    for path in (folder / "test/good").iterdir():
        path.unlink()
    assert main(["check", str(folder)]) == 0
    assert "one-class: carpet: no normal test images" in capsys.readouterr().out


def test_many_findings_of_a_kind_are_cut_short(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_category(tmp_path / "carpet", n_train=60)
    for i in range(12):
        striped(i + 1000, 40 + i).save(folder / f"train/good/odd{i}.png")
    assert main(["check", str(folder)]) == 0
    said = capsys.readouterr().out
    assert said.count("size: ") == 11
    assert "size: and 2 more, which --json lists" in said
