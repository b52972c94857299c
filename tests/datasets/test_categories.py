import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from trees import lay_out

from padim.datasets import (
    MVTEC_OBJECTS,
    MVTEC_TEXTURES,
    Category,
    Sample,
    expand,
    list_images,
    normal_images,
    read_category,
    read_dataset,
)
from padim.errors import DatasetError, PathMissingError, UnknownNameError


def names(root: Path, paths: tuple[Path, ...]) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]


@pytest.fixture
def bottle(tmp_path: Path) -> Path:
    return lay_out(
        tmp_path / "bottle",
        "train/good/001.png",
        "train/good/000.png",
        "test/good/000.png",
        "test/crack/000.png",
        "test/crack/001.png",
        "test/hole/000.png",
        "ground_truth/crack/000_mask.png",
        "ground_truth/hole/000_mask.png",
        "license.txt",
    )


def test_images_are_listed_by_suffix_whatever_its_case(tmp_path: Path) -> None:
    lay_out(tmp_path, "b.PNG", "a.jpeg", "c.Tiff", "d.webp", "e.txt", "png", "f.png.txt")
    assert names(tmp_path, list_images(tmp_path)) == ["a.jpeg", "b.PNG", "c.Tiff", "d.webp"]


def test_images_are_sorted_by_code_point(tmp_path: Path) -> None:
    lay_out(tmp_path, "é.png", "a.png", "B.png", "a10.png", "a2.png", "a-1.png")
    expected = ["B.png", "a-1.png", "a.png", "a10.png", "a2.png", "é.png"]
    assert names(tmp_path, list_images(tmp_path)) == expected


def test_recursive_lists_sort_by_the_whole_relative_path(tmp_path: Path) -> None:
    # "-" comes before "/", which comes before "0".
    lay_out(tmp_path, "a/z.png", "a-b/y.png", "a0/x.png", "a.png", "a/deep/er/w.png")
    assert names(tmp_path, list_images(tmp_path)) == ["a.png"]
    expected = ["a-b/y.png", "a.png", "a/deep/er/w.png", "a/z.png", "a0/x.png"]
    assert names(tmp_path, list_images(tmp_path, recursive=True)) == expected


def test_hidden_files_and_folders_are_skipped(tmp_path: Path) -> None:
    lay_out(tmp_path, ".a.png", "b.png", ".cache/c.png", "d/._e.png", "d/f.png")
    assert names(tmp_path, list_images(tmp_path, recursive=True)) == ["b.png", "d/f.png"]


def test_folders_named_like_images_are_no_images(tmp_path: Path) -> None:
    lay_out(tmp_path, "a.png/b.png")
    assert list_images(tmp_path) == ()


def test_a_hidden_folder_that_is_asked_for_is_listed(tmp_path: Path) -> None:
    lay_out(tmp_path, ".hidden/a.png")
    assert names(tmp_path, list_images(tmp_path / ".hidden")) == [".hidden/a.png"]


def test_links_to_folders_are_not_followed_in_circles(tmp_path: Path) -> None:
    lay_out(tmp_path, "a/b.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    assert names(tmp_path, list_images(tmp_path, recursive=True)) == ["a/b.png"]


def test_expand_keeps_files_and_lists_folders_once_each(tmp_path: Path) -> None:
    lay_out(tmp_path, "f/b.png", "f/a.png", "f/deep/c.png", "odd.dat", "z.png")
    given = [tmp_path / "z.png", tmp_path / "f/b.png", tmp_path / "f", tmp_path / "odd.dat"]
    assert names(tmp_path, expand([*given, *given], recursive=False)) == [
        "z.png",
        "f/b.png",
        "f/a.png",
        "odd.dat",
    ]
    assert names(tmp_path, expand([tmp_path / "f"], recursive=True)) == [
        "f/a.png",
        "f/b.png",
        "f/deep/c.png",
    ]
    assert expand([], recursive=False) == ()


def test_one_file_named_in_two_ways_is_taken_as_first_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out(tmp_path, "a.png")
    monkeypatch.chdir(tmp_path)
    assert expand([Path("a.png"), tmp_path / "a.png"], recursive=False) == (Path("a.png"),)


def test_normal_images_of_a_category_are_those_of_train_good(bottle: Path) -> None:
    lay_out(bottle, "stray.png", "train/bad/000.png", "train/good/deep/002.png")
    expected = ["train/good/000.png", "train/good/001.png"]
    assert names(bottle, normal_images(bottle)) == expected
    expected.append("train/good/deep/002.png")
    assert names(bottle, normal_images(bottle, recursive=True)) == expected


def test_normal_images_of_a_plain_folder_are_its_own(tmp_path: Path) -> None:
    lay_out(tmp_path, "a.png", "deep/b.png")
    assert names(tmp_path, normal_images(tmp_path)) == ["a.png"]
    assert names(tmp_path, normal_images(tmp_path, recursive=True)) == ["a.png", "deep/b.png"]


def test_normal_images_of_several_paths_are_joined(bottle: Path) -> None:
    lay_out(bottle.parent, "more/a.png", "b.png")
    paths = [bottle.parent / "b.png", bottle, bottle.parent / "more", bottle]
    assert names(bottle.parent, normal_images(paths)) == [
        "b.png",
        "bottle/train/good/000.png",
        "bottle/train/good/001.png",
        "more/a.png",
    ]


@pytest.mark.parametrize(
    "read",
    [
        list_images,
        lambda path: expand([path], recursive=False),
        normal_images,
        read_category,
        read_dataset,
    ],
)
def test_missing_paths_are_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(
        PathMissingError, match=r"nowhere does not exist, but an? .* is needed\. Check the path"
    ):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize("read", [list_images, read_category, read_dataset])
def test_a_file_is_no_folder(tmp_path: Path, read: Callable[[Path], object]) -> None:
    lay_out(tmp_path, "a.png")
    with pytest.raises(DatasetError, match=r"a\.png is no folder, but needs to be one"):
        read(tmp_path / "a.png")


def test_a_folder_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", deny)  # root may read everything
    with pytest.raises(DatasetError, match=r"Permission denied.* but needs to be readable"):
        list_images(tmp_path)


def test_an_impossible_name_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="name too long"):
        list_images(tmp_path / ("a" * 300))


