"""The files that are changed, raced for and killed over: a small site of all padim writes."""

import base64
import csv
import importlib.util
import io
import json
import os
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
from PIL import Image
from trees import make_category, striped

from hostile.processes import redirect
from padim.cli import main
from padim.fitting.config import choices_of, format_choices
from padim.model.file import load_state

_FEW = ("--taps", "1,2", "--dims", "16", "--n-threads", "1")
FIT = ("--size-px", "64", *_FEW)
_TILES = ("--size-px", "96", "--tile-px", "64", "--tile-overlap-px", "16", *_FEW)
_ROI = ("--roi", "data/roi/roi.json")


def build_aside(context: ForkServerContext, folder: Path) -> None:
    """Build the site in a process of its own, so that this one loads no torch."""
    builder = context.Process(target=build_site, args=(folder,))
    builder.start()
    builder.join()
    if builder.exitcode:
        raise AssertionError((folder / "said").read_text())


def build_site(folder: Path) -> None:
    """Write models, graphs, results, datasets and images into a new folder."""
    folder.mkdir(parents=True)
    os.chdir(folder)
    redirect(Path("said"))
    make_category(Path("root/carpet"), n_train=6, n_test=2)
    for place, seeds in {"good": range(6), "other": range(50, 54), "held": range(60, 64)}.items():
        Path(place).mkdir()
        for seed in seeds:
            striped(seed).save(f"{place}/{seed}.png")
    Path("more").mkdir()
    for name, seed in {"a": 70, "b": 71}.items():
        striped(seed).save(f"more/{name}.png")
    striped(99, spot=True).save("look.png")
    _run("fit", "good", "-o", "part.safetensors", "--keep-moments", *FIT)
    _run("fit", "other", "-o", "other.safetensors", "--keep-moments", *FIT)
    build_datasets(Path("data"))
    _run("fit", "good", "-o", "tiles.safetensors", *_TILES)
    _run("fit", "good", "-o", "roi.safetensors", *FIT, *_ROI)
    _run("export", "part.safetensors", "-o", "part.onnx")
    _run("export", "part.safetensors", "-o", "part.xml")
    _run("predict", "part.safetensors", "good", "-o", "predictions", "--maps", "npy")
    _run("benchmark", "root", "-o", "first", *FIT)
    _run("benchmark", "root", "-o", "second", *FIT, "--eps", "0.1")
    build_photographs(Path("packages/elpv_dataset"))
    _build_config(Path("config"))


def _build_config(folder: Path) -> None:
    folder.mkdir()
    choices = choices_of(load_state(Path("part.safetensors")))
    (folder / "choices.toml").write_text(format_choices(choices))


def _run(*arguments: str) -> None:
    if main(arguments):
        raise AssertionError(f"padim {' '.join(arguments)} failed.")


def build_datasets(root: Path) -> None:
    """Write a small dataset for each layout that has a text of its own."""
    _build_loco(root / "loco/pushpins")
    _build_visa(root / "visa")
    _build_real_iad(root / "real_iad")
    _build_manifest(root / "manifest")
    if importlib.util.find_spec("pyarrow"):
        _build_parquet(root / "parquet")
    for tool in ("labelme", "coco", "cvat"):
        _build_annotated(root / tool, tool)
    (root / "roi").mkdir()
    (root / "roi/roi.json").write_text(json.dumps([[8, 8], [64, 8], [64, 64], [8, 64]]))


def build_photographs(package: Path) -> None:
    """Write what stands for the package whose photographs ``padim demo`` lays out."""
    chances = {seed: int(seed > 89) for seed in range(80, 92)}
    (package / "data/images").mkdir(parents=True)
    (package / "__init__.py").touch()
    for seed, chance in chances.items():
        striped(seed, spot=bool(chance)).save(package / f"data/images/{seed}.png")
    lines = [f"images/{seed}.png {chance}.0 mono" for seed, chance in chances.items()]
    (package / "data/labels.csv").write_text("\n".join(lines))


