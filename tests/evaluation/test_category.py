"""What is made of a category's scores and maps: previews, metrics by defect, paired resamples."""

import base64
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score
from test_pixels import Case, area_to, brute_aupro
from trees import make_fingerprint, make_record

from padim.datasets import Category, Sample, read_category
from padim.evaluation.category import Evaluation, evaluate, preview
from padim.evaluation.job import Job, record_of
from padim.evaluation.pictures import mask_threshold
from padim.evaluation.record import ImageResult, Record
from padim.files import TemporaryFolder
from padim.images.preprocess import Preprocess
from padim.metrics.counts import MapCounts
from padim.metrics.images import ImageMetrics
from padim.metrics.resamples import bootstrap_weights, interval
from padim.report.cards import Part
from padim.scoring.prediction import Prediction
from padim.scoring.predictor import Predictor

SIZE_PX = (16, 24)
WHOLE = Preprocess(SIZE_PX, 1, "bilinear", (0, 0, 0), (1, 1, 1))


@dataclass
class Known:
    """Stands in for a predictor: the map of each image is known by the image's path."""

    maps: Mapping[Path, NDArray[np.float32]]
    preprocess: Preprocess = WHOLE
    decision: None = None

    def stream(self, paths: Sequence[Path], unreadable: None) -> Iterator[Prediction]:
        for path in paths:
            anomaly_map = self.maps[path]
            score = float(anomaly_map.max())
            yield Prediction(path, score, anomaly_map, (score,), (32, 48), self.preprocess)


def evaluation_of(
    category: str,
    defects: Sequence[str],
    image_score: NDArray[np.float64],
    case: Case,
    without_mask: Sequence[int] = (),
) -> Evaluation:
    """What ``evaluate`` gives, of images that are nowhere."""
    samples = tuple(
        Sample(Path(f"/data/{category}/{i}.png"), defect) for i, defect in enumerate(defects)
    )
    counted = [i for i in range(len(samples)) if i not in without_mask]
    counts, nothing = MapCounts(), np.empty((0, 0), np.float32)
    for i in counted:
        counts.add(case.maps[i], case.masks[i] if samples[i].is_anomalous else None)
    return Evaluation(
        category=category,
        samples=samples,
        predictions=tuple(
            Prediction(sample.path, float(score), nothing, (float(score),), (32, 48), WHOLE)
            for sample, score in zip(samples, image_score, strict=True)
        ),
        decision=None,
        anomaly_map=np.array(case.maps, np.float16),
        counts=counts,
        counted=np.array(counted, np.int64),
        score_s=1.0,
        folder=TemporaryFolder(),
    )


def pixels(url: str) -> NDArray[np.float64]:
    """Grey levels of a picture that is held as data."""
    content = base64.b64decode(url.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("L"), np.float64)


def centre(picture: NDArray[np.float64]) -> tuple[float, float]:
    """Where the bright pixels are, as shares of height and width."""
    rows, columns = np.nonzero(picture > 200)
    return (rows.mean() + 0.5) / picture.shape[0], (columns.mean() + 0.5) / picture.shape[1]


PLACES = [(8, 20), (8, 130), (80, 20), (80, 130)]  # of 96 rows and 160 columns


def test_an_oracle_threshold_marks_what_lies_at_it() -> None:
    masks = np.zeros((2, *SIZE_PX), np.bool_)
    masks[1, 4:8, 4:8] = True
    maps = np.where(masks, 3, 1).astype(np.float32)
    case = Case(list(maps), list(masks), [[], []])
    evaluation = evaluation_of("a", ["good", "bad"], maps.max(axis=(1, 2)), case)
    threshold, words = mask_threshold(evaluation)
    assert words == "oracle threshold: uses test labels\n(pixel F1-max at 3.00)"
    np.testing.assert_array_equal(maps > threshold, masks)


@pytest.mark.parametrize(("top", "left"), PLACES)
def test_a_hot_place_keeps_its_place_in_a_preview(top: int, left: int) -> None:
    anomaly_map = np.zeros((96, 160), np.float16)
    anomaly_map[top : top + 6, left : left + 10] = 1
    small = preview(anomaly_map)
    assert small.shape == (64, 64)
    # Of 96 rows two thirds stay, of 160 columns two fifths.
    assert small.sum() == 4 * 4
    place = ((top + 3) / 96, (left + 5) / 160)
    assert centre(255 * small) == pytest.approx(place, abs=0.01)


