"""Ground truth of annotation tools, in files as these write them."""

import base64
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import padim.datasets.labelme
from padim.datasets import read_category
from padim.datasets.annotations import read_annotations, read_truth
from padim.datasets.coco import unpack
from padim.datasets.shapes import AnnotatedImage, Bitmap, box_points, make_outline, make_runs
from padim.errors import DatasetError

HEIGHT, WIDTH = 20, 30


@pytest.fixture
def part(tmp_path: Path) -> Path:
    folder = tmp_path / "part"
    for name in ("train/good/0.png", "test/good/1.png", "test/dent/2.png", "test/dent/3.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / name)
    return folder


def box(left: int, top: int, right: int, bottom: int) -> NDArray[np.bool_]:
    """True on pixels from the first to the last, both included."""
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[top : bottom + 1, left : right + 1] = True
    return mask


def labelme(path: Path, *shapes: dict[str, Any], **more: Any) -> Path:
    document = {"version": "5.4.1", "flags": {}, "imagePath": "2.png", "imageData": None}
    document |= {"imageHeight": HEIGHT, "imageWidth": WIDTH, "shapes": shapes, **more}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def shape(kind: str | None, *points: tuple[float, float], **more: Any) -> dict[str, Any]:
    return {"label": "dent", "points": points, "group_id": None, "shape_type": kind, **more}


def coco(path: Path, *annotations: dict[str, Any], names: tuple[str, ...] = ("2.png",)) -> Path:
    images = [
        {"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH, "license": 1}
        for i, name in enumerate(names)
    ]
    full = [{"id": i, "image_id": 0, "category_id": 1, **one} for i, one in enumerate(annotations)]
    categories = [{"id": 1, "name": "dent"}, {"id": 2, "name": "good"}]
    document = {"images": images, "annotations": full, "categories": categories}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def cvat(path: Path, *elements: str, name: str = "2.png") -> Path:
    image = f'<image id="0" name="{name}" width="{WIDTH}" height="{HEIGHT}">'
    text = f"<annotations><version>1.1</version>{image}{''.join(elements)}</image></annotations>"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'<?xml version="1.0" encoding="utf-8"?>\n{text}')
    return path


def drawn(path: Path) -> NDArray[np.bool_]:
    return read_truth(path, path.parent / "2.png").mask


SQUARE = [(4.0, 3.0), (9.0, 3.0), (9.0, 7.0), (4.0, 7.0)]


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (shape("polygon", *SQUARE), box(4, 3, 9, 7)),
        (shape(None, *SQUARE), box(4, 3, 9, 7)),
        (shape("rectangle", (9, 7), (4, 3)), box(4, 3, 9, 7)),
        (shape("rectangle", *SQUARE), box(4, 3, 9, 7)),
        (shape("line", (2, 5), (8, 5)), box(2, 5, 8, 5)),
        (shape("linestrip", (2, 5), (8, 5), (8, 9)), box(2, 5, 8, 5) | box(8, 5, 8, 9)),
        (shape("point", (6, 7)), box(6, 7, 6, 7)),
        (shape("points", (6, 7), (1, 2)), box(6, 7, 6, 7) | box(1, 2, 1, 2)),
    ],
)
def test_shapes_of_labelme_are_drawn(
    tmp_path: Path, one: dict[str, Any], expected: NDArray[np.bool_]
) -> None:
    np.testing.assert_array_equal(drawn(labelme(tmp_path / "2.json", one)), expected)


def test_a_circle_and_a_mask_of_labelme_are_drawn(tmp_path: Path) -> None:
    circle = drawn(labelme(tmp_path / "2.json", shape("circle", (12, 10), (12, 4))))
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    distance = np.hypot(rows - 10, columns - 12)
    assert circle[distance < 5.4].all()
    assert not circle[distance > 7.2].any()
    stream = io.BytesIO()
    bitmap = np.eye(4, dtype=np.uint8) * 255
    Image.fromarray(bitmap).convert("1").save(stream, "PNG")
    text = base64.b64encode(stream.getvalue()).decode()
    mask = drawn(labelme(tmp_path / "m.json", shape("mask", (5, 6), (8, 9), mask=text)))
    expected = np.zeros((HEIGHT, WIDTH), np.bool_)
    expected[6:10, 5:9] = bitmap > 0
    np.testing.assert_array_equal(mask, expected)


