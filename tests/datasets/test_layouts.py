"""Each layout in a small tree that has its exact names."""

import csv
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from hostile.mutate_json import mutate_json
from PIL import Image
from pyarrow import parquet

import padim.datasets.manifest
from padim.datasets import LAYOUTS, Category, normal_images, read_category, read_dataset
from padim.errors import DatasetError, MissingExtraError, PadimError, ShapeError, UnknownNameError


def picture(path: Path, level: int = 128, side_px: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side_px, side_px), (level, level, level)).save(path)
    return path


def mask(path: Path, value: int = 255, n_px: int = 4, side_px: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.zeros((side_px, side_px), np.uint8)
    levels.flat[:n_px] = value
    Image.fromarray(levels).save(path)
    return path


def pictures(root: Path, *names: str) -> None:
    for name in names:
        picture(root / name)


def mvtec(root: Path) -> Path:
    pictures(root / "bottle", "train/good/000.png", "test/good/000.png", "test/crack/000.png")
    mask(root / "bottle/ground_truth/crack/000_mask.png")
    return root


def loco(root: Path) -> Path:
    for category in ("pushpins", "screw_bag"):
        pictures(
            root / category,
            "train/good/000.png",
            "train/good/001.png",
            "validation/good/000.png",
            "test/good/000.png",
            "test/logical_anomalies/000.png",
            "test/structural_anomalies/000.png",
        )
        truth = root / category / "ground_truth"
        mask(truth / "logical_anomalies/000/000.png", 255, 4)
        mask(truth / "logical_anomalies/000/001.png", 254, 10)
        mask(truth / "structural_anomalies/000/000.png", 253, 6)
        kinds = [("missing", 255, 3, False), ("extra", 254, 0.5, True), ("bent", 253, 99, False)]
        keys = ("defect_name", "pixel_value", "saturation_threshold", "relative_saturation")
        config = [dict(zip(keys, kind, strict=True)) for kind in kinds]
        (root / category / "defects_config.json").write_text(json.dumps(config))
    return root


def mvtec_2(root: Path) -> Path:
    pictures(
        root / "can",
        "train/good/000_regular.png",
        "validation/good/000_regular.png",
        "test_public/good/000_regular.png",
        "test_public/bad/000_overexposed.png",
        "test_public/bad/001_regular.png",
        "test_private/000_regular.png",
        "test_private_mixed/000_mixed.png",
    )
    truth = root / "can/test_public/ground_truth/bad"
    mask(truth / "000_overexposed_mask.png")
    mask(truth / "001_regular_mask.png")
    return root


def visa(root: Path) -> Path:
    rows = [
        ("candle", "train", "normal", "candle/Data/Images/Normal/0000.JPG", ""),
        ("candle", "train", "normal", "candle/Data/Images/Normal/0001.JPG", ""),
        ("candle", "test", "normal", "candle/Data/Images/Normal/0002.JPG", ""),
        (
            *("candle", "test", "anomaly", "candle/Data/Images/Anomaly/000.JPG"),
            "candle/Data/Masks/Anomaly/000.png",
        ),
        ("pcb1", "train", "normal", "pcb1/Data/Images/Normal/0000.JPG", ""),
    ]
    for *_, image, truth in rows:
        picture(root / image)
        if truth:
            mask(root / truth, 3)
    write_csv(root / "split_csv/1cls.csv", ("object", "split", "label", "image", "mask"), rows)
    return root


def btad(root: Path) -> Path:
    for category, suffix, of_mask in (("01", "bmp", "png"), ("03", "bmp", "bmp")):
        names = ("train/ok/0000", "test/ok/0000", "test/ko/0000")
        pictures(root / category, *(f"{name}.{suffix}" for name in names))
        mask(root / category / f"ground_truth/ko/0000.{of_mask}")
    return root


def kolektor(root: Path) -> Path:
    for name, n_px in {
        "train/10000": 0,
        "train/10001": 5,
        "test/20000": 0,
        "test/20001": 5,
    }.items():
        picture(root / f"{name}.png")
        mask(root / f"{name}_GT.png", n_px=n_px)
    picture(root / "train/10000 (copy).png")
    mask(root / "train/10000_GT (copy).png", n_px=0)
    return root


def real_iad(root: Path) -> Path:
    images = root / "realiad_1024/audiojack"
    good, bad = "OK/S0001/audiojack_0001_OK_C1_2023.jpg", "NG/BX/S0002/audiojack_0002_NG_BX_C1_2023"
    unseen = "NG/BX/S0002/audiojack_0002_NG_BX_C2_2023.jpg"
    pictures(images, good, f"{bad}.jpg", unseen, "OK/S0003/audiojack_0003_OK_C1_2023.jpg")
    mask(images / f"{bad}.png")

    def entry(path: str, kind: str = "OK", truth: str | None = None) -> dict[str, str | None]:
        names = ("category", "anomaly_class", "image_path", "mask_path")
        return dict(zip(names, ("audiojack", kind, path, truth), strict=True))

    document = {
        "meta": {"normal_class": "OK", "prefix": "audiojack/"},
        "train": [entry(good)],
        "test": [
            entry(f"{bad}.jpg", "BX", f"{bad}.png"),
            entry(unseen),
            entry("OK/S0003/audiojack_0003_OK_C1_2023.jpg"),
        ],
    }
    for lists in ("realiad_jsons/realiad_jsons", "realiad_jsons/realiad_jsons_sv"):
        (root / lists).mkdir(parents=True)
        (root / lists / "audiojack.json").write_text(json.dumps(document))
    return root


def folders(root: Path) -> Path:
    pictures(root, "train/a.png", "train/b.png", "test/good/c.png", "test/dent/d.png")
    mask(root / "ground_truth/dent/d.png")
    return root


def manifest(root: Path) -> Path:
    pictures(root, "a.png", "b.png", "shots/c.png", "shots/d.png")
    mask(root / "masks/d.png")
    rows = [
        ("a.png", "train", "good", "", "lid", ""),
        ("b.png", "val", "normal", "", "lid", ""),
        ("shots/c.png", "test", "0", "", "lid", ""),
        ("shots/d.png", "test", "bad", "masks/d.png", "lid", "dent"),
    ]
    write_csv(root / "manifest.csv", ("path", "split", "label", "mask", "category", "defect"), rows)
    return root


def write_csv(path: Path, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


TREES: dict[str, tuple[Callable[[Path], Path], list[str], str]] = {
    "mvtec": (mvtec, ["bottle"], "bottle"),
    "mvtec-loco": (loco, ["pushpins", "screw_bag"], "screw_bag"),
    "mvtec-2": (mvtec_2, ["can"], "can"),
    "visa": (visa, ["candle", "pcb1"], "candle"),
    "btad": (btad, ["01", "03"], "03"),
    "kolektor": (kolektor, ["data"], "."),
    "real-iad": (real_iad, ["audiojack"], "realiad_1024/audiojack"),
    "folders": (folders, ["data"], "."),
    "manifest": (manifest, ["lid"], "."),
}
every_layout = pytest.mark.parametrize("key", LAYOUTS)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


def held(category: Category) -> list[str]:
    """Defect, image and masks of the test images, from the category's folder."""
    return [
        " ".join([sample.defect, category.name_of(sample.path), *map(category.name_of, masks)])
        for sample in category.test
        for masks in [sample.masks]
    ]


@every_layout
def test_a_layout_is_recognised_and_only_that(key: str, root: Path) -> None:
    make, names, _ = TREES[key]
    found = read_dataset(make(root))
    assert [category.name for category in found] == names
    assert {category.layout for category in found} == {LAYOUTS[key].title}
    assert read_dataset(root, layout=key) == found
    assert read_dataset(root, names[-1:]) == found[-1:]
    with pytest.raises(UnknownNameError, match="no category 'botle'"):
        read_dataset(root, ["botle"])


@every_layout
def test_a_category_of_any_layout_stands_for_itself(key: str, root: Path) -> None:
    make, _, place = TREES[key]
    make(root)
    category = read_category(root / place)
    assert category in read_dataset(root)
    assert read_dataset(root / place)[0] == category
    assert normal_images(root / place) == category.train
    assert category.train


@every_layout
def test_each_test_image_is_known_once_and_its_mask_is_read(key: str, root: Path) -> None:
    for category in read_dataset(TREES[key][0](root)):
        paths = [sample.path for sample in category.test]
        assert len(set(paths)) == len(paths)
        assert all(path.is_file() for path in category.images())
        assert category.missing_masks == category.unused_masks == category.normal_masks == ()
        for sample in category.test:
            truth = sample.read_mask()
            assert (truth is not None) == sample.is_anomalous
            assert truth is None or (truth.shape == (8, 8) and truth.any())
            assert all(not path.is_absolute() or path.is_file() for path in sample.masks)


def test_the_shapes_of_an_unknown_folder_are_listed(root: Path) -> None:
    pictures(root, "dent/a.png", "hole/b.png")
    with pytest.raises(DatasetError, match="has dent, hole inside, but needs to be") as caught:
        read_dataset(root)
    assert all(f"{one.title} ({key}): " in str(caught.value) for key, one in LAYOUTS.items())
    with pytest.raises(DatasetError, match=r"The layout is BTAD \(btad\): train/ok"):
        read_dataset(root, layout="btad")
    with pytest.raises(UnknownNameError, match=r"no layout 'vissa'\. Did you mean 'visa'\?"):
        read_dataset(root, layout="vissa")


def test_two_layouts_at_once_are_refused_until_one_is_named(root: Path) -> None:
    mvtec(btad(root))
    with pytest.raises(DatasetError, match=r"MVTec AD \(bottle\) and BTAD \(01, 03\), but needs"):
        read_dataset(root)
    with pytest.raises(DatasetError, match=r"with --layout: mvtec, btad\. .* with --category\."):
        read_dataset(root, ["bottle", "03"])
    assert [category.name for category in read_dataset(root, layout="btad")] == ["01", "03"]
    assert [category.name for category in read_dataset(root, ["03", "01"])] == ["01", "03"]
    assert [one.name for one in read_dataset(root, layout="folders")] == ["01", "03", "bottle"]
    with pytest.raises(UnknownNameError, match=r"no category 'botle'\. Did you mean 'bottle'\?"):
        read_dataset(root, ["botle"])


@pytest.mark.parametrize("good", ["OK", "good", "Normal"])
def test_plain_folders_may_have_any_name_of_good_in_train(good: str, root: Path) -> None:
    pictures(root, f"train/{good}/a.png", "test/NG/b.png", f"test/{good}/c.png")
    category = read_category(root, "folders")
    assert (category.layout, category.train) == ("plain folders", (root / f"train/{good}/a.png",))
    assert held(category) == ["NG test/NG/b.png", f"good test/{good}/c.png"]
    assert read_dataset(root, layout="folders") == (category,)
    assert [one.name for one in read_dataset(root)] == ["data"]


def test_a_layout_that_does_not_fit_is_refused_with_the_one_that_does(root: Path) -> None:
    expected = (
        r"has the layout of BTAD \(train/ok.*\), but --layout mvtec needs train/good, .*\. "
        r"Leave out --layout, or give btad\."
    )
    for folder in (btad(root), root / "01"):
        with pytest.raises(DatasetError, match=expected):
            read_dataset(folder, layout="mvtec")


@pytest.mark.parametrize("layout", [None, "folders"])
def test_good_and_other_images_beside_each_other_are_told_to_be_split(
    layout: str | None, root: Path
) -> None:
    pictures(root, "OK/a.png", "NG/b.png", "masks/b.png", "scratch/c.png")
    expected = (
        f"{root} has OK and NG, scratch beside each other, but needs test images apart from those "
        f"to learn from. Move {root / 'NG'} to {root / 'test/NG'}, {root / 'scratch'} to "
        f"{root / 'test/scratch'}, some of {root / 'OK'} to {root / 'test/good'}, and the rest to "
        f"{root / 'train/good'}."
    )
    for read in (read_dataset, read_category):
        with pytest.raises(DatasetError) as caught:
            read(root, layout=layout)
        assert str(caught.value) == expected


def test_mvtec_loco_has_several_masks_and_saturations(root: Path) -> None:
    category = read_dataset(loco(root), ["pushpins"])[0]
    assert held(category) == [
        "good test/good/000.png",
        "logical_anomalies test/logical_anomalies/000.png "
        "ground_truth/logical_anomalies/000/000.png ground_truth/logical_anomalies/000/001.png",
        "structural_anomalies test/structural_anomalies/000.png "
        "ground_truth/structural_anomalies/000/000.png",
    ]
    assert len(category.validation) == 1
    assert "; 1 more for validation." in category.describe()
    logical, structural = category.test[1:]
    assert logical.read_mask().sum() == 10
    regions = [(int(r.mask.sum()), r.saturation_px) for r in logical.read_regions()]
    assert regions == [(4, 3), (10, 5)]
    (bent,) = structural.read_regions()
    assert bent.saturation_px == 6  # 99 are more than it has
    assert hash(logical)


def test_a_folder_may_be_taken_for_the_layout_that_its_own_refines(root: Path) -> None:
    category, _ = read_dataset(loco(root), layout="mvtec")
    assert (category.layout, category.validation) == ("MVTec AD", ())


def test_mvtec_loco_masks_that_do_not_fit_are_named(root: Path) -> None:
    truth = loco(root) / "pushpins/ground_truth/logical_anomalies"
    mask(truth / "007/000.png")
    mask(truth / "000/002.png", side_px=9)
    category = read_dataset(root)[0]
    assert category.unused_masks == (truth / "007/000.png",)
    with pytest.raises(ShapeError, match=r"002\.png has 9x9 px, but .*000\.png has 8x8"):
        category.test[1].read_mask()
    mask(truth / "000/002.png", 7)
    with pytest.raises(DatasetError, match=r"drawn with 7, but .* knows 253, 254, 255"):
        category.test[1].read_regions()
    levels = np.zeros((8, 8), np.uint8)
    levels[0], levels[1] = 254, 255
    Image.fromarray(levels).save(truth / "000/002.png")
    with pytest.raises(DatasetError, match=r"drawn with 254, 255, but needs one value"):
        category.test[1].read_regions()
    (root / "pushpins/defects_config.json").write_text('[{"defect_name": "bent"}]')
    with pytest.raises(DatasetError, match=r"cannot be understood: .* field pixel_value"):
        read_dataset(root)


def test_mvtec_ad_2_is_read_where_it_is_public(root: Path) -> None:
    (category,) = read_dataset(mvtec_2(root))
    assert held(category) == [
        "bad test_public/bad/000_overexposed.png "
        "test_public/ground_truth/bad/000_overexposed_mask.png",
        "bad test_public/bad/001_regular.png test_public/ground_truth/bad/001_regular_mask.png",
        "good test_public/good/000_regular.png",
    ]
    assert len(category.validation) == 1


def test_visa_is_split_as_its_table_says(root: Path) -> None:
    stray = mask(visa(root) / "candle/Data/Masks/Anomaly/009.png")
    candle, pcb1 = read_dataset(root)
    assert [path.name for path in candle.train] == ["0000.JPG", "0001.JPG"]
    assert held(candle) == [
        "anomaly Data/Images/Anomaly/000.JPG Data/Masks/Anomaly/000.png",
        "good Data/Images/Normal/0002.JPG",
    ]
    assert candle.unused_masks == (stray,)
    assert pcb1.test == ()
    (root / "split_csv/1cls.csv").write_text("object,image\n")
    with pytest.raises(DatasetError, match=r"has the columns object, image, but needs object, sp"):
        read_dataset(root)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("candle,dev,normal,x.JPG,", "Row 6 of .* has the split 'dev', but needs train, val"),
        ("candle,train,anomaly,x.JPG,", "the label 'anomaly' in train, but needs good there"),
        ("candle,test", "Row 6 of .* has an empty cell, but needs a path and a label"),
        ("candle,test,normal,\xe9.JPG,", "is no CSV file in UTF-8"),
        ("..,test,normal,x.JPG,", r"Row 6 of .* has the category '\.\.', but needs a name"),
        (",test,normal,x.JPG,", "the category '', but needs a name"),
        ("/candle,test,normal,x.JPG,", "the category '/candle', but needs a name"),
        ("candle,test,../../x,x.JPG,", r"the defect '\.\./\.\./x', but needs a name"),
        ("candle,test,a\0b,x.JPG,", "the defect .*, but needs a name"),
        ("candle,test,normal,candle/./Data/Images/Normal/0000.JPG,", "Row 6 .* the image of row 1"),
        ("candle,test,normal,candle/Data/Images/Anomaly/000.JPG,", "Row 6 .* the image of row 4"),
    ],
)
def test_a_row_of_visa_that_cannot_be_meant_is_refused(row: str, message: str, root: Path) -> None:
    with (visa(root) / "split_csv/1cls.csv").open("a", encoding="latin-1") as file:
        file.write(row)
    with pytest.raises(DatasetError, match=message):
        read_dataset(root)


