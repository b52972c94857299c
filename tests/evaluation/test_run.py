import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from sklearn.metrics import roc_auc_score
from trees import benchmark, make_record, make_settings, make_two_categories

import padim
from padim.backbones import backbone
from padim.cli import main
from padim.datasets import MVTEC_OBJECTS, MVTEC_TEXTURES
from padim.evaluation.published import describe_differences, find_published
from padim.evaluation.run_folder import COLUMNS, Failure, Results, markdown
from padim.features.weights import locate
from padim.metrics.table import METRICS


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_two_categories(tmp_path / "data")


def test_benchmark_writes_what_it_promises(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert benchmark(root, out, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    document = json.loads((out / "results.json").read_text())
    assert printed == document
    assert document["schema_version"] == 2
    assert document["settings"]["size_px"] == [64, 64]
    bottle, carpet = document["rows"]
    assert list(carpet) == [*COLUMNS, "intervals", "by_defect"]
    low, high = carpet["intervals"]["image_auroc"]
    assert low <= carpet["image_auroc"] <= high
    assert carpet["by_defect"]["spot"]["image_auroc"] == carpet["image_auroc"]
    assert document["mean_intervals"]["all"]["image_auroc"] is not None
    assert (carpet["category"], carpet["n_train"], carpet["n_test"]) == ("carpet", 6, 6)
    assert carpet["model_bytes"] == (out / "models/carpet.safetensors").stat().st_size
    assert bottle["pixel_auroc"] is None
    assert bottle["pixel_f1_max"] is None
    assert document["means"]["texture"]["pixel_auroc"] == carpet["pixel_auroc"]
    assert document["means"]["object"]["pixel_auroc"] is None
    mean = (bottle["image_auroc"] + carpet["image_auroc"]) / 2
    assert document["means"]["all"]["image_auroc"] == mean

    record = json.loads((out / "records/carpet.json").read_text())
    decision = padim.load(out / "models/carpet.safetensors").decision
    assert decision is not None
    assert record["threshold"] == decision.threshold.score
    warning = record["threshold_warning"]
    assert warning.startswith("6 good images can promise one false alarm in 7 at best")
    assert document["threshold_warnings"]["carpet"] == warning
    assert f"Threshold of carpet: {warning}" in (out / "results.md").read_text()

    with (out / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    titles = ["All texture classes", "All object classes", "All classes"]
    assert [line["category"] for line in lines] == ["bottle", "carpet", *titles]
    ends = [f"{name}_{end}" for name in METRICS for end in ("low", "high")]
    assert list(lines[0]) == [*COLUMNS, *ends]
    for line, row in zip(lines, document["rows"], strict=False):
        assert {column: line[column] for column in COLUMNS} == {
            column: "" if row[column] is None else str(row[column]) for column in COLUMNS
        }
    for line, ends in zip(
        lines,
        [row["intervals"] for row in document["rows"]] + list(document["mean_intervals"].values()),
        strict=True,
    ):
        for name, found in ends.items():
            expected = ["", ""] if found is None else [str(end) for end in found]
            assert [line[f"{name}_low"], line[f"{name}_high"]] == expected
    overall = document["means"]["all"]["image_auroc"]
    assert (lines[-1]["image_auroc"], lines[-1]["n_test"]) == (str(overall), "")
    table = (out / "results.md").read_text()
    assert table.count("All texture classes") == table.count("All object classes") == 3
    images = [json.loads(line) for line in (out / "images.jsonl").read_text().splitlines()]
    assert len(images) == 12
    carpets = [image for image in images if image["category"] == "carpet"]
    labels = [image["label"] == "anomalous" for image in carpets]
    scores = [image["score"] for image in carpets]
    assert carpet["image_auroc"] == roc_auc_score(labels, scores)
    with Image.open(out / "roc_curve.png") as curves:
        assert curves.size == (1500, 700)
    names = sorted(path.name for path in (out / "pictures/carpet").iterdir())
    assert names == [f"{defect}_{i}.png" for defect in ("good", "spot") for i in range(3)]


def test_groups_that_are_absent_have_no_row() -> None:
    metrics = dict.fromkeys(("image_auroc", "pixel_auroc", "image_f1_max", "pixel_f1_max"), 0.5)
    record = replace(make_record("mine", metrics=metrics), unreadable=("mine/a.png",))
    failure = Failure("yours", "DatasetError", "It is broken.")
    text = markdown(Results.of(make_settings(), [record], [failure]))
    assert "texture" not in text
    assert "| All classes | 0.500 [0.500, 0.500] |" in text
    assert "Failed, and in no mean: yours. It is broken." in text
    assert "left out: mine/a.png." in text
    record = make_record("mine", metrics={"image_auroc": 0.5})
    assert "Pixel-level" not in markdown(Results.of(make_settings(), [record], ()))


def test_a_finished_category_is_not_done_again(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert benchmark(root, out, "--category", "carpet") == 0
    before = (out / "models/carpet.safetensors").stat().st_mtime_ns
    capsys.readouterr()

    assert benchmark(root, out) == 0
    said = capsys.readouterr().out
    assert "carpet: finished before" in said
    assert "bottle: learning from train/good (4 images)" in said
    assert (out / "models/carpet.safetensors").stat().st_mtime_ns == before
    assert len(json.loads((out / "results.json").read_text())["rows"]) == 2

    assert benchmark(root, out, "--eps", "0.02", "--overwrite") == 0
    assert "carpet: done again, because of eps." in capsys.readouterr().out
    (root / "carpet/train/good/0.png").unlink()
    assert benchmark(root, out, "--eps", "0.02") == 0
    said = capsys.readouterr().out
    assert "carpet: done again, because of its images." in said
    assert "bottle: finished before" in said


def test_masks_that_are_doubtful_are_said(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (root / "carpet/ground_truth/spot").iterdir():
        with Image.open(path) as mask:
            mask.convert("L").filter(ImageFilter.GaussianBlur(1.5)).save(path)
    assert benchmark(root, tmp_path / "out", "--category", "carpet") == 0
    said = capsys.readouterr().out
    assert "carpet: warning: Masks that have more than two levels: 3. A defect is" in said


def test_one_failing_category_does_not_stop_the_others(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (root / "bottle/test/spot/1.png").write_bytes(b"not an image")
    assert benchmark(root, out, "-q") == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: 1 of 2 categories failed. bottle: ")
    assert captured.err.endswith(". Mend it, or leave images out with --skip-unreadable.\n")
    document = json.loads((out / "results.json").read_text())
    assert [row["category"] for row in document["rows"]] == ["carpet"]
    assert document["failed"][0]["type"] == "ImageReadError"
    assert not (out / "pictures/bottle").exists()
    assert benchmark(root, out, "--skip-unreadable") == 0
    document = json.loads((out / "results.json").read_text())
    assert [row["n_test"] for row in document["rows"]] == [5, 6]


def test_categories_that_are_not_there_are_wrong_usage(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark(root, tmp_path / "out", "--category", "carpets") == 2
    assert "Did you mean 'carpet'?" in capsys.readouterr().err


def test_pictures_show_the_image_its_truth_and_its_map(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert benchmark(root, out, "--category", "carpet", "-q") == 0
    spot = np.asarray(Image.open(out / "pictures/carpet/spot_0.png"))
    good = np.asarray(Image.open(out / "pictures/carpet/good_0.png"))
    left, top, side, gap = 12, 58, 256, 16
    truth = np.s_[top : top + side, left + side + gap : left + 2 * side + gap]
    assert set(np.unique(spot[truth])) == {0, 255}
    assert not good[truth].any()
    heat = np.s_[top : top + side, left + 2 * (side + gap) : left + 3 * side + 2 * gap]
    hot = spot[heat].astype(int).sum(axis=2)
    defect = spot[truth][:, :, 0] > 0
    assert hot[defect].mean() > 2 * hot[~defect].mean()


def test_all_pictures_of_a_category_have_one_colour_scale(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert benchmark(root, out, "--category", "carpet", "-q") == 0
    pictures = {path.name: np.asarray(Image.open(path)) for path in out.glob("pictures/carpet/*")}
    side, gap = 256, 16
    bar = np.s_[:, 12 + 3 * side + 2 * gap : 12 + 3 * side + 3 * gap + 40]  # with its numbers
    scales = {picture[bar].tobytes() for picture in pictures.values()}
    assert len(scales) == 1 < len(pictures)
    heat = np.s_[58 : 58 + side, 12 + 2 * (side + gap) : 12 + 2 * (side + gap) + side]
    brightest = {name: picture[heat].sum(axis=2).max() for name, picture in pictures.items()}
    assert brightest["good_0.png"] < brightest["spot_0.png"] / 2


def test_a_colormap_draws_anew(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, place = tmp_path / "out", "pictures/carpet/good_0.png"
    assert benchmark(root, out, "--category", "carpet") == 0
    before = np.asarray(Image.open(out / place)).astype(int)
    capsys.readouterr()
    assert benchmark(root, out, "--category", "carpet", "--colormap", "jet") == 0
    assert "done again, because of the colours of its pictures" in capsys.readouterr().out
    after = np.asarray(Image.open(out / place)).astype(int)
    corner = (60, 12 + 2 * (256 + 16) + 2)  # of the map of a good image
    assert before[corner].max() < 60
    assert after[corner].argmax() == 2
    assert benchmark(root, out, "--colormap", "grey") == 2
    assert "colormap" in capsys.readouterr().err


def test_a_category_without_test_images_has_no_figures(root: Path, tmp_path: Path) -> None:
    shutil.rmtree(root / "bottle/test")
    assert benchmark(root, tmp_path / "out", "--category", "bottle", "-q") == 0
    (row,) = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    assert row["n_test"] == 0
    assert row["image_auroc"] is None


def test_half_finished_work_leaves_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert benchmark(root, out, "--category", "carpet", "-q") == 0
    before = {path for path in out.rglob("*") if path.is_file()}
    seen = (out / "log.jsonl").read_text()

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("padim.model.file.write_tensors", interrupt)  # the last step of a category
        assert benchmark(root, out, "-q") == 130
    assert {path for path in out.rglob("*") if path.is_file()} == before
    assert (out / "log.jsonl").read_text().startswith(seen)
    assert benchmark(root, out, "-q") == 0
    assert len(json.loads((out / "results.json").read_text())["rows"]) == 2


def test_images_left_out_are_listed_and_their_category_is_not_whole(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    bad = root / "carpet/train/good/1.png"
    bad.write_bytes(b"")
    arguments = ("--category", "carpet", "--json")
    for _ in range(2):
        capsys.readouterr()
        assert benchmark(root, out, *arguments, "--skip-unreadable") == 0
        assert json.loads(capsys.readouterr().out)["unreadable"] == [str(bad)]
    assert benchmark(root, out, *arguments) == 1


def test_images_of_one_stem_have_a_picture_each(root: Path, tmp_path: Path) -> None:
    spot = root / "carpet/test/good/0.png"
    Image.open(spot).save(spot.with_suffix(".bmp"))
    assert benchmark(root, tmp_path / "out", "--category", "carpet", "-q") == 0
    assert len(list((tmp_path / "out/pictures/carpet").iterdir())) == 7


def test_weights_of_a_file_serve_a_network_that_does_not_travel(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "elsewhere" / "efficientnet-lite0-57934424.pth"
    here = locate(backbone("efficientnet_lite0"))
    assert here is not None
    weights.parent.mkdir()
    shutil.copyfile(here, weights)
    monkeypatch.setattr("padim.fitting.prepare.INCLUDE_BACKBONE_BYTES", 0)
    monkeypatch.setattr("padim.features.weights.locate", lambda spec: None)
    arguments = ("--category", "carpet", "--weights", str(weights), "-q")
    assert benchmark(root, tmp_path / "out", *arguments) == 0
    model = tmp_path / "out/models/carpet.safetensors"
    predict = [
        "predict",
        str(model),
        str(root / "carpet/test/good"),
        "-o",
        str(tmp_path / "p"),
        "-q",
    ]
    assert main([*predict, "--weights", str(weights)]) == 0
    assert main([*predict, "--weights", str(tmp_path / "none.pth")]) == 2


def test_processes_give_what_one_gives(root: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert benchmark(root, one, "--threads", "1", "-q") == 0
    assert benchmark(root, two, "--workers", "2", "-q") == 0
    rows = [json.loads((out / "results.json").read_text())["rows"] for out in (one, two)]
    unlike = {"fit_s", "score_s", "fit_peak_bytes"}
    for mine, theirs in zip(*rows, strict=True):
        assert {k: v for k, v in mine.items() if k not in unlike} == {
            k: v for k, v in theirs.items() if k not in unlike
        }
    events = [json.loads(line) for line in (two / "log.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["started", "finished", "finished", "ended"]


def test_a_budget_of_memory_limits_the_processes(
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What the tests before this one have left in memory is not of the matter.
    for place in ("padim.fitting.forecast", "padim.cli.benchmark_command"):
        monkeypatch.setattr(f"{place}.resident_bytes", lambda: 600_000_000)
    out = tmp_path / "out"
    assert benchmark(root, out, "--workers", "2", "--max-memory", "1GB") == 0
    assert "1GB allow 1 at a time." in capsys.readouterr().out
    assert benchmark(root, out, "--workers", "0") == 2


def test_a_category_that_fails_in_a_process_does_not_stop_the_others(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (root / "bottle/test/spot/1.png").write_bytes(b"not an image")
    assert benchmark(root, out, "--workers", "2", "-q") == 1
    assert "1 of 2 categories failed. bottle: " in capsys.readouterr().err
    document = json.loads((out / "results.json").read_text())
    assert [row["category"] for row in document["rows"]] == ["carpet"]
    assert document["failed"][0]["type"] == "ImageReadError"


def test_seeds_draw_other_dimensions(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ("--category", "carpet", "--seeds", "3", "-q")
    assert benchmark(root, out, *words) == 2
    assert "Nothing is random with all dimensions" in capsys.readouterr().err
    assert benchmark(root, out, *words, "--dims", "20") == 0
    (row,) = json.loads((out / "results.json").read_text())["rows"]
    values = row["per_seed"]["pixel_auroc"]
    assert len(set(values)) == 3
    assert row["pixel_auroc"] == pytest.approx(np.mean(values))
    assert row["spread"]["pixel_auroc"] == pytest.approx(np.std(values, ddof=1))
    assert " ± " in (out / "results.md").read_text()


def test_no_test_image_has_a_say_in_model_threshold_or_scores(root: Path, tmp_path: Path) -> None:
    carpet, shared = root / "carpet", "test/spot/0.png"
    before, after = tmp_path / "before", tmp_path / "after"
    words = ("--category", "carpet", "-q")
    assert benchmark(root, before, *words) == 0
    for path in carpet.glob("test/*/*.png"):
        if path != carpet / shared:
            Image.new("RGB", (72, 72), "white").save(path)
    for mask in (carpet / "ground_truth/spot").iterdir():
        Image.new("L", (72, 72), 255).save(mask)
    assert benchmark(root, after, *words) == 0
    model = "models/carpet.safetensors"
    assert (before / model).read_bytes() == (after / model).read_bytes()
    found = []
    for out in (before, after):
        record = json.loads((out / "records/carpet.json").read_text())
        (image,) = [image for image in record["images"] if image["path"] == shared]
        found.append((record["threshold"], image))
    assert found[0] == found[1]


def test_maps_are_kept_on_request(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert benchmark(root, out, "--category", "carpet", "-q") == 0
    assert not (out / "maps").exists()
    assert benchmark(root, out, "--category", "carpet", "--keep-maps", "-q") == 0
    maps = [np.load(path) for path in sorted((out / "maps/carpet").iterdir())]
    assert len(maps) == 6
    assert {(found.shape, str(found.dtype)) for found in maps} == {((64, 64), "float16")}


def test_two_benchmarks_are_compared_in_pairs(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert benchmark(root, first, "-q") == 0
    assert benchmark(root, second, "--sigma", "0", "-q") == 0
    capsys.readouterr()
    assert main(["compare", str(first), str(first), "--json"]) == 0
    same = json.loads(capsys.readouterr().out)
    for found in same["all"].values():
        assert (found["difference"], found["interval"], found["holds"]) == (0, [0, 0], False)
    assert main(["compare", str(first), str(second), "--json"]) == 0
    other = json.loads(capsys.readouterr().out)
    assert set(other["categories"]) == {"bottle", "carpet"}
    found = other["categories"]["carpet"]["pixel_auroc"]
    assert found["difference"] == pytest.approx(found["first"] - found["second"])
    assert found["interval"][0] <= found["difference"] <= found["interval"][1]

    (root / "carpet/test/good/0.png").unlink()
    assert benchmark(root, second, "--sigma", "0", "-q") == 0
    assert main(["compare", str(first), str(second)]) == 1
    assert "other test images of carpet (6 and 5, 5 in common)" in capsys.readouterr().err
    assert main(["compare", str(first), str(root)]) == 1
    assert main(["compare", str(first), str(tmp_path / "none")]) == 2


def test_pixels_are_not_compared_where_others_are_looked_at(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    words = ("--category", "carpet", "-q", "--engine", "torch")
    assert benchmark(root, first, *words) == 0
    assert benchmark(root, second, *words, "--recipe", "reference") == 0
    capsys.readouterr()
    assert main(["compare", str(first), str(second)]) == 0
    said = capsys.readouterr().out
    assert "image_auroc" in said
    assert "pixel_auroc" not in said
    assert "Metrics of pixels are left out" in said


def test_the_page_of_the_published_table_has_the_published_figures() -> None:
    text = (Path(__file__).parents[2] / "docs/mvtec.md").read_text()
    sections = text.split("\n## ")[1:]
    assert len(sections) == 4
    for section in sections:
        (command,) = re.findall(r"^    padim benchmark (.*)$", section, re.MULTILINE)
        words = dict(re.findall(r"--(backbone|dims|recipe|against) (\S+)", command))
        n_dims = int(words.get("dims", backbone(words["backbone"]).n_dims))
        rows = re.findall(r"^\| (\w+) \| (\S+) \| \| (\S+) \| \|$", section, re.MULTILINE)
        assert [name for name, *_ in rows] == [
            *MVTEC_TEXTURES,
            *MVTEC_OBJECTS,
            "texture",
            "object",
            "all",
        ]
        for name, *figures in rows:
            assert tuple(map(float, figures)) == find_published(words["backbone"], n_dims, name)
        assert (words["recipe"], words["against"]) == ("reference", "published")


def test_published_figures_are_compared_with(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert find_published("resnet18", 100, "screw") == (0.745, 0.972)
    assert find_published("resnet18", 448, "screw") is None
    assert find_published("efficientnet_b7_ns", 432, "all") == (0.977, 0.967)
    values = {"image_auroc": 0.99, "pixel_auroc": 0.987}
    settings = make_settings("efficientnet_v2_m", 288)
    settings["recipe"] = "reference"
    results = Results.of(settings, [make_record("carpet", metrics=values)], ())
    said = describe_differences(replace(results, means={}, mean_intervals={}))
    assert "| carpet | 0.990 | 1.000 | -0.010 **off** | 0.987 | 0.987 | +0.000 |" in said
    assert "Off by more than 0.005: 1 of 2 figures." in said
    settings["recipe"] = "standard"
    assert "Nothing was published" in describe_differences(
        replace(results, means={}, mean_intervals={})
    )
    assert benchmark(root, tmp_path / "out", "--against", "published", "-q") == 0
    assert "Nothing was published for these settings" in capsys.readouterr().out
    assert benchmark(root, tmp_path / "out", "--against", "mine", "-q") == 2