def test_polygons_and_masks_of_coco_are_drawn(tmp_path: Path) -> None:
    polygon = {"segmentation": [[4, 3, 9, 3, 9, 7, 4, 7]]}
    np.testing.assert_array_equal(drawn(coco(tmp_path / "a.json", polygon)), box(4, 3, 9, 7))
    # Column by column: the first four columns, then two pixels of the fifth.
    runs = {"size": [HEIGHT, WIDTH], "counts": [2, 3, 15, 80, 500]}
    expected = box(0, 2, 0, 4) | box(1, 0, 4, 19)
    np.testing.assert_array_equal(
        drawn(coco(tmp_path / "b.json", {"segmentation": runs})), expected
    )
    good = {"segmentation": runs, "category_id": 2}
    assert not drawn(coco(tmp_path / "c.json", good)).any()


@pytest.mark.parametrize("is_by_column", [True, False])
def test_runs_fill_their_bitmap_in_order(is_by_column: bool) -> None:
    lengths = [3, 4, 0, 9, 20, 41, 1, 1, 1, 0, 0, 20]  # within lines, to their ends, over several
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    runs = make_runs((10, 10), lengths, (2, 3), is_by_column=is_by_column)
    expected = np.zeros((12, 20), np.bool_)
    expected[2:, 3:13] = flat.reshape(10, 10).T if is_by_column else flat.reshape(10, 10)
    np.testing.assert_array_equal(AnnotatedImage("a", (12, 20), (runs,)).draw().mask, expected)


def test_compressed_runs_of_coco_are_drawn(tmp_path: Path) -> None:
    # What pycocotools 2.0.11 makes of these two boxes.
    counts = "c25?000000000a6NaI0000000000000008"
    runs = {"size": [HEIGHT, WIDTH], "counts": counts}
    expected = box(4, 3, 9, 7) | box(20, 12, 28, 14)
    np.testing.assert_array_equal(
        drawn(coco(tmp_path / "a.json", {"segmentation": runs})), expected
    )
    odd = coco(tmp_path / "b.json", {"segmentation": [[4, 3, 9, 3, 9, 7, 4]]})
    with pytest.raises(DatasetError, match=r"a polygon of 2\.png has an x without a y"):
        read_annotations(odd)
    for damaged in ("c2" + "o" * 20, "c25o"):
        with pytest.raises(ValueError, match="end"):
            unpack(damaged)


def test_a_box_of_coco_stands_for_a_shape_that_is_missing(tmp_path: Path) -> None:
    path = coco(tmp_path / "a.json", {"segmentation": [], "bbox": [4, 3, 6, 5]})
    truth = read_truth(path, tmp_path / "2.png")
    np.testing.assert_array_equal(truth.mask, box(4, 3, 9, 7))
    assert truth.flaws == ("box-mask",)


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        ('<box label="dent" xtl="4" ytl="3" xbr="9" ybr="7" occluded="0"/>', box(4, 3, 9, 7)),
        ('<box label="d" xtl="4" ytl="3" xbr="8" ybr="7" rotation="90"/>', box(4, 3, 8, 7)),
        ('<polygon label="dent" points="4.0,3.0;9.0,3.0;9.0,7.0;4.0,7.0"/>', box(4, 3, 9, 7)),
        ('<polyline label="dent" points="2,5;8,5"/>', box(2, 5, 8, 5)),
        ('<points label="dent" points="6,7;1,2"/>', box(6, 7, 6, 7) | box(1, 2, 1, 2)),
        (
            '<mask label="dent" rle="2,4,2,4" left="5" top="6" width="4" height="3"/>',
            box(7, 6, 8, 6) | box(5, 7, 6, 7) | box(5, 8, 8, 8),
        ),
        ('<box label="OK" xtl="4" ytl="3" xbr="9" ybr="7"/>', box(1, 1, 0, 0)),
        ('<tag label="dent"/>', box(1, 1, 0, 0)),
    ],
)
def test_shapes_of_cvat_are_drawn(
    tmp_path: Path, element: str, expected: NDArray[np.bool_]
) -> None:
    np.testing.assert_array_equal(drawn(cvat(tmp_path / "a.xml", element)), expected)


