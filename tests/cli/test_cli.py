import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from trees import make_category, striped

from padim.cli import main, predict_command
from padim.model.file import load_state, save_state

COLUMNS = [
    *("path", "score", "label", "p_value", "peak_x", "peak_y"),
    *("x", "y", "width", "height", "area_px"),
]

SMALL = ["--size", "64", "-q"]


@pytest.fixture(scope="module")
def category(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_category(tmp_path_factory.mktemp("data") / "stripes")


@pytest.fixture(scope="module")
def model(category: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "stripes.safetensors"
    assert main(["fit", str(category), "-o", str(path), *SMALL]) == 0
    return path


def failure(
    arguments: list[str | Path], capsys: pytest.CaptureFixture[str], status: int
) -> tuple[str, str]:
    """Run a command that must fail; its message and its stdout."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == status
    captured = capsys.readouterr()
    first, *_ = captured.err.splitlines()
    assert first.startswith("error: ")
    assert "Traceback" not in captured.err
    return first.removeprefix("error: "), captured.out


def test_import_and_help_load_little() -> None:
    code = (
        "import sys, padim, padim.cli\n"
        "assert padim.cli.main(['--help']) == 0\n"
        "heavy = {'torch', 'onnxruntime', 'numpy', 'PIL', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("package", "extra", "arguments"),
    [
        ("torch", "fit", ["fit", "CATEGORY", "-o", "OUT/m"]),
        ("torch", "fit", ["info", "MODEL"]),
        ("matplotlib", "report", ["benchmark", "CATEGORY", "-o", "OUT"]),
        ("cycler", "report", ["benchmark", "CATEGORY", "-o", "OUT"]),
        ("timm", "fit", ["benchmark", "CATEGORY", "-o", "OUT"]),
        ("jinja2", "report", ["report", "OUT"]),
    ],
)
def test_a_missing_extra_is_named_before_any_work(
    package: str, extra: str, arguments: list[str], category: Path, model: Path, tmp_path: Path
) -> None:
    # An import that is blocked stands in for a package that is not installed.
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from padim.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    places = {"CATEGORY": str(category), "MODEL": str(model), "OUT": str(tmp_path / "out")}
    for word, place in places.items():
        arguments = [argument.replace(word, place) for argument in arguments]
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: This needs {package}, which is not installed.")
    assert f"padim-efficientnet[{extra}]" in done.stderr
    assert not list(tmp_path.glob("out/*"))


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    import padim

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"padim {padim.__version__}\n"


def test_fit_says_first_what_it_will_take(
    category: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.safetensors"
    assert main(["fit", str(category), "-o", str(out), "--size", "64", "--keep-moments"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        f"Layout: MVTec AD. {category.name}: learning from train/good (6 images); "
        "test: good (3), spot (3)."
    )
    assert said.index("6 good images") < said.index("Forecast: peak memory")
    assert said.index("Forecast: peak memory") < said.index("fitted on 6 images")
    lock = ".m.safetensors.lock"  # which Windows removes
    assert {path.name for path in tmp_path.iterdir()} - {lock} == {
        "m.safetensors",
        "m.moments.safetensors",
    }


def test_fit_forecasts_the_file_it_writes(
    category: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.safetensors"
    assert main(["fit", str(category), "-o", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["n_train"] == 6
    assert document["model_bytes"] == out.stat().st_size
    assert abs(document["forecast_model_bytes"] / document["model_bytes"] - 1) < 0.02


def test_fit_beyond_the_memory_limit_is_refused(
    category: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments: list[str | Path] = ["fit", category, "-o", tmp_path / "m", "--max-memory", "100MB"]
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: This fit needs about")
    assert "may have 100 MB" in last
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backbone", "efficientnet_b7"], "Did you mean 'efficientnet_b7_ns'"),
        (["--recipe", "standart"], "Did you mean 'standard'"),
        (["--size", "100"], "Try 96x96"),
        (["--size", "big"], "such as 256 or 256x512"),
        (["--taps", "1,2,9"], "has the blocks 0 to 6"),
        (["--taps", "4,2"], "in order"),
        (["--dims", "900"], "Try 152"),
        (["--dims", "some"], "a whole number or all"),
        (["--eps", "0"], "needs to be above 0"),
        (["--eps-rule", "wild"], "eps rule"),
        (["--sigma", "-1"], "Try 0"),
        (["--score-fraction", "2"], "Try 1"),
        (["--device", "gpu"], "Did you mean 'cuda'? Known: auto, cpu, cuda"),
        (["--precision", "float16"], "Known: float32, bfloat16"),
        (["--store", "int8"], "Known: float16, float32"),
        (["--max-memory", "lots"], "no amount of memory"),
        (["--weights", "nowhere.pth"], "nowhere.pth does not exist"),
        (["--recipe", "reference", "--size", "64x96"], "crops a square"),
        (["--bogus"], "No such option"),
        (["--no-overlays"], ". It is an option of predict"),
        (["--false-alarm-rate", "0.05"], "--false-alarm-rate. It is an option of predict, info"),
    ],
)
def test_impossible_options_are_wrong_usage(
    options: list[str],
    message: str,
    category: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said, _ = failure(["fit", category, "-o", tmp_path / "m", "-q", *options], capsys, 2)
    assert message in said
    assert not list(tmp_path.iterdir())


def test_failure_in_json_keeps_the_status(capsys: pytest.CaptureFixture[str]) -> None:
    said, out = failure(["fit", "nowhere", "-o", "m", "--json"], capsys, 2)
    assert json.loads(out) == {"error": {"type": "PathMissingError", "message": said}}
    said, out = failure(["fit", "--json", "--bogus"], capsys, 2)
    assert json.loads(out)["error"]["message"] == said


def test_predict_writes_what_it_promises(
    model: Path, category: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = tmp_path / "in" / "wide.bmp"
    wide.parent.mkdir()
    striped(7, 120, spot=True).crop((0, 0, 120, 80)).save(wide)
    arguments = ["predict", model, category / "test", wide, "-o", tmp_path / "out", "--recursive"]
    assert main([*map(str, arguments), "--maps", "npy", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)

    with (tmp_path / "out/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = (tmp_path / "out/predictions.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == document["predictions"]
    assert list(rows[0])[: len(COLUMNS)] == COLUMNS
    assert len(rows) == 7
    for row in rows:
        anomalous = "/spot/" in row["path"]
        assert row["label"] == ("anomalous" if anomalous else "normal") or "wide" in row["path"]
        if anomalous:
            assert float(row["p_value"]) == pytest.approx(1 / 7)
    assert document["threshold"]["warning"] == (
        "6 good images can promise one false alarm in 7 at best, and the threshold is for that. "
        "A rate of 0.01 takes 50 by the tail of their scores, 99 by a rank alone."
    )
    assert document["n_anomalous"] in (3, 4)
    spotted = next(row for row in document["predictions"] if row["path"].endswith("spot/0.png"))
    hottest = spotted["regions"][0]
    assert hottest["x"] <= spotted["peak_x"] < hottest["x"] + hottest["width"]
    assert hottest["peak"] >= hottest["mean"] > document["pixel_threshold"]
    overlays = sorted((tmp_path / "out/overlays").rglob("*.jpg"))
    assert len(overlays) == 7
    last = document["predictions"][-1]
    assert last["path"] == str(wide)
    assert 0 <= last["x"] <= last["peak_x"] < last["x"] + last["width"] <= 120
    assert 0 <= last["y"] <= last["peak_y"] < last["y"] + last["height"] <= 80
    maps = list((tmp_path / "out/maps").rglob("wide.npy"))
    assert np.load(maps[0]).shape == (80, 120)
    assert np.load(maps[0]).dtype == np.float32
    for row in rows:
        if "/spot/" in row["path"]:
            pixels = np.asarray(Image.open(row["path"]).convert("L"))
            ys, xs = np.nonzero(pixels < 20)
            assert abs(int(row["peak_x"]) - xs.mean()) < 12
            assert abs(int(row["peak_y"]) - ys.mean()) < 12


def test_large_images_are_drawn_as_small_ones_are(
    model: Path, category: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, kept_px in (("small", predict_command.KEPT_PX), ("large", 0)):
        monkeypatch.setattr(predict_command, "KEPT_PX", kept_px)
        arguments = ["predict", model, category / "test/good/0.png", "-o", tmp_path / name, "-q"]
        assert main(list(map(str, arguments))) == 0
    drawn = [(tmp_path / name / "overlays/0.jpg").read_bytes() for name in ("small", "large")]
    assert drawn[0] == drawn[1]


def test_a_failure_leaves_no_folder(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    failure(["predict", model, broken, "-o", tmp_path / "out", "-q"], capsys, 1)
    said, _ = failure(["predict", tmp_path, broken, "-o", tmp_path / "out"], capsys, 2)
    assert "is a folder, but a file is needed" in said
    assert not (tmp_path / "out").exists()


def test_tiff_maps_hold_the_same_numbers(model: Path, category: Path, tmp_path: Path) -> None:
    for kind in ("npy", "tiff"):
        arguments = ["predict", model, category / "test/good", "-o", tmp_path / kind, "-q"]
        assert main([*map(str, arguments), "--maps", kind]) == 0
    tiff = np.asarray(Image.open(tmp_path / "tiff/maps/0.tiff"))
    np.testing.assert_array_equal(tiff, np.load(tmp_path / "npy/maps/0.npy"))


def test_images_of_one_stem_keep_apart(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    striped(1).save(folder / "a.png")
    striped(2).save(folder / "a.bmp")
    striped(3).save(folder / "b.png")
    assert main(["predict", str(model), str(folder), "-o", str(tmp_path / "out"), "-q"]) == 0
    names = sorted(path.name for path in (tmp_path / "out/overlays").iterdir())
    assert names == ["a.bmp.jpg", "a.png.jpg", "b.jpg"]


def test_unreadable_images_are_named_or_left_out(
    model: Path, category: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    shutil.copytree(category / "test/good", folder)
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:300])
    (folder / "empty.png").touch()
    shutil.copy(model, tmp_path / "m.safetensors")
    data = tmp_path / "data"
    shutil.copytree(category, data)
    shutil.copy(folder / "1.png", data / "test/good")
    for arguments in (
        ["fit", folder, "-o", tmp_path / "new.safetensors", "--size", "64"],
        ["calibrate", tmp_path / "m.safetensors", folder],
        ["evaluate", model, data],
        ["predict", model, folder, "-o", tmp_path / "out", "-q"],
    ):
        said, _ = failure(arguments, capsys, 1)
        assert "1.png cannot be read as an image" in said
        assert "Mend it, or leave images out with --skip-unreadable." in said
    assert not (tmp_path / "out/predictions.csv").exists()
    arguments = ["predict", model, folder, "-o", tmp_path / "out", "--skip-unreadable", "--json"]
    assert main(list(map(str, arguments))) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["n_images"] == 2
    assert document["unreadable"] == [str(folder / "1.png"), str(folder / "empty.png")]


def test_a_mask_that_cannot_be_read_is_not_said_to_be_left_out(
    model: Path, category: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(category, data)
    mask = data / "ground_truth/spot/1_mask.png"
    mask.write_bytes(mask.read_bytes()[:60])
    fit = ["fit", data / "train/good", "-o", tmp_path / "m.safetensors", "--size", "64"]
    for arguments in (["evaluate", model, data], [*fit, "--roi", mask]):
        said, _ = failure(arguments, capsys, 1)
        assert f"{mask} cannot be read as an image" in said
        assert "--skip-unreadable" not in said


def test_an_anomaly_cannot_fail_a_script_without_a_threshold(
    model: Path, category: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = replace(load_state(model), calibration=None)
    save_state(state, tmp_path / "m.safetensors")
    plain, good = tmp_path / "m.safetensors", category / "test/good"
    arguments = ["predict", plain, good, "-o", tmp_path / "out"]
    said, _ = failure([*arguments, "-q", "--fail-on-anomaly"], capsys, 2)
    assert "has no threshold" in said
    said, _ = failure([*arguments, "-q", "--false-alarm-rate", "0.1"], capsys, 2)
    assert "has no threshold" in said
    assert main([*map(str, arguments), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["threshold"] is None
    assert {row["label"] for row in document["predictions"]} == {None}


def test_an_anomaly_fails_a_script(
    model: Path, category: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part, status in (("good", 0), ("spot", 1)):
        arguments = ["predict", model, category / "test" / part, "-o", tmp_path / part, "-q"]
        assert main([*map(str, arguments), "--fail-on-anomaly"]) == status
        assert len(list((tmp_path / part / "overlays").iterdir())) == 3
    said, _ = failure(["predict", *arguments[1:], "--false-alarm-rate", "2"], capsys, 2)
    assert "The false-alarm rate is 2, but needs to be a fraction, above 0 and below 1" in said
    assert "Did you mean 0.02?" in said


@pytest.mark.parametrize(
    ("make", "message", "status"),
    [
        (lambda folder: None, "holds no image|no images", 1),
        (lambda folder: (folder / "a.txt").write_text("x"), "no image", 1),
        (lambda folder: (folder / "a.png").write_text("x"), "a.png cannot be read as an image", 1),
        (lambda folder: (folder / "a.png").touch(), "is empty", 1),
    ],
)
def test_folders_that_cannot_be_fitted_on(
    make: Callable[[Path], object],
    message: str,
    status: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import re

    folder = tmp_path / "in"
    folder.mkdir()
    make(folder)
    said, _ = failure(["fit", folder, "-o", tmp_path / "m", *SMALL], capsys, status)
    assert re.search(message, said)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_evaluate_measures_one_category(
    model: Path, category: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(model), str(category), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["n_test"] == 6
    assert document["image_auroc"] == 1.0
    assert document["pixel_auroc"] > 0.9
    assert document["n_false_alarms"] + document["n_missed"] <= 6
    assert document["threshold"]["score"] > 0
    assert document["intervals"]["image_auroc"] == [1.0, 1.0]
    assert set(document["bounds"]) <= set(document)


def test_evaluate_without_a_threshold_counts_no_mistakes(
    model: Path, category: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = tmp_path / "m.safetensors"
    save_state(replace(load_state(model), calibration=None), plain)
    assert main(["evaluate", str(plain), str(category), "--json", "-q"]) == 0
    document = json.loads(capsys.readouterr().out)
    found = [document[key] for key in ("threshold", "n_false_alarms", "n_missed")]
    assert found == [None, None, None]


def test_evaluate_says_the_layout_and_joins_the_masks_of_an_image(
    model: Path, category: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loco = tmp_path / "loco"
    shutil.copytree(category, loco)
    (loco / "defects_config.json").write_text("[]")
    for path in sorted((loco / "ground_truth/spot").iterdir()):
        folder = path.with_name(path.name.removesuffix("_mask.png"))
        folder.mkdir()
        whole = np.asarray(Image.open(path))
        halves = [whole.copy(), whole.copy()]
        middle = int(np.nonzero(whole)[0].mean())
        halves[0][middle:] = halves[1][:middle] = 0
        for i, half in enumerate(halves):
            Image.fromarray(half).save(folder / f"{i:03}.png")
        path.unlink()
    assert main(["evaluate", str(model), str(loco)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Layout: MVTec LOCO AD, 1 category (loco).\n")
    assert main(["evaluate", str(model), str(loco), "--json", "-q"]) == 0
    of_halves = json.loads(capsys.readouterr().out)
    assert main(["evaluate", str(model), str(category), "--json", "-q"]) == 0
    of_wholes = json.loads(capsys.readouterr().out)
    assert of_halves["pixel_auroc"] == of_wholes["pixel_auroc"]


def test_evaluate_warns_of_masks_that_are_doubtful(
    model: Path, category: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for name in ("sharp", "blurred"):
        folder = tmp_path / name
        shutil.copytree(category, folder)
        truth = folder / "ground_truth/spot"
        for i in range(3) if name == "blurred" else ():
            mask = Image.open(truth / f"{i}_mask.png").convert("L")
            mask.filter(ImageFilter.GaussianBlur(1.5)).save(truth / f"{i}_mask.png")
        assert main(["evaluate", str(model), str(folder), "--json", "-q"]) == 0
        captured = capsys.readouterr()
        found.append(json.loads(captured.out))
    sharp, blurred = found
    assert (sharp["mask_flaws"], blurred["mask_flaws"]) == ({}, {"mask-levels": 3})
    assert captured.err.startswith("warning: Masks that have more than two levels: 3. A defect")
    assert "0_mask.png. padim check lists them.\n" in captured.err
    assert blurred["aupro_30"] == pytest.approx(sharp["aupro_30"], abs=0.02)


def test_one_class_only_has_no_auroc(
    model: Path, category: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = tmp_path / "one"
    shutil.copytree(category, one)
    shutil.rmtree(one / "test/spot")
    assert main(["evaluate", str(model), str(one), "--json", "-q"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["image_auroc"] is None
    assert document["pixel_auroc"] is None
    shutil.rmtree(one / "test")
    said, _ = failure(["evaluate", model, one, "-q"], capsys, 1)
    assert "has no test images" in said


def test_info_prints_what_is_inside(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(model)]) == 0
    text = capsys.readouterr().out
    assert "efficientnet_lite0" in text
    assert "6 images" in text
    assert main(["info", str(model), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["count"] == 6
    assert document["store"] == "float16"
    assert document["backbone"]["name"] == "efficientnet_lite0"


def test_a_model_file_cut_short_is_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(model.read_bytes()[:-10])
    said, _ = failure(["info", cut], capsys, 1)
    assert "no whole model file" in said
    said, _ = failure(["info", tmp_path / "none.safetensors"], capsys, 2)
    assert "does not exist" in said


def test_backbones_and_weights_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backbones", "--json"]) == 0
    document = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert document["efficientnet_lite0"]["weights_path"].endswith(".pth")
    assert document["wide_resnet50_2"]["default_dims"] == 550
    assert main(["weights", "list"]) == 0
    assert "tf_efficientnet_b7_ns-1dbc32de.pth" in capsys.readouterr().out
    assert main(["weights", "verify", "efficientnet_lite0"]) == 0
    assert "checked against the published one" in capsys.readouterr().out


def test_weights_are_fetched_into_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", "fetch", "efficientnet_lite1", "--to", str(tmp_path)]) == 0
    assert (tmp_path / "efficientnet-lite1-77cc7160.pth").stat().st_size > 20e6
    capsys.readouterr()
    path = tmp_path / "efficientnet-lite1-77cc7160.pth"
    arguments = ["weights", "verify", "efficientnet_lite0", "--weights", path]
    said, _ = failure(arguments, capsys, 1)
    assert "efficientnet_lite0 needs" in said


def test_a_folder_that_cannot_be_written_to_is_refused_first(
    category: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "m.safetensors"
    said, _ = failure(["fit", category, "-o", out, *SMALL], capsys, 1)
    assert "is no folder" in said
    if os.geteuid():
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        said, _ = failure(["fit", category, "-o", closed / "m", *SMALL], capsys, 1)
        assert "cannot be written to" in said


@pytest.mark.skipif(os.name == "nt", reason="how long a name may be is POSIX's to say")
def test_a_name_that_is_too_long_is_refused_first(
    category: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, n_bytes in (
        (["fit", category, "-o", tmp_path / ("x" * 300), *SMALL], 300),
        (["fit", category, "-o", tmp_path / "é" / ("é" * 128) / "m", *SMALL], 256),
        (["fit", category, "-o", tmp_path / ("x" * 250), "--keep-moments", *SMALL], 258),
        (["export", model, "-o", tmp_path / ("x" * 300 + ".onnx")], 305),
        (["predict", model, category / "test/good", "-o", tmp_path / ("x" * 256)], 256),
        (["merge", model, model, "-o", tmp_path / ("x" * 256)], 256),
        (["report", tmp_path, "-o", tmp_path / ("x" * 256)], 256),
    ):
        said, _ = failure(words, capsys, 2)
        assert f"has a name of {n_bytes} bytes, which is too long." in said
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(category: Path, tmp_path: Path) -> None:
    # A limit on the size of files stands in for a disk that is full.
    code = (
        "import resource, sys\n"
        "from padim.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    out = tmp_path / "m.safetensors"
    command = [sys.executable, "-c", code, "fit", str(category), "-o", str(out), *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.startswith(f"error: {out}: ")
    assert "Free the disk" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGPIPE to be told by")
@pytest.mark.parametrize(("closing", "status"), [("| true", 141), (">&-", 0), ("2>&-", 0)])
def test_nobody_need_read_what_is_said(closing: str, status: int) -> None:
    """A reader that has seen enough; a stream that was closed before the start."""
    command = f'set -o pipefail; "$0" -m padim backbones --json {closing}'
    words = ["bash", "-c", command, sys.executable]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, "")


def test_info_knows_its_engines(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said, _ = failure(["info", model, "--engine", "onnxruntim"], capsys, 2)
    assert "Did you mean 'onnxruntime'?" in said


@pytest.mark.slow
def test_interrupted_fit_leaves_nothing(category: Path, tmp_path: Path) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for i in range(400):
        shutil.copyfile(category / "train/good/0.png", many / f"{i}.png")
    out = tmp_path / "out" / "m.safetensors"
    command = [sys.executable, "-m", "padim", "fit", str(many), "-o", str(out), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "Forecast" not in process.stderr.readline():
        assert process.poll() is None
    while not any(path.is_dir() for path in out.parent.glob("*")):  # features that are kept
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "error: Interrupted." in stderr
    assert "Traceback" not in stderr
    assert json.loads(stdout)["error"]["type"] == "KeyboardInterrupt"
    assert not out.parent.exists()


def test_results_stay_inside_their_folder(
    model: Path, category: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(category / "test/good", tmp_path / "a")
    shutil.copytree(category / "test/spot", tmp_path / "deep/b")
    monkeypatch.chdir(tmp_path / "deep")
    assert main(["predict", str(model), "../a", "b", "-o", "out/deep", "-q"]) == 0
    names = sorted(p.relative_to("out/deep").as_posix() for p in Path("out/deep").rglob("*.jpg"))
    assert names == [
        *(f"overlays/a/{i}.jpg" for i in range(3)),
        *(f"overlays/deep/b/{i}.jpg" for i in range(3)),
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"a", "deep"}


def test_file_names_need_not_be_text(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    latin_1 = os.fsdecode(b"caf\xe9.png")  # as old cameras write it
    striped(1).save(tmp_path / "plain.png")
    (tmp_path / "plain.png").rename(tmp_path / "in" / latin_1)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "padim", "predict", str(model), str(tmp_path / "in")]
    done = subprocess.run([*command, "-o", str(out)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"caf\xe9.png" in (out / "predictions.csv").read_bytes()


def test_sizes_are_said_first(
    model: Path, category: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(category / "test/good", tmp_path / "in")
    striped(1, 120).save(tmp_path / "in/large.png")
    assert main(["predict", str(model), str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith("4 images to score, 72x72 to 120x120 px.")


def test_a_folder_in_place_of_a_model_file_is_refused_first(
    category: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said, _ = failure(["fit", category, "-o", tmp_path, *SMALL], capsys, 2)
    assert "is a folder, but -o needs to name a file" in said


def test_large_images_raise_the_forecast(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the process holds already changes from fit to fit.
    monkeypatch.setattr("padim.fitting.forecast.resident_bytes", lambda: 0)
    forecasts = []
    for side_px in (100, 5000):
        folder = tmp_path / str(side_px)
        folder.mkdir()
        Image.new("RGB", (side_px, side_px)).save(folder / "0.png")
        arguments = ["fit", str(folder), "-o", str(tmp_path / "m"), "--size", "64", "--json"]
        assert main(arguments) == 0
        forecasts.append(json.loads(capsys.readouterr().out)["forecast_peak_bytes"])
    assert forecasts[1] - forecasts[0] > 0.75 * 2 * 25e6 * 8


def test_a_missing_command_is_said_to_be_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights"]) == 2
    assert capsys.readouterr().err == "error: A command is missing. See padim weights --help.\n"


def test_one_category_of_a_dataset_is_fitted_and_evaluated_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("bottle", "carpet"):
        make_category(tmp_path / "data" / name)
    rows = [
        f"{path.relative_to(tmp_path / 'data')},{path.parts[-3]},{path.parts[-2]},{path.parts[-4]}"
        for path in sorted((tmp_path / "data").glob("*/t*/*/*.png"))
    ]
    manifest = tmp_path / "data/all.csv"
    manifest.write_text("\n".join(["path,split,label,category", *rows]))
    model = str(tmp_path / "m.safetensors")
    how = ("--size", "64", "--engine", "torch", "--json")
    for data in (tmp_path / "data", manifest):
        fit = ("fit", str(data), "-o", model)
        evaluate = ("evaluate", model, str(data), "--engine", "torch", "--json")
        assert main([*fit, "--category", "carpet", *how]) == 0
        assert json.loads(capsys.readouterr().out)["n_train"] == 6
        assert main([*evaluate, "--category", "bottle"]) == 0
        assert json.loads(capsys.readouterr().out)["category"] == "bottle"
        assert main([*fit, "--layout", "manifest" if data == manifest else "mvtec", *how]) == 2
        assert "Name one with --category" in capsys.readouterr().err
        assert main([*fit, "--category", "carpets", *how]) == 2
        assert "Did you mean 'carpet'" in capsys.readouterr().err
