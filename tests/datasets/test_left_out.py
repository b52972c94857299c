import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from padim.datasets import expand, expand_defects, expand_good, find_normal, read_dataset
from padim.datasets.left_out import LeftOut, find_left_out, find_left_out_of, find_masks
from padim.datasets.normal import find_good_images
from padim.images.decode import IMAGE_SUFFIXES, read_image


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 9), 70, np.uint8)).save(path)
    return path


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_what_is_decoded_when_named_is_taken_in_a_folder(tmp_path: Path, suffix: str) -> None:
    path = picture(tmp_path / f"a{suffix.upper()}")
    assert expand([tmp_path], recursive=False) == (path,)
    if suffix != ".pbm":  # of black and white
        assert np.abs(read_image(path).astype(int) - 70).max() <= 1


def test_what_is_left_out_is_counted_and_listed(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    for name in ("notes.txt", "b.TXT", "Thumbs.db", "README", ".hidden.png"):
        (tmp_path / name).write_text("x")
    picture(tmp_path / "more" / "c.png")
    (tmp_path / "empty").mkdir()
    dead = ""
    if sys.platform != "win32":  # where links need rights
        (tmp_path / "x.png").symlink_to(tmp_path / "gone.png")
        os.mkfifo(tmp_path / "p.png")
        dead = "; 1 dead link: x.png; 1 pipe or device"
    assert find_left_out([tmp_path, tmp_path / "a.png"]).describe() == (
        "Left out: 4 files that are no images (.txt 2, no suffix 1, .db 1); 1 hidden file"
        f"{dead}; 1 folder of images, for which there is --recursive: more."
    )
    found = find_left_out([tmp_path], [tmp_path / "notes.txt"], recursive=True)
    assert (dict(found.suffixes)[".txt"], found.folders) == (1, ())


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights")
def test_links_to_folders_are_said_and_not_followed(tmp_path: Path) -> None:
    taken = picture(tmp_path / "a" / "0.png")
    picture(tmp_path / "other" / "1.png")
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "a" / "more").symlink_to(tmp_path / "other")
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a")
    assert expand([tmp_path / "a"], recursive=True) == (taken,)
    assert find_left_out([tmp_path / "a"], recursive=True).describe() == (
        "Left out: 1 dead link: gone.png; 2 links to folders, not followed: more, self."
    )


def test_nothing_left_out_is_nothing_said(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    assert find_left_out([tmp_path]) == LeftOut()
    assert not LeftOut().describe()


def test_masks_of_a_category_are_used(tmp_path: Path) -> None:
    for name in ("train/good/0.png", "test/good/1.png", "test/spot/2.png"):
        picture(tmp_path / name)
    picture(tmp_path / "ground_truth/spot/2_mask.png")
    (tmp_path / "test/spot/notes.txt").touch()
    (tmp_path / "license.txt").touch()
    found = find_left_out_of(read_dataset(tmp_path))
    assert found == LeftOut(suffixes=((".txt", 1),), is_recursion_offered=False)


def test_folders_inside_those_of_a_category_are_listed_unless_they_are_taken(
    tmp_path: Path,
) -> None:
    for name in (
        "train/good/0.png",
        "train/good/lot/1.png",
        "test/spot/2.png",
        "test/spot/m/2.png",
    ):
        picture(tmp_path / name)
    (category,) = read_dataset(tmp_path)
    said = "Left out: 2 folders of images: lot, m."
    assert find_left_out_of([category]).describe() == said
    category = find_normal(tmp_path, recursive=True).category
    assert category is not None
    assert find_left_out_of([category]).describe() == "Left out: 1 folder of images: m."


def test_what_lies_beside_images_of_a_list_is_nobodys_business(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / name)
    rows = "a.png,train,good\nb.png,test,good\n"
    (tmp_path / "manifest.csv").write_text(f"path,split,label\n{rows}")
    assert not find_left_out_of(read_dataset(tmp_path)).describe()


@pytest.mark.parametrize("name", ["a_mask", "a-GT", "a_label", "a.ground_truth", "a_Mask_2"])
@pytest.mark.parametrize("place", ["lot/", ""])
def test_masks_beside_good_images_are_not_learned_from_and_listed(
    tmp_path: Path, place: str, name: str
) -> None:
    image, mask = picture(tmp_path / f"{place}a.bmp"), picture(tmp_path / f"{place}{name}.png")
    others = [picture(tmp_path / one) for one in ("mask.png", "b_mask.png", "a_side.png")]
    found = find_normal(tmp_path, recursive=True)
    assert (set(found.paths), found.masks) == ({image, *others}, (mask,))
    assert set(expand_good([tmp_path], recursive=True)) == {image, *others}
    assert expand_good([image, mask], recursive=False) == (image,)
    assert expand_defects(tmp_path) == expand_good([tmp_path], recursive=True)
    assert find_good_images([tmp_path], recursive=True).masks == (mask,)
    assert find_masks([tmp_path], recursive=True).describe() == (
        f"Left out: 1 mask beside the images, as their names say: {mask.name}."
    )


def test_masks_beside_images_of_a_category_are_paired_or_listed(tmp_path: Path) -> None:
    for name in ("train/good/0", "train/good/0_gt", "train/good/lot/1", "train/good/lot/1_label"):
        picture(tmp_path / f"{name}.png")
    for name in ("test/spot/2", "test/spot/2_GT", "test/good/3", "test/good/3_label"):
        picture(tmp_path / f"{name}.png")
    category = find_normal(tmp_path, recursive=True).category
    assert category is not None
    assert [path.name for path in category.train] == ["0.png", "1.png"]
    assert find_left_out_of([category]).describe() == (
        "Left out: 2 masks beside the images, as their names say: 0_gt.png, 1_label.png."
    )
    good, spot = category.test
    assert [path.name for path in spot.masks] == ["2_GT.png"]
    assert category.normal_masks == ((good.path, good.path.with_name("3_label.png")),)


def test_images_beside_the_folders_that_label_them_are_listed(tmp_path: Path) -> None:
    for name in ("train/good/0.png", "train/1.png", "test/good/2.png", "Test_.png", "test/3.png"):
        picture(tmp_path / name)
    found = find_left_out_of(read_dataset(tmp_path, layout="mvtec"))
    assert found.describe() == (
        "Left out: 2 images in no folder that says what they show: train/1.png, test/3.png."
    )


def test_annotations_of_good_images_are_used(tmp_path: Path) -> None:
    for name in ("train/good/0.png", "test/good/1.png", "test/spot/2.png"):
        picture(tmp_path / name)
    for name in ("test/good/1.json", "test/spot/2.json"):
        (tmp_path / name).write_text('{"shapes": [], "imageHeight": 8, "imageWidth": 9}')
    assert not find_left_out_of(read_dataset(tmp_path)).describe()


def test_a_folder_that_cannot_be_looked_into_is_listed_and_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "lost").mkdir()
    look = os.scandir

    def refuse(folder: Path) -> Iterator[os.DirEntry[str]]:
        if folder.name == "lost":
            raise PermissionError(13, "Permission denied")
        return look(folder)

    monkeypatch.setattr("padim.datasets.folder.os.scandir", refuse)
    assert find_left_out([tmp_path]).folders == (tmp_path / "lost",)