def test_an_ellipse_of_cvat_is_turned(tmp_path: Path) -> None:
    path = cvat(
        tmp_path / "a.xml", '<ellipse label="d" cx="14" cy="9" rx="9" ry="3" rotation="90"/>'
    )
    rows, columns = np.nonzero(drawn(path))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 18, 11, 17)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.json", "[" * 100_000, "cannot be understood"),
        ("a.json", '{"shapes": [{"points": [[1, NaN]]}]}', "cannot be understood"),
        ("a.json", '{"shapes": [], "imageHeight": 0, "imageWidth": 9}', "imageHeight"),
        ("a.json", '{"images": [], "annotations": 7}', "annotations"),
        ("a.xml", '<!DOCTYPE x [<!ENTITY a "b">]><annotations/>', "it has a document type"),
        ("a.xml", "<annotations><image", "it is no XML"),
        (
            "a.xml",
            '<annotations><track label="dent"><box frame="0"/></track></annotations>',
            "tracks of a video",
        ),
        ("a.xml", '<annotations><image name="2.png" width="9"/></annotations>', "no height"),
        (
            "a.xml",
            '<annotations><image name="2.png" width="70000" height="9000"/></annotations>',
            "9000x70000 px",
        ),
        ("a.xml", '<?xml version="1.0" encoding="cp037"?>\xff', "utf-8"),
        ("a.json", "{}", "does not know"),
        ("a.xml", "<annotation/>", "does not know"),
    ],
)
def test_a_file_that_is_damaged_is_refused(
    tmp_path: Path, name: str, text: str, reason: str
) -> None:
    (tmp_path / name).write_text(text, encoding="latin-1")
    with pytest.raises(DatasetError, match=f"{name} .*{reason}.*Export it anew"):
        read_truth(tmp_path / name, tmp_path / "2.png")


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (shape("cube", *SQUARE), "a cube with 4 points"),
        (shape("circle", (4, 3)), "a circle with 1 points"),
        (shape("polygon"), "has no points"),
        (shape("polygon", (1, 1), (9e9, 2), (3, 3)), "far outside 20x30 px"),
        (shape("mask", (5, 6), (8, 9), mask="eHh4"), "cannot be read as an image"),
    ],
)
def test_a_shape_that_cannot_be_meant_is_refused(
    tmp_path: Path, one: dict[str, Any], reason: str
) -> None:
    with pytest.raises(DatasetError, match=f"cannot be understood: .*{reason}"):
        read_annotations(labelme(tmp_path / "2.json", one))


@pytest.mark.parametrize(
    "element",
    [
        '<mask label="d" rle="12" left="5" top="6" width="-4" height="-3"/>',
        '<mask label="d" rle="0" left="5" top="6" width="0" height="0"/>',
        '<mask label="d" rle="2,4,2" left="5" top="6" width="4" height="3"/>',
        '<mask label="d" rle="-2,14" left="5" top="6" width="4" height="3"/>',
        '<mask label="d" rle="2,10" left="27" top="6" width="4" height="3"/>',
        '<mask label="d" rle="2,10" left="5" top="-1" width="4" height="3"/>',
        '<box label="d" xtl="nan" ytl="3" xbr="9" ybr="7"/>',
        '<box label="d" xtl="1" ytl="3" xbr="9" ybr="7" rotation="inf"/>',
        '<polygon label="d" points="1,2,3"/>',
        '<skeleton label="d"/>',
    ],
)
def test_a_shape_of_cvat_that_cannot_be_meant_is_refused(tmp_path: Path, element: str) -> None:
    with pytest.raises(DatasetError, match=r"a\.xml cannot be understood: .*Export it anew"):
        read_annotations(cvat(tmp_path / "a.xml", element))