def test_visa_splits_as_a_manifest_does(root: Path) -> None:
    with (visa(root) / "split_csv/1cls.csv").open("a") as file:
        file.write(
            "candle,TEST,anomaly,a.JPG,\ncandle,Test,normal,b.JPG,\ncandle,val,normal,c.JPG,"
        )
    candle, _ = read_dataset(root)
    assert [path.name for path in candle.train] == ["0000.JPG", "0001.JPG"]
    assert [path.name for path in candle.validation] == ["c.JPG"]
    assert {"anomaly a.JPG", "good b.JPG"} < {
        f"{sample.defect} {sample.path.name}" for sample in candle.test
    }


def test_visa_converted_to_folders_is_read_as_mvtec(root: Path) -> None:
    pictures(root / "candle", "train/good/0836.JPG", "test/good/0001.JPG", "test/bad/000.JPG")
    mask(root / "candle/ground_truth/bad/000.png")
    (category,) = read_dataset(root)
    assert category.layout == "MVTec AD"
    assert held(category)[0] == "bad test/bad/000.JPG ground_truth/bad/000.png"


def test_btad_calls_good_images_ok(root: Path) -> None:
    first, third = read_dataset(btad(root))
    assert held(first) == ["ko test/ko/0000.bmp ground_truth/ko/0000.png", "good test/ok/0000.bmp"]
    assert held(third)[0] == "ko test/ko/0000.bmp ground_truth/ko/0000.bmp"