def _draw(path: Path, level: int = 128, *, is_mask: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_mask:
        levels = np.zeros((8, 8), np.uint8)
        levels[:2, :3] = level
        Image.fromarray(levels).save(path)
    else:
        Image.new("RGB", (8, 8), (level, level, level)).save(path)


def _build_loco(root: Path) -> None:
    names = ("train/good/0", "validation/good/0", "test/good/0", "test/logical_anomalies/0")
    for i, name in enumerate(names):
        _draw(root / f"{name}.png", 100 + i)
    _draw(root / "ground_truth/logical_anomalies/0/000.png", 255, is_mask=True)
    kind = {
        "defect_name": "missing",
        "pixel_value": 255,
        "saturation_threshold": 3,
        "relative_saturation": False,
    }
    (root / "defects_config.json").write_text(json.dumps([kind]))


def _build_visa(root: Path) -> None:
    names = ("object", "split", "label", "image", "mask")
    rows = [
        ("candle", "train", "normal", "candle/Data/0.png", ""),
        ("candle", "test", "normal", "candle/Data/1.png", ""),
        ("candle", "test", "anomaly", "candle/Data/2.png", "candle/Masks/2.png"),
    ]
    for i, row in enumerate(rows):
        _draw(root / row[3], 100 + i)
    _draw(root / "candle/Masks/2.png", 1, is_mask=True)
    _write_csv(root / "split_csv/1cls.csv", [names, *rows])


def _build_manifest(root: Path) -> None:
    names = ("path", "split", "label", "mask", "category", "defect")
    rows = [
        ("a/0.png", "train", "good", "", "one", ""),
        ("a/1.png", "test", "good", "", "one", ""),
        ("a/2.png", "test", "1", "a/2_mask.png", "one", "hole"),
    ]
    for i, row in enumerate(rows):
        _draw(root / row[0], 100 + i)
    _draw(root / "a/2_mask.png", 255, is_mask=True)
    _write_csv(root / "manifest.csv", [names, *rows])


def _build_parquet(root: Path) -> None:
    from pyarrow import csv, parquet

    _build_manifest(root)
    parquet.write_table(csv.read_csv(root / "manifest.csv"), root / "manifest.parquet")
    (root / "manifest.csv").unlink()


def _build_annotated(root: Path, tool: str) -> None:
    for i, name in enumerate(("train/good/0", "test/good/1", "test/dent/2", "test/dent/3")):
        _draw(root / f"{name}.png", 100 + i)
    if tool == "labelme":
        (root / "test/dent/2.json").write_text(json.dumps(_annotate_labelme()))
    elif tool == "coco":
        (root / "all.json").write_text(json.dumps(_annotate_coco()))
    else:
        (root / "all.xml").write_text(_CVAT)


def _annotate_labelme() -> dict[str, object]:
    stream = io.BytesIO()
    Image.new("1", (2, 2), 1).save(stream, "PNG")
    bitmap = base64.b64encode(stream.getvalue()).decode()
    shapes: list[dict[str, object]] = [
        {"label": "dent", "shape_type": kind, "points": points}
        for kind, points in (
            ("polygon", [[1, 1], [4, 1], [4, 5]]),
            ("circle", [[3, 3], [3, 5]]),
            ("linestrip", [[0, 7], [7, 7]]),
        )
    ]
    mask = {"label": "hole", "shape_type": "mask", "points": [[2, 2], [3, 3]], "mask": bitmap}
    size = {"imageHeight": 8, "imageWidth": 8, "imagePath": "2.png"}
    return {"version": "5.4.1", "shapes": [*shapes, mask], **size}


def _annotate_coco() -> dict[str, object]:
    segmentations: tuple[object, ...] = (
        [[1, 1, 4, 1, 4, 5]],
        {"size": [8, 8], "counts": [9, 3, 5, 3, 44]},
        {"size": [8, 8], "counts": "93536Y1"},
    )
    shapes = [
        {"id": i, "image_id": i % 2, "category_id": 1, "segmentation": one, "bbox": [1, 1, 3, 4]}
        for i, one in enumerate(segmentations)
    ]
    images = [
        {"id": i, "file_name": f"dent/{i + 2}.png", "height": 8, "width": 8} for i in range(2)
    ]
    categories = [{"id": 1, "name": "dent"}, {"id": 2, "name": "good"}]
    return {"images": images, "annotations": shapes, "categories": categories}


_CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
<version>1.1</version>
<image id="0" name="dent/2.png" width="8" height="8">
<box label="dent" xtl="1" ytl="1" xbr="4" ybr="5" rotation="30"/>
<ellipse label="dent" cx="4" cy="4" rx="3" ry="1" rotation="10"/>
<points label="good" points="1,1;2,2"/>
</image>
<image id="1" name="dent/3.png" width="8" height="8">
<polygon label="dent" points="1,1;4.5,1;4,5"/>
<polyline label="dent" points="0,7;7,7"/>
<mask label="dent" rle="1,2,1" left="2" top="2" width="2" height="2"/>
</image>
</annotations>
"""


def _write_csv(path: Path, rows: list[tuple[str, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def _build_real_iad(root: Path) -> None:
    images = root / "realiad_1024/audiojack"
    entries = [("OK/0.png", "OK", None), ("OK/1.png", "OK", None), ("NG/2.png", "BX", "NG/2_m.png")]
    for i, (name, _, _) in enumerate(entries):
        _draw(images / name, 100 + i)
    _draw(images / "NG/2_m.png", 255, is_mask=True)
    keys = ("image_path", "anomaly_class", "mask_path")
    train, *test = [
        dict(zip(keys, entry, strict=True)) | {"category": "audiojack"} for entry in entries
    ]
    document = {
        "meta": {"normal_class": "OK", "prefix": "audiojack/"}, "train": [train], "test": test
    }  # fmt: skip
    lists = root / "realiad_jsons/realiad_jsons"
    lists.mkdir(parents=True)
    (lists / "audiojack.json").write_text(json.dumps(document))