@pytest.mark.parametrize(
    "place",
    ["test/dent/2.json", "ground_truth/dent/2.json", "ground_truth/2.json", "Annotations/2.json"],
)
def test_a_file_for_an_image_is_found_by_its_name(part: Path, place: str) -> None:
    path = labelme(part / place, shape("polygon", *SQUARE))
    second, third = (one for one in read_category(part).test if one.is_anomalous)
    assert second.masks == (path,)
    np.testing.assert_array_equal(second.read_mask(), box(4, 3, 9, 7))
    assert third.read_mask() is None


def test_other_files_of_the_name_of_an_image_are_not_taken(part: Path) -> None:
    (part / "test/dent/2.json").write_text('{"exposure_ms": 3, "gain": NaN}')
    (part / "test/dent/3.xml").write_text("<annotation><size/></annotation>")  # of Pascal VOC
    (part / "settings.json").write_text("// not even JSON")
    assert [one.masks for one in read_category(part).test if one.is_anomalous] == [(), ()]
    path = labelme(part / "ground_truth/2.json", shape("polygon", *SQUARE))
    assert read_category(part).test[0].masks == (path,)


@pytest.mark.parametrize("place", ["all", "annotations/instances_default", "ground_truth/all"])
@pytest.mark.parametrize("tool", ["coco", "cvat"])
def test_an_export_is_found_and_images_without_a_shape_have_no_mask(
    part: Path, tool: str, place: str
) -> None:
    (part / "defects.json").write_text("[]")
    if tool == "coco":
        names = ("images/2.png", "images/3.png")
        segmentation = [[4, 3, 9, 3, 9, 7, 4, 7]]
        path = coco(part / f"{place}.json", {"segmentation": segmentation}, names=names)
    else:
        element = '<box label="dent" xtl="4" ytl="3" xbr="9" ybr="7"/>'
        path = cvat(part / f"{place}.xml", element, name="images/2.png")
    second, third = (one for one in read_category(part).test if one.is_anomalous)
    assert second.masks == (path,)
    np.testing.assert_array_equal(second.read_mask(), box(4, 3, 9, 7))
    assert third.masks == ()


def test_a_mask_image_wins_and_a_good_image_with_shapes_is_told(part: Path) -> None:
    mask = part / "ground_truth/dent/2_mask.png"
    mask.parent.mkdir(parents=True)
    Image.new("L", (WIDTH, HEIGHT)).save(mask)
    labelme(part / "test/dent/2.json", shape("polygon", *SQUARE))
    on_good = labelme(part / "test/good/1.json", shape("polygon", *SQUARE))
    category = read_category(part)
    assert [one.masks for one in category.test if one.is_anomalous] == [(mask,), ()]
    assert category.normal_masks == ((part / "test/good/1.png", on_good),)


def test_images_of_one_name_are_told_apart_by_their_folders(part: Path) -> None:
    (part / "test/hole").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(part / "test/hole/2.png")
    one = {"segmentation": [[4, 3, 9, 3, 9, 7, 4, 7]]}
    path = coco(part / "all.json", one, names=("hole/2.png",))
    found = {sample.path.parent.name: sample.masks for sample in read_category(part).test}
    assert (found["hole"], found["dent"]) == ((path,), ())
    coco(part / "all.json", one, names=("2.png",))
    with pytest.raises(DatasetError, match=r"has 2\.png, which could be .*dent.* or .*hole"):
        read_category(part)