def test_kolektor_is_defective_where_the_mask_is_not_empty(root: Path) -> None:
    (category,) = read_dataset(kolektor(root))
    assert [path.name for path in category.train] == ["10000.png"]
    assert held(category) == ["defective test/20001.png test/20001_GT.png", "good test/20000.png"]
    (root / "test/20000_GT.png").unlink()
    with pytest.raises(DatasetError, match=r"20000\.png has no mask, but needs 20000_GT\.png"):
        read_dataset(root)


def test_real_iad_is_read_through_its_lists(root: Path) -> None:
    (category,) = read_dataset(real_iad(root))
    assert [sample.defect for sample in category.test] == ["BX", "good", "good"]
    assert held(category)[0].split()[2].endswith("_NG_BX_C1_2023.png")
    assert read_dataset(root / "realiad_1024") == read_dataset(root)
    assert read_dataset(root / "realiad_jsons/realiad_jsons_sv") == read_dataset(root)
    (root / "realiad_512").mkdir()
    with pytest.raises(DatasetError, match=r"several resolutions \(realiad_1024, realiad_512\)"):
        read_dataset(root)
    assert read_dataset(root / "realiad_1024")
    (root / "realiad_jsons/realiad_jsons/audiojack.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"audiojack\.json cannot be understood: object missing"):
        read_dataset(root / "realiad_1024")


def test_real_iad_with_several_lists_needs_one(root: Path) -> None:
    lists = real_iad(root) / "realiad_jsons"
    (lists / "realiad_jsons").rename(lists / "realiad_jsons_fuiad_0.4")
    with pytest.raises(DatasetError, match=r"several kinds of lists .*_fuiad_0\.4.*_sv\), but one"):
        read_dataset(root)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"anomaly_class": "OK", "image_path": "OK/S0001/audiojack_0001_OK_C1_2023.jpg"},
            r"Entry 4 of test in .*audiojack\.json has the image of entry 1 of train in",
        ),
        (
            {"anomaly_class": "../..", "image_path": "a.jpg"},
            r"Entry 4 of test in .* has the defect '\.\./\.\.', but needs a name",
        ),
        ({"anomaly_class": "", "image_path": "a.jpg"}, "has the defect '', but needs a name"),
    ],
)
def test_an_entry_of_real_iad_that_cannot_be_meant_is_refused(
    entry: dict[str, str], message: str, root: Path
) -> None:
    path = real_iad(root) / "realiad_jsons/realiad_jsons/audiojack.json"
    document = json.loads(path.read_text())
    document["test"].append(entry)
    path.write_text(json.dumps(document))
    with pytest.raises(DatasetError, match=message):
        read_dataset(root)


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (loco, "pushpins/defects_config.json"),
        (real_iad, "realiad_jsons/realiad_jsons/audiojack.json"),
    ],
)
def test_a_changed_list_is_refused_or_read_to_the_end(
    build: Callable[[Path], Path], name: str, root: Path
) -> None:
    path, source, n_refused = build(root) / name, random.Random(0), 0
    document = json.loads(path.read_text())
    for _ in range(300):
        path.write_bytes(mutate_json(source, document)[0])
        try:
            for category in read_dataset(root):
                assert category.describe()
                for sample in category.test:
                    sample.read_mask()
                    sample.read_regions()
        except PadimError:
            n_refused += 1
    assert 150 < n_refused < 300


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pixel_value": 0}, "expected int >= 1"),
        ({"pixel_value": "255"}, "expected int, got str"),
        ({"saturation_threshold": -1}, "expected float > 0"),
        ({"saturation_threshold": 2, "relative_saturation": True}, "relative saturation_threshold"),
        ({"relative_saturation": 1}, "expected bool, got int"),
    ],
)
def test_a_kind_of_defect_that_makes_no_sense_is_refused(
    changes: dict[str, object], reason: str, root: Path
) -> None:
    path = loco(root) / "pushpins/defects_config.json"
    first, *others = json.loads(path.read_text())
    path.write_text(json.dumps([first | changes, *others]))
    with pytest.raises(DatasetError, match=rf"defects_config\.json cannot be .*{reason}"):
        read_dataset(root)