def test_a_preview_takes_rows_and_columns_evenly() -> None:
    rows, columns = (axis.astype(np.float16) for axis in np.indices((96, 40)))
    # The centre of each of 64 strips of 1.5 rows; all 40 columns.
    np.testing.assert_array_equal(preview(rows)[:, 0], ((np.arange(64) + 0.5) * 1.5).astype(int))
    np.testing.assert_array_equal(preview(columns)[0], np.arange(40))
    for axis in (rows, columns):
        assert preview(axis).shape == (64, 40)
    small = np.random.default_rng(0).random((5, 9)).astype(np.float16)
    np.testing.assert_array_equal(preview(small), small)


@pytest.mark.parametrize(("top", "left"), PLACES)
def test_a_hot_corner_is_the_bright_corner_of_a_card(tmp_path: Path, top: int, left: int) -> None:
    levels, anomaly_map = np.zeros((96, 160), np.uint8), np.ones((96, 160), np.float16)
    levels[top : top + 6, left : left + 10] = 255
    anomaly_map[top : top + 6, left : left + 10] = 9
    for name in ("a.png", "a_mask.png"):
        Image.fromarray(levels).save(tmp_path / name)
    image = ImageResult("lid", 0, "a.png", "anomalous", "dent", 9.0, (9.0,), None, None)
    lid = make_record("lid", images=(image,), masks=(("a_mask.png",),))
    previews = preview(anomaly_map)[None].astype(np.float32)
    part = Part(lid, tmp_path, tmp_path, previews, WHOLE)
    (card,) = part.cards(False, lambda n_images: None)
    # Both lie over the whole of the image, so a place is the same share of either.
    assert card["box"] == [0, 0, 100, 100]
    expected = pytest.approx(((top + 3) / 96, (left + 5) / 160), abs=0.01)
    assert centre(pixels(card["image"])) == expected
    assert centre(pixels(card["map"])) == expected
    assert card["outline"] == f"M{left} {top}h10v6h-10v-6z"


def noisy_case(n_normal: int, n_anomalous: int, seed: int = 0) -> Case:
    """Maps of 12 x 15 pixels in whole eighths, which float16 holds, and defects that show a bit."""
    generator = np.random.default_rng(seed)
    shape = (n_normal + n_anomalous, 12, 15)
    mask = np.zeros(shape, np.bool_)
    for i in range(n_normal, len(mask)):
        y, x = generator.integers(0, 8, 2)
        mask[i, y : y + 3, x : x + 4] = True
        mask[i, 11, 13 - i % 3 :] = True
    maps = (generator.gamma(4, 8, shape) + 12 * mask).round() / 8
    return Case(list(maps.astype(np.float32)), list(mask), [[]] * len(mask))


def record(job: Job, evaluation: Evaluation) -> Record:
    return record_of(job, evaluation, (), n_train=1, fit_s=1, fit_peak_bytes=1, model_bytes=1)


def job_of(name: str, seed: int = 0, root: str = "/data", backbone: str = "resnet18") -> Job:
    fingerprint = make_fingerprint(backbone=backbone)
    return Job(Category(name, Path(root) / name, (), ()), seed, fingerprint)


def test_the_same_images_are_drawn_in_every_benchmark() -> None:
    case = noisy_case(6, 8)
    defects = ["good"] * 6 + ["dent"] * 8
    scores = np.random.default_rng(1).normal(size=14) + np.repeat([0, 0.7], [6, 8])

    def resampled(job: Job, case: Case = case) -> dict[str, NDArray[np.float64]]:
        found = evaluation_of(job.category.name, defects, scores, case)
        return record(job, found).resampled

    first = resampled(job_of("carpet"))
    again = resampled(job_of("carpet", 3, "/elsewhere", backbone="other"))
    assert first.keys() == again.keys()
    assert {"image_auroc", "image_average_precision", "pixel_auroc", "aupro_30"} <= first.keys()
    for name, values in first.items():
        assert values.size == 1000
        np.testing.assert_array_equal(values, again[name], err_msg=name)
    assert len(set(first["image_auroc"])) > 10  # or equal draws would say nothing
    # Not hash(): it differs from process to process. An older folder has to be drawn alike, too.
    is_anomalous = np.array(defects) != "good"
    weights = bootstrap_weights(is_anomalous, seed=zlib.crc32(b"carpet"))
    expected = ImageMetrics.of(is_anomalous, scores).resampled(weights)
    np.testing.assert_array_equal(first["image_auroc"], expected["image_auroc"])
    assert (resampled(job_of("bottle"))["image_auroc"] != first["image_auroc"]).any()