def test_two_exports_that_know_an_image_are_refused(part: Path) -> None:
    one = {"segmentation": [[4, 3, 9, 3, 9, 7, 4, 7]]}
    coco(part / "a.json", one)
    coco(part / "b.json", one)
    with pytest.raises(DatasetError, match=r"is in both .*a\.json and .*b\.json, but needs to be"):
        read_category(part)


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([[1, 1, 2, 2, 3, 1]] * 700_000, "more shapes and points than one file may have"),
        ({"size": [HEIGHT, WIDTH], "counts": "0" * 9_000_000}, "more runs than one file may have"),
    ],
)
def test_an_export_that_would_take_long_is_refused(
    tmp_path: Path, segmentation: Any, reason: str
) -> None:
    with pytest.raises(DatasetError, match=reason):
        read_annotations(coco(tmp_path / "a.json", {"segmentation": segmentation}))


@pytest.mark.parametrize(
    "shapes",
    [
        [make_outline([0, 0, 9, 60_000] * 1000, (60_000, 1000))],
        [make_outline(box_points(0, 0, 999, 59_999), (60_000, 1000))] * 1000,
        [make_runs((60_000, 1000), [1, 59_999_999], is_by_column=True)] * 10,
        [make_runs((60_000, 1000), [*[0] * 1_000_000, 60_000_000])] * 6,
        [Bitmap(np.broadcast_to(np.True_, (60_000, 1000)), (0, 0))] * 20,
    ],
)
def test_shapes_that_would_take_long_to_draw_are_refused(shapes: list[Any]) -> None:
    AnnotatedImage("a", (60_000, 1000), tuple(shapes[: len(shapes) // 50]))
    with pytest.raises(ValueError, match="the shapes of a take too long to draw"):
        AnnotatedImage("a", (60_000, 1000), tuple(shapes))


def test_masks_of_labelme_that_would_take_much_memory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(padim.datasets.labelme, "_MOST_BITMAPS_PX", 90 * 90 * 3)
    stream = io.BytesIO()
    Image.new("1", (90, 90)).save(stream, "PNG")
    text = base64.b64encode(stream.getvalue()).decode()
    path = labelme(tmp_path / "m.json", *[shape("mask", (5, 6), (8, 9), mask=text)] * 4)
    with pytest.raises(DatasetError, match="more pixels than one file may have"):
        read_annotations(path)


@pytest.mark.skipif(sys.platform == "win32", reason="pipes in folders are of POSIX")
def test_a_pipe_is_no_annotation(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.xml")
    with pytest.raises(DatasetError, match="it is no file"):
        read_annotations(tmp_path / "a.xml")


def test_a_category_of_loco_may_have_annotations_for_some_masks(tmp_path: Path) -> None:
    for name in ("train/good/0", "test/good/0", "test/logical_anomalies/2"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / f"{name}.png")
    kind = {"defect_name": "extra", "pixel_value": 255, "saturation_threshold": 3}
    config = [kind | {"relative_saturation": False}]
    (tmp_path / "defects_config.json").write_text(json.dumps(config))
    path = labelme(tmp_path / "ground_truth/logical_anomalies/2.json", shape("polygon", *SQUARE))
    category = read_category(tmp_path)
    assert category.layout == "MVTec LOCO AD"
    _, sample = category.test
    assert (sample.masks, sample.saturations) == ((path,), ())
    np.testing.assert_array_equal(sample.read_mask(), box(4, 3, 9, 7))
    place = tmp_path / "ground_truth/logical_anomalies/2"
    place.mkdir()
    (place / "camera.json").write_text("{}")
    inside = labelme(place / "any.json", shape("polygon", *SQUARE))
    _, sample = read_category(tmp_path).test
    assert (sample.masks, sample.saturations) == ((inside,), ())
    np.testing.assert_array_equal(sample.read_mask(), box(4, 3, 9, 7))
    Image.fromarray(box(4, 3, 9, 7).astype(np.uint8) * 255).save(place / "0.png")
    _, sample = read_category(tmp_path).test
    assert (sample.masks, len(sample.read_regions())) == ((place / "0.png",), 1)