def test_plain_folders_may_call_their_good_images_good(root: Path) -> None:
    (folders(root) / "train").rename(root / "good")
    (category,) = read_dataset(root)
    assert [path.name for path in category.train] == ["a.png", "b.png"]
    assert held(category) == [
        "dent test/dent/d.png ground_truth/dent/d.png",
        "good test/good/c.png",
    ]


def test_a_manifest_may_be_named_by_its_file(root: Path) -> None:
    path = manifest(root) / "manifest.csv"
    (category,) = read_dataset(path)
    assert (category.name, category.root, len(category.validation)) == ("lid", root, 1)
    assert held(category) == ["dent shots/d.png masks/d.png", "good shots/c.png"]
    assert normal_images(path) == (root / "a.png",)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("path,split\na.png,train", "has the columns path, split, but needs path, split, label"),
        ("path,split,label\na.png,dev,good", "Row 1 .* has the split 'dev', but needs train, val"),
        ("path,split,label\na.png,train,", "has an empty cell, but needs a path and a label"),
        ("path,split,label\na.png,train,dent", "the label 'dent' in train, but needs good there"),
        ("path,split,label\na.png,test,a/b", "the defect 'a/b', but needs a name without"),
        ("path,split,label,defect\na.png,test,bad,a\\b", "the defect .*, but needs a name without"),
        ("path,split,label,defect\na.png,test,bad,good", "the defect 'good', but needs another"),
        ("path,split,label,category\na.png,test,good,x/y", "the category 'x/y', but needs a name"),
        ("path,split,label,category\na.png,test,ok,..", r"the category '\.\.', but needs a name"),
        ("path,split,label\na.png,test,2.0", "the label '2.0', but needs 0, 1 or a word"),
        ("path,split,label\na.png,test,nan", "the label 'nan', but needs 0, 1 or a word"),
        ("path,split,label\na.png,test,ok\na.png,train,ok", "Row 2 .* has the image of row 1"),
        ("path,split,label\na.png,test,ok\n./a.png,train,ok", "Row 2 .* has the image of row 1"),
        ("path,split,label\na.png,test,ok\nb/../a.png,test,bad", "Row 2 .* has the image of row 1"),
        ("path,split,label\n", "has no rows, but needs one for each image"),
    ],
)
def test_a_manifest_that_cannot_be_meant_is_refused(rows: str, message: str, root: Path) -> None:
    root.mkdir()
    (root / "manifest.csv").write_text(rows)
    with pytest.raises(DatasetError, match=message):
        read_dataset(root / "manifest.csv")


