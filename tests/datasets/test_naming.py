"""Names of folders mean something: good, not good, or ground truth."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import lay_out, striped

from padim.cli import main
from padim.datasets import Category, expand_defects, normal_images, read_category, read_dataset
from padim.datasets.exports import find_seeming_truth
from padim.datasets.naming import means_good, means_not_good, means_not_to_learn, means_truth
from padim.errors import DatasetError


def kinds(category: Category) -> Counter[str]:
    return Counter(sample.defect for sample in category.test)


@pytest.mark.parametrize(
    "name",
    [
        *("good", "OK", "Normal", "ok_images", "Good Parts", "OK_2", "i.O.", "gut", "pass"),
        *("no_defects", "defect-free", "non_defective", "train_good", "no_anomaly"),
        *("not_defective", "not damaged"),
        *("良品", "ＯＫ", "bon", "Buoni", "годные", "양품"),
        *("sans_défaut", "sin defectos", "sem_defeitos", "senza difetti", "ohne_Fehler"),
    ],
)
def test_a_name_of_good_is_known_in_any_case(name: str) -> None:
    assert means_good(name)
    assert not means_not_good(name)
    assert not means_not_to_learn(name)


@pytest.mark.parametrize(
    "name",
    [
        *("不良品", "ＮＧ", "異常", "de\u0301faut", "difettosi", "брак", "불량"),
        *("NG", "ng_scratch", "bad", "KO", "n.i.O.", "NOK", "Defects", "defective", "anomaly"),
        *("pas_bon", "non conforme", "niet goed", "não conforme", "nie_dobre"),
        *("Fail", "abnormal", "reject", "scrap", "not_good", "no_good", "good_and_bad", "not ok"),
    ],
)
def test_a_name_of_not_good_is_known_also_where_it_has_good_in_it(name: str) -> None:
    assert means_not_good(name)
    assert means_not_to_learn(name)
    assert not means_good(name)


@pytest.mark.parametrize("name", ["scratch", "goods", "token", "normalised", "latest", "passport"])
def test_other_names_say_nothing(name: str) -> None:
    assert not means_good(name)
    assert not means_not_to_learn(name)


def test_names_of_ground_truth_and_of_tests_are_known() -> None:
    assert all(map(means_truth, ("ground_truth", "Ground Truth", "GT", "mask", "Masks", "labels")))
    assert not means_truth("label_printer")
    assert all(map(means_not_to_learn, ("test", "Test_OK", "test_public", "masks")))


@pytest.mark.parametrize(
    ("files", "train", "test"),
    [
        (["train/OK/a.png", "test/NG/b.png"], "train/OK", {"NG": 1}),
        (["Train/Good/a.png", "Test/Bad/b.png"], "Train/Good", {"Bad": 1}),
        (
            ["train/good/a.png", "test/OK/b.png", "test/NG/c.png"],
            "train/good",
            {"good": 1, "NG": 1},
        ),
        (
            ["train/good/a.png", "test/Good/b.png", "test/x/c.png"],
            "train/good",
            {"good": 1, "x": 1},
        ),
        (["TRAIN/normal/a.png", "TEST/normal/b.png"], "TRAIN/normal", {"good": 1}),
        (["train/ok/a.png", "test/good/b.png", "test/ok/c.png"], "train/ok", {"good": 2}),
        (["Train/a.png", "Test/OK/b.png", "Test/dent/c.png"], "Train", {"good": 1, "dent": 1}),
        (["OK/a.png", "test/OK/b.png", "test/not_good/c.png"], "OK", {"good": 1, "not_good": 1}),
        (["train/OK/a.png", "train/NG/b.png"], "train/OK", {}),
    ],
)
def test_a_category_is_known_by_any_name_of_good(
    tmp_path: Path, files: list[str], train: str, test: dict[str, int]
) -> None:
    root = lay_out(tmp_path / "part", *files)
    category = read_category(root)
    assert read_dataset(root) == (category,)
    assert kinds(category) == test
    assert category.train == normal_images(root) == (root / train / "a.png",)
    assert f"learning from {train} (1 image); test: " in category.describe()


def test_what_was_taken_for_what_is_said(tmp_path: Path) -> None:
    names = ["train/OK/a.png", "test/OK/b.png", "test/NG/c.png", "test/NG/d.png"]
    assert read_category(lay_out(tmp_path / "part", *names)).describe_split() == (
        "learning from train/OK (1 image); test: NG (2), OK is good (1)"
    )


def test_masks_are_found_in_any_case(tmp_path: Path) -> None:
    names = ["train/good/a.png", "test/Crack/b.png", "Ground_Truth/crack/b_mask.png"]
    inside = ["train/good/a.png", "test/Crack/b.png", "test/ground_truth/crack/b.png"]
    for i, files in enumerate((names, inside)):
        root = lay_out(tmp_path / str(i), *files)
        (sample,) = read_category(root).test
        assert sample.masks == (root / files[-1],)


@pytest.mark.parametrize("name", ["GT", "masks", "Ground Truth", "labels"])
def test_one_folder_of_any_name_of_ground_truth_holds_the_masks(tmp_path: Path, name: str) -> None:
    root = lay_out(tmp_path, "train/OK/a.png", "test/NG/b.png", f"{name}/ng/b.png")
    (sample,) = read_category(root).test
    assert sample.masks == (root / f"{name}/ng/b.png",)
    lay_out(root, "annotations/ng/b.png")
    (sample,) = read_category(root).test
    assert sample.masks == ()
    lay_out(root, "Ground_Truth/NG/b_mask.png")
    (sample,) = read_category(root).test
    assert sample.masks == (root / "Ground_Truth/NG/b_mask.png",)


def test_a_mask_beside_its_image_is_no_image(tmp_path: Path) -> None:
    root = lay_out(tmp_path, "train/good/a.png", "test/dent/b.png", "test/dent/b_mask.png")
    lay_out(root, "test/good/c.png", "test/good/c_mask.png", "test/dent/face_mask.png")
    lay_out(root, "train/good/a_mask.png")
    category = read_category(root)
    found = {sample.path.name: sample.masks for sample in category.test}
    assert found == {"b.png": (root / "test/dent/b_mask.png",), "face_mask.png": (), "c.png": ()}
    assert category.normal_masks == ((root / "test/good/c.png", root / "test/good/c_mask.png"),)
    assert category.train == (root / "train/good/a.png",)
    assert category.unused_masks == (root / "train/good/a_mask.png",)
    lay_out(root, "ground_truth/dent/b_mask.png")
    with pytest.raises(DatasetError, match=r"b\.png has 2 masks"):
        read_category(root)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train/good/a.png", "Train/good/b.png"], "has the folders Train, train, but needs one"),
        (["train/good/a.png", "test/NG/b.png", "test/ng/c.png"], "the folders NG, ng, but needs"),
        (["train/good/a.png", "train/OK/b.png"], r"2 folders whose names say good \(OK, good\)"),
        (["OK/a.png", "good/a.png", "test/x/b.png"], "2 folders whose names say good"),
        (["train/good/a.png", "test/masks/b.png"], "masks is named as ground truth, but would be"),
    ],
)
def test_names_that_contradict_are_refused(tmp_path: Path, files: list[str], message: str) -> None:
    root = lay_out(tmp_path, *files)
    if len({path.name.casefold() for path in root.rglob("*")}) < len(list(root.rglob("*"))):
        (tmp_path / "case").touch()
        if (tmp_path / "CASE").exists():
            pytest.skip("names that differ in their case alone are one name here")
    with pytest.raises(DatasetError, match=message):
        read_category(root)


@pytest.mark.parametrize(
    ("files", "advice"),
    [
        (["OK/a.png", "NG/b.png"], r"\(NG\), but all .* Name the folder of good images: .*/d/OK\."),
        (["OK/lot1/a.png", "dent/b.png"], r"\(dent\).* Name the folder of good images: .*/d/OK\."),
        (["a/b.png", "NG/lot1/c.png"], r"\(NG/lot1\).* Name the folder of good images alone\."),
        (["a/b.png", "test/c.png", "masks/d.png"], r"\(masks, test\).* good images alone\."),
        (["train_good/b.png", "test_good/c.png"], r"\(test_good\).* images: .*train_good\."),
    ],
)
@pytest.mark.parametrize("recursive", [False, True])
def test_a_folder_with_good_and_others_says_which_to_name(
    tmp_path: Path, files: list[str], advice: str, recursive: bool
) -> None:
    root = lay_out(tmp_path / "d", *files)
    with pytest.raises(DatasetError, match=advice) as caught:
        normal_images(root, recursive=recursive)
    assert "--recursive" not in str(caught.value)


def test_good_folders_are_learned_from_together(tmp_path: Path) -> None:
    root = lay_out(tmp_path, "OK/a.png", "ok_2/lot/b.png", "OK/deep/c.png")
    assert len(normal_images(root, recursive=True)) == 3
    lay_out(root, "e.png", "NG/d.png")
    assert normal_images(root) == (root / "e.png",)


def test_defects_with_good_images_among_them_are_refused(tmp_path: Path) -> None:
    root = lay_out(tmp_path, "NG/a.png", "scratch/b.png")
    assert len(expand_defects(root)) == 2
    lay_out(root, "OK/c.png")
    with pytest.raises(DatasetError, match=r"whose names say good \(.*OK\), but needs to be of im"):
        expand_defects(root)


def test_fit_and_update_refuse_to_learn_what_is_not_good(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("OK", "NG"):
        (tmp_path / "d" / name).mkdir(parents=True)
        striped(0).save(tmp_path / "d" / name / "0.png")
    words = [str(tmp_path / "d"), "-o", str(tmp_path / "m.safetensors")]
    for more in ([], ["--recursive"]):
        assert main(["fit", *words, *more]) == 1
        assert f"Name the folder of good images: {tmp_path / 'd/OK'}." in capsys.readouterr().err
    assert main(["update", "m.safetensors", str(tmp_path / "d"), "--recursive"]) == 1
    assert f"Name the folder of good images: {tmp_path / 'd/OK'}." in capsys.readouterr().err
    assert main(["fit", str(tmp_path / "d/NG"), "-o", str(tmp_path / "m.onnx")]) == 2
    assert "NG is named as if its images were not good" in capsys.readouterr().err


def test_photographs_of_a_damaged_label_are_a_kind_of_defect_and_masks_are_not(
    tmp_path: Path,
) -> None:
    lay_out(tmp_path, "train/good/a.png", "test/good/b.png", "test/label/c.png")
    striped(0).save(tmp_path / "test/label/c.png")
    category = read_category(tmp_path)
    assert kinds(category) == {"good": 1, "label": 1}
    assert find_seeming_truth(category) is None
    spot = np.zeros((72, 72), np.uint8)
    spot[9:20, 9:20] = 255
    for name in ("c.png", "c.jpg"):
        Image.fromarray(spot).save(tmp_path / "test/label" / name)
        with pytest.raises(DatasetError, match=r"label is named as ground truth, but would be"):
            read_category(tmp_path)