def test_the_difference_of_like_models_is_narrower_in_pairs() -> None:
    generator = np.random.default_rng(2)
    defects = ["good"] * 20 + ["dent"] * 20
    scores = generator.normal(size=40) + np.repeat([0, 1], 20)
    nearly = scores + 0.1 * generator.normal(size=40)
    case = noisy_case(20, 20)

    def drawn(name: str, image_score: NDArray[np.float64]) -> NDArray[np.float64]:
        found = evaluation_of(name, defects, image_score, case)
        return record(job_of(name), found).resampled["image_auroc"]

    def width(differences: NDArray[np.float64]) -> float:
        low, high = interval(differences)
        return high - low

    one, other = drawn("carpet", scores), drawn("carpet", nearly)
    assert 0 < width(one - other) < 0.3 * width(one - drawn("bottle", nearly))


def test_each_kind_of_defect_is_measured_against_all_normal_images() -> None:
    # Four scratches stand out, one of them without a mask; five stains do not.
    defects = ["good"] * 6 + ["scratch"] * 4 + ["stain"] * 5
    case = noisy_case(6, 9, seed=3)
    for i in range(6, 10):
        case.maps[i] = case.maps[i] + np.float32(50) * case.masks[i]
    scores = np.random.default_rng(4).normal(size=15).round(1)
    scores[6:10] += 10
    without_mask = [7]
    found = evaluation_of("carpet", defects, scores, case, without_mask).by_defect()
    assert list(found) == ["scratch", "stain"]
    for kind, values in found.items():
        chosen = [i for i, defect in enumerate(defects) if defect in ("good", kind)]
        labels = np.array([defects[i] == kind for i in chosen])
        assert values["image_auroc"] == pytest.approx(roc_auc_score(labels, scores[chosen]))
        assert values["image_average_precision"] == pytest.approx(
            average_precision_score(labels, scores[chosen])
        )
        counted = [i for i in chosen if i not in without_mask]
        part = Case(*([values[i] for i in counted] for values in vars(case).values()))
        of_pixels = np.ravel(part.masks), np.ravel(part.maps)
        assert values["pixel_auroc"] == pytest.approx(roc_auc_score(*of_pixels))
        assert values["pixel_average_precision"] == pytest.approx(
            average_precision_score(*of_pixels)
        )
        assert values["aupro_30"] == pytest.approx(brute_aupro(part, 0.3))
    assert found["scratch"]["image_auroc"] == found["scratch"]["pixel_auroc"] == 1
    assert 0.2 < found["stain"]["image_auroc"] < 0.8
    assert 0.5 < found["stain"]["pixel_auroc"] < 0.9


# Top, left, height and width of defects in images of 32 x 48 px, twice the size of the network's,
# and the share of their pixels that has to be found.
PIECES = [
    ("logical_anomalies/000", [((4, 4, 12, 16), "missing"), ((12, 16, 10, 20), "extra")]),
    ("logical_anomalies/001", [((0, 30, 20, 12), "extra")]),
    ("structural_anomalies/000", [((20, 2, 8, 10), "bent")]),
]
KINDS = {"missing": (255, 48, False), "extra": (254, 0.1, True), "bent": (253, 1000, False)}
SHARES = {"missing": 48 / (12 * 16), "extra": 0.1, "bent": 1.0}  # 1000 px are more than it has