@pytest.mark.parametrize("read", [normal_images, lambda path: expand([path], recursive=False)])
def test_a_folder_without_images_says_what_it_has(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    lay_out(tmp_path, "a.txt", "b.md")
    expected = (
        r"has no images but 2 other files; it needs files that end in \.bmp, .*Check the path"
    )
    with pytest.raises(DatasetError, match=expected):
        read(tmp_path)
    lay_out(tmp_path, "deep/c.png", "deep/er/d.png")
    with pytest.raises(DatasetError, match="Use --recursive to take the 2 images of the folders"):
        read(tmp_path)


@pytest.mark.parametrize("recursive", [False, True])
def test_normal_images_of_a_dataset_are_refused(bottle: Path, recursive: bool) -> None:
    lay_out(bottle.parent, "cable/train/good/000.png", "stray.png")
    expected = (
        r"has categories inside \(bottle, cable\), but .* Name one category, such as .*bottle"
    )
    with pytest.raises(DatasetError, match=expected):
        normal_images(bottle.parent, recursive=recursive)


def test_recursive_normal_images_never_take_the_test_images_of_a_category(bottle: Path) -> None:
    outer = lay_out(bottle.parent.parent / "outer", "a.png")
    bottle.parent.rename(outer / "dataset")
    assert names(outer, normal_images(outer)) == ["a.png"]
    with pytest.raises(DatasetError, match=r"has categories inside \(dataset/bottle\)"):
        normal_images(outer, recursive=True)


def test_a_category_without_normal_images_is_refused(tmp_path: Path) -> None:
    lay_out(tmp_path, "train/good/readme.txt")
    for read in (normal_images, read_category):
        with pytest.raises(DatasetError, match="good has no images but 1 other file; it"):
            read(tmp_path)


def test_a_category_is_read(bottle: Path) -> None:
    category = read_category(bottle)
    truth = bottle / "ground_truth"
    test = bottle / "test"
    assert category == Category(
        name="bottle",
        root=bottle,
        train=(bottle / "train/good/000.png", bottle / "train/good/001.png"),
        test=(
            Sample(test / "crack/000.png", "crack", (truth / "crack/000_mask.png",)),
            Sample(test / "crack/001.png", "crack"),
            Sample(test / "good/000.png", "good"),
            Sample(test / "hole/000.png", "hole", (truth / "hole/000_mask.png",)),
        ),
    )
    assert [sample.is_anomalous for sample in category.test] == [True, True, False, True]
    assert (category.n_normal, category.n_anomalous) == (1, 3)
    assert category.missing_masks == (test / "crack/001.png",)
    assert category.unused_masks == ()
    with pytest.raises(FrozenInstanceError):
        category.name = "cable"  # type: ignore[misc]  # refused when it runs, too


def test_a_category_describes_itself(bottle: Path) -> None:
    assert read_category(bottle).describe() == (
        "bottle: learning from train/good (2 images); test: crack (2), good (1), hole (1).\n"
        "Masks: 2 found, 1 missing."
    )
    lay_out(bottle, "ground_truth/crack/009_mask.png")
    assert read_category(bottle).describe().endswith("1 missing, 1 of no test image.")


def test_a_category_without_test_images_describes_itself(tmp_path: Path) -> None:
    category = read_category(lay_out(tmp_path / "tile", "train/good/a.png"))
    assert category.test == ()
    assert category.describe() == (
        "tile: learning from train/good (1 image); test: none.\nMasks: 0 found, 0 missing."
    )


def test_masks_pair_by_name_not_by_position(bottle: Path) -> None:
    images = ("anomaly-1", "anomaly-2", "anomaly-10", "anomaly-1.5", "anomaly-10_b")
    lay_out(bottle, *(f"test/rust/{name}.bmp" for name in images))
    lay_out(bottle, *(f"ground_truth/rust/{name}_mask.png" for name in images[:-1]))
    lay_out(bottle, "ground_truth/rust/anomaly-10_b.tif")
    pairs = {
        sample.path.stem: sample.masks[0].name
        for sample in read_category(bottle).test
        if sample.defect == "rust" and sample.masks
    }
    assert pairs == {
        "anomaly-1": "anomaly-1_mask.png",
        "anomaly-1.5": "anomaly-1.5_mask.png",
        "anomaly-2": "anomaly-2_mask.png",
        "anomaly-10": "anomaly-10_mask.png",
        "anomaly-10_b": "anomaly-10_b.tif",
    }


def test_a_name_with_mask_wins_over_the_plain_name(bottle: Path) -> None:
    lay_out(bottle, "ground_truth/hole/000.png")
    category = read_category(bottle)
    assert category.test[-1].masks == (bottle / "ground_truth/hole/000_mask.png",)
    assert category.unused_masks == (bottle / "ground_truth/hole/000.png",)


def test_masks_of_no_test_image_are_unused(bottle: Path) -> None:
    lay_out(
        bottle,
        "ground_truth/crack/007_mask.png",
        "ground_truth/crack/readme.txt",
        "ground_truth/dent/000_mask.png",
        "ground_truth/good/000_mask.png",
    )
    category = read_category(bottle)
    assert names(bottle / "ground_truth", category.unused_masks) == [
        "crack/007_mask.png",
        "dent/000_mask.png",
    ]
    assert all(not sample.masks for sample in category.test if not sample.is_anomalous)


@pytest.mark.parametrize("stem", ["001_mask", "001"])
def test_two_masks_of_one_image_are_refused(bottle: Path, stem: str) -> None:
    lay_out(bottle, f"ground_truth/crack/{stem}.png", f"ground_truth/crack/{stem}.bmp")
    expected = rf"001\.png has 2 masks \(.*{stem}\.bmp, .*{stem}\.png\), but needs one"
    with pytest.raises(DatasetError, match=expected):
        read_category(bottle)


def test_one_mask_of_two_images_is_refused(bottle: Path) -> None:
    lay_out(bottle, "test/crack/000.bmp")
    expected = (
        r"000_mask\.png is the mask of both .*000\.bmp and .*000\.png, but needs to be of one"
    )
    with pytest.raises(DatasetError, match=expected):
        read_category(bottle)


def test_a_folder_of_another_layout_is_no_category(tmp_path: Path) -> None:
    lay_out(tmp_path, "dent/a.png", "hole/b.png")
    expected = (
        r"has dent, hole inside, but needs to be a category\. The known layouts are MVTec AD "
    )
    with pytest.raises(DatasetError, match=expected):
        read_category(tmp_path)


def test_a_category_is_named_as_its_folder_even_from_within(
    bottle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bottle / "train")
    assert read_category(Path("..")).name == "bottle"
    monkeypatch.chdir(bottle)
    assert read_category(Path()).name == "bottle"


@pytest.fixture
def dataset(bottle: Path) -> Path:
    return lay_out(
        bottle.parent,
        "wood/train/good/a.png",
        "cable/train/good/a.png",
        "notes/a.png",
        ".hidden/train/good/a.png",
        "readme.txt",
    )


def test_a_root_gives_all_its_categories_sorted(dataset: Path) -> None:
    assert [category.name for category in read_dataset(dataset)] == ["bottle", "cable", "wood"]


def test_a_root_gives_the_named_categories_sorted(dataset: Path) -> None:
    categories = read_dataset(dataset, ["wood", "bottle", "wood"])
    assert [category.name for category in categories] == ["bottle", "wood"]


def test_a_category_may_stand_for_a_root(bottle: Path) -> None:
    assert read_dataset(bottle) == read_dataset(bottle, ["bottle"]) == (read_category(bottle),)
    with pytest.raises(UnknownNameError, match=r"no category 'wood'\. Known: bottle"):
        read_dataset(bottle, ["wood"])


def test_an_unknown_category_is_named(dataset: Path) -> None:
    expected = re.escape("no category 'botle'. Did you mean 'bottle'? Known: bottle, cable, wood.")
    with pytest.raises(UnknownNameError, match=expected):
        read_dataset(dataset, ["wood", "botle"])


def test_a_root_without_categories_explains_the_layout(tmp_path: Path) -> None:
    lay_out(tmp_path, "bottle/good/a.png")
    expected = r"has bottle inside, but needs to be a category or to hold some\. The known layouts"
    with pytest.raises(DatasetError, match=expected):
        read_dataset(tmp_path)


def test_mvtec_has_its_fifteen_categories() -> None:
    assert len({*MVTEC_TEXTURES, *MVTEC_OBJECTS}) == 15
    assert (len(MVTEC_TEXTURES), len(MVTEC_OBJECTS)) == (5, 10)