def test_an_image_named_from_anywhere_is_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.mkdir()
    (root / "manifest.csv").write_text(
        f"path,split,label\na.png,train,ok\n{root / 'a.png'},test,ok\n"
    )
    monkeypatch.chdir(root.parent)
    with pytest.raises(DatasetError, match=r"Row 2 .* has the image of row 1"):
        read_dataset(Path(root.name))


def test_another_table_of_the_name_is_no_manifest(root: Path) -> None:
    pictures(root, "a.png")
    (root / "manifest.csv").write_text("file,sha256\na.png,00\n")
    assert normal_images(root) == (root / "a.png",)


def test_a_manifest_of_several_categories_is_no_single_one(root: Path) -> None:
    path = manifest(root) / "manifest.csv"
    path.write_text(path.read_text() + "b.png,train,good,,cap,\n")
    assert [category.name for category in read_dataset(path)] == ["cap", "lid"]
    for read in (normal_images, read_category):
        with pytest.raises(DatasetError, match=r"several categories \(cap, lid\), but needs"):
            read(path)


def test_a_manifest_in_parquet_reads_as_one_in_csv(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (manifest(root) / "manifest.csv").open(newline="") as file:
        rows = [{k: v or None for k, v in row.items()} for row in csv.DictReader(file)]
    expected = read_dataset(root)
    (root / "manifest.csv").unlink()
    parquet.write_table(pyarrow.Table.from_pylist(rows), root / "manifest.parquet")
    assert read_dataset(root) == expected
    monkeypatch.setattr(padim.datasets.manifest, "_MOST_BYTES", 64)
    with pytest.raises(DatasetError, match=r"cannot be read as Parquet \(its rows have more than"):
        read_dataset(root)
    whole = (root / "manifest.parquet").read_bytes()
    for damaged in (b"PAR1", whole[:-20] + bytes(12) + whole[-8:], b"PAR1" + bytes(9) + whole[13:]):
        (root / "manifest.parquet").write_bytes(damaged)
        with pytest.raises(
            DatasetError, match=r"cannot be read as Parquet .* Save it anew\."
        ) as found:
            read_dataset(root)
        assert "\n" not in str(found.value)


def test_labels_of_zero_and_one_may_be_floats(root: Path) -> None:
    root.mkdir()
    rows = [{"path": f"{label}.png", "split": "test", "label": label} for label in (0.0, 1.0)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), root / "manifest.parquet")
    (category,) = read_dataset(root)
    assert held(category) == ["defective 1.0.png", "good 0.0.png"]


def test_a_manifest_in_parquet_names_what_it_needs(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.mkdir()
    (root / "manifest.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'padim-efficientnet\[parquet\]'"):
        read_dataset(root)