def make_loco(folder: Path) -> None:
    for name in ("train/good/000", "test/good/000", "test/good/001"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48, 32)).save(folder / f"{name}.png")
    for name, pieces in PIECES:
        (folder / "test" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48, 32)).save(folder / f"test/{name}.png")
        for i, ((top, left, height, width), kind) in enumerate(pieces):
            levels = np.zeros((32, 48), np.uint8)
            levels[top : top + height, left : left + width] = KINDS[kind][0]
            (folder / "ground_truth" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(levels).save(folder / f"ground_truth/{name}/{i:03}.png")
    keys = ("defect_name", "pixel_value", "saturation_threshold", "relative_saturation")
    config = [dict(zip(keys, (kind, *facts), strict=True)) for kind, facts in KINDS.items()]
    (folder / "defects_config.json").write_text(json.dumps(config))


def test_masks_that_are_doubtful_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    spot = np.zeros((32, 48), np.uint8)
    spot[8:14, 10:22] = 255
    photograph = np.linspace(50, 200, spot.size).reshape(spot.shape).astype(np.uint8)
    alpha = Image.new("RGBA", (48, 32), "white")
    alpha.putalpha(Image.fromarray(spot))
    masks = {
        "0": Image.fromarray(spot),
        "1": Image.fromarray(255 - spot),  # inverted, which is a white background as well
        "2": Image.fromarray(255 - spot),
        "3": alpha,
        "4": Image.fromarray(photograph),
        "5": Image.new("L", (48, 32)),
    }
    for name, mask in masks.items():
        for place, image in ((f"test/spot/{name}", mask), (f"ground_truth/spot/{name}", mask)):
            (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
            image.save(tmp_path / f"{place}.png")
    (tmp_path / "train/good").mkdir(parents=True)
    Image.new("L", (48, 32)).save(tmp_path / "train/good/0.png")
    category = read_category(tmp_path)
    maps = {sample.path: np.zeros(SIZE_PX, np.float32) for sample in category.test}
    found = evaluate(cast(Predictor, Known(maps)), category)
    truth = tmp_path / "ground_truth/spot"
    assert found.mask_flaws == {
        "inverted-mask": (truth / "1.png", truth / "2.png"),
        "alpha-mask": (truth / "3.png",),
        "grey-mask": (truth / "4.png",),
        "mask-levels": (truth / "4.png",),
        "empty-mask": (truth / "5.png",),
    }
    first, *_, last = found.describe_flaws()
    assert first == (
        "Masks that mark the border and most of their image: 2. Background and defect look "
        f"exchanged. The first: {truth / '1.png'}. padim check lists them."
    )
    assert last == (
        "Masks that mark nothing, of images with defects: 1. All pixels of such an image count as "
        f"good. The first: {truth / '5.png'}. padim check lists them."
    )


def test_spro_of_an_mvtec_loco_category_is_that_of_the_paper(tmp_path: Path) -> None:
    make_loco(tmp_path / "pins")
    category = read_category(tmp_path / "pins")
    assert category.layout == "MVTec LOCO AD"
    generator = np.random.default_rng(5)
    at_half_size = {}
    for name, pieces in PIECES:
        at_half_size[tmp_path / f"pins/test/{name}.png"] = [
            ((slice(top // 2, (top + high) // 2), slice(left // 2, (left + wide) // 2)), kind)
            for (top, left, high, wide), kind in pieces
        ]
    maps, defects = {}, []
    for sample in category.test:
        scores = generator.gamma(4, 8, SIZE_PX)
        masks = []
        for place, kind in at_half_size.get(sample.path, []):
            scores[place] += 60 * generator.random(scores[place].shape)
            mask = np.zeros(SIZE_PX, np.bool_)
            mask[place] = True
            masks.append((mask, SHARES[kind]))
        maps[sample.path] = (scores.round() / 8).astype(np.float32)  # which float16 holds
        defects.append((maps[sample.path], masks))

    metrics = evaluate(cast(Predictor, Known(maps)), category).metrics

    # Bergmann et al. 2022: the mean over all defects of min(pixels found / saturation, 1), over
    # the rate of false positives among all pixels that are of no defect.
    normal = np.concatenate(
        [
            scores[~np.logical_or.reduce([np.zeros(SIZE_PX, np.bool_), *(m for m, _ in masks)])]
            for scores, masks in defects
        ]
    )
    fpr, spro, pro = [], [], []
    for threshold in np.unique(list(maps.values()))[::-1]:
        fpr.append(float((normal >= threshold).mean()))
        found = [
            ((scores[mask] >= threshold).sum(), share * mask.sum(), mask.sum())
            for scores, masks in defects
            for mask, share in masks
        ]
        assert len(found) == 4
        spro.append(float(np.mean([min(n_px / enough, 1) for n_px, enough, _ in found])))
        pro.append(float(np.mean([n_px / all_px for n_px, _, all_px in found])))
    assert metrics["spro_05"] == pytest.approx(area_to(0.05, fpr, spro), abs=1e-9)
    assert 0.05 + area_to(0.05, fpr, pro) < metrics["spro_05"] < 0.95
