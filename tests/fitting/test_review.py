import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from PIL import Image
from trees import make_category, striped

from padim.cli import main
from padim.errors import UsageError
from padim.fitting.review import outlier_p_values, review
from padim.images.thumbnails import Look
from padim.method.moments import Moments
from padim.model.padim import PaDiM
from padim.scoring.collector import Collector


def looked_at(pixels: np.ndarray, source_px: tuple[int, int] = (72, 72)) -> Look:
    return Look.of(pixels, source_px)


def test_a_look_is_the_mean_of_blocks() -> None:
    pixels = oracle.random_images(1, (64, 96))[0]
    look = looked_at(pixels)
    expected = pixels.mean(axis=2).reshape(32, 2, 32, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(look.thumbnail, expected, rtol=1e-5)
    assert look.brightness == pytest.approx(pixels.mean())


def test_bulk_scores_have_the_p_values_of_their_distribution() -> None:
    rng = np.random.default_rng(0)
    scores = (20 + rng.exponential(3, 100_000)).astype(np.float32)
    p_values = outlier_p_values(scores)
    # What is set aside beyond a hundredth, good images too, makes the bulk a little narrower.
    for rate in (0.3, 0.1, 0.01, 0.001):
        assert rate == pytest.approx((p_values <= rate).mean(), rel=0.4)
    assert p_values.max() == 0.5


def test_images_that_do_not_belong_do_not_hide_each_other() -> None:
    good = 20 + np.random.default_rng(0).exponential(3, 500)
    alone = outlier_p_values(np.append(good, 55).astype(np.float32))
    # By the first look alone, these put the 90% quantile where good images end.
    planted = outlier_p_values(np.append(good, np.full(50, 55)).astype(np.float32))
    assert planted[-1] < 2 * alone[-1] < 1e-4
    assert (planted[:500] <= 0.005).mean() < 0.02


@pytest.mark.parametrize("scores", [[7.0], [0.0, 0.0], [5.0] * 9, [5.0] * 8 + [5.01]])
def test_scores_without_a_spread_have_no_outlier(scores: list[float]) -> None:
    assert (outlier_p_values(np.array(scores, np.float32)) > 0.1).all()


def test_each_kind_of_suspect_is_named() -> None:
    images = oracle.random_images(12, (64, 64))
    looks = [looked_at(image) for image in images]
    looks.append(looked_at(np.clip(images[3].astype(int) + 1, 0, 255).astype(np.uint8)))
    looks.append(looked_at(images[5] // 8, (72, 72)))
    looks.append(looked_at(images[6][::-1], (720, 72)))
    scores = np.linspace(10, 11, len(looks)).astype(np.float32)
    scores[7] = 30
    found = [(suspect.index, suspect.reason, suspect.other) for suspect in review(scores, looks)]
    assert found == [
        (7, "outlier", None),
        (12, "duplicate", 3),
        (14, "size", None),
        (13, "brightness", None),
    ]


def test_what_was_merged_can_be_taken_away() -> None:
    generator = torch.Generator().manual_seed(0)
    features = [
        1e3 + torch.randn(2, 9, 3, generator=generator),
        torch.randn(8, 9, 2, generator=generator),
    ]
    parts = [[level[:, :4] for level in features], [level[:, 4:] for level in features]]
    left = Moments.of(features).without(Moments.of(parts[1]))
    expected = Moments.of(parts[0])
    assert left.count == 4
    torch.testing.assert_close(left.mean, expected.mean)
    torch.testing.assert_close(left.scatter, expected.scatter, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kept_feature_bytes", [1 << 30, 0])
def test_dropped_outliers_leave_no_trace(kept_feature_bytes: int) -> None:
    good = [np.asarray(striped(i)) for i in range(20)]
    spotted = [np.asarray(striped(100 + i, spot=True)) for i in range(2)]
    fitter = oracle.small_fitter(drop_outliers=0.001, store="float32", keep_moments=True)
    fitter = replace(fitter, kept_feature_bytes=kept_feature_bytes)
    fitted = fitter.fit([*good[:7], spotted[0], *good[7:], spotted[1]])
    assert fitted.dropped == (7, 21)
    expected = oracle.small_fitter(store="float32").fit(good).state
    assert fitted.state.count == 20
    assert fitted.state.image_sha256 == expected.image_sha256
    assert fitted.state.images == expected.images
    for ours, theirs in zip(fitted.state.whitening, expected.whitening, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert fitted.state.calibration is not None
    assert expected.calibration is not None
    np.testing.assert_allclose(
        fitted.state.calibration.image_score, expected.calibration.image_score, rtol=1e-4
    )
    assert fitted.moments is not None
    assert fitted.moments.count == 20


def test_a_fit_lists_what_does_not_belong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = make_category(tmp_path / "stripes", n_train=16) / "train/good"
    striped(200, spot=True).save(good / "spot.png")
    shutil.copy(good / "3.png", good / "again.png")
    words = ["fit", str(good), "-o", str(tmp_path / "m.safetensors"), "--size", "64"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "1 image scores as if it did not belong (--drop-outliers leaves it out):" in said
    assert "1 image repeats another, and so makes the model surer" in said
    assert main([*words, "--drop-outliers", "0.001", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["dropped"] == [str(good / "spot.png")]
    assert document["n_train"] == 17
    reasons = {Path(s["path"]).name: s["reason"] for s in document["suspects"]}
    assert reasons["spot.png"] == "outlier"
    assert "duplicate" in (reasons.get("again.png"), reasons.get("3.png"))


@pytest.mark.parametrize("kept_feature_bytes", [1 << 30, 0])
def test_maps_of_outliers_are_those_of_the_fit_without_each(kept_feature_bytes: int) -> None:
    images = [np.asarray(striped(i)) for i in range(40)]
    images[33] = np.asarray(striped(100, spot=True))
    fitter = oracle.small_fitter(store="float32", eps_rule="absolute")
    fitter = replace(fitter, n_maps=100)
    fitted = replace(fitter, kept_feature_bytes=kept_feature_bytes).fit(images)
    assert list(fitted.outlier_maps) == [33]
    without = oracle.small_fitter(store="float32", eps_rule="absolute", calibrate=False)
    model = PaDiM(without.fit(images[:33] + images[34:]).state, features=without.features)
    expected = model.predict(images[33]).anomaly_map
    np.testing.assert_allclose(fitted.outlier_maps[33], expected, rtol=1e-3)


def test_a_collector_keeps_the_maps_of_the_highest_scores() -> None:
    scores = np.random.default_rng(0).permutation(50).astype(np.float32)
    collector = Collector(n_maps=3)
    for part in np.array_split(scores, 7):
        collector.add(np.broadcast_to(part[:, None, None], (len(part), 2, 2)), part)
    maps = collector.maps()
    assert set(maps) == set(np.argsort(-scores)[:3].tolist())
    assert all((found == scores[place]).all() for place, found in maps.items())
    assert not Collector().maps()


def test_outliers_are_drawn_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = make_category(tmp_path / "stripes", n_train=16) / "train/good"
    striped(200, spot=True).save(good / "spot.png")
    words = ["fit", str(good), "-o", str(tmp_path / "m.safetensors"), "--size", "64"]
    for out, more in (("kept", []), ("dropped", ["--drop-outliers", "0.005"])):
        drawing = [*words, *more, "--outlier-overlays", str(tmp_path / out / "here")]
        assert main(drawing) == 0
        assert "Outliers drawn: 1, in " in capsys.readouterr().out
        (path,) = (tmp_path / out).rglob("*.*")
        assert path == tmp_path / out / "here/spot.jpg"
        with Image.open(path) as picture:
            change = np.asarray(picture.convert("RGB")).astype(int)
        change -= np.asarray(striped(200, spot=True))
        y, x = np.unravel_index(np.abs(change).sum(axis=2).argmax(), change.shape[:2])
        dark = np.nonzero(np.asarray(striped(200, spot=True).convert("L")) < 20)
        assert abs(int(y) - dark[0].mean()) < 14
        assert abs(int(x) - dark[1].mean()) < 14
    assert main([*drawing, "--json"]) == 0
    suspects = json.loads(capsys.readouterr().out)["suspects"]
    assert [s["overlay"] for s in suspects if s["reason"] == "outlier"] == [str(path)]


def test_folders_that_cannot_be_drawn_to_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = make_category(tmp_path / "stripes") / "train/good"
    words = ["fit", str(good), "-o", str(tmp_path / "m"), "--size", "64", "--outlier-overlays"]
    assert main([*words, str(good / "0.png")]) == 1
    assert "0.png is no folder. Choose another place." in capsys.readouterr().err
    assert main([*words, str(tmp_path / "out"), "--no-calibrate"]) == 2
    assert "Leave --no-calibrate out." in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"stripes"}


def test_outliers_need_a_calibration() -> None:
    with pytest.raises(UsageError, match="known by calibrating only"):
        oracle.small_fitter(calibrate=False, drop_outliers=0.01)


def test_an_impossible_rate_of_outliers_is_refused() -> None:
    with pytest.raises(UsageError, match="needs to be above 0 and below 1"):
        oracle.small_fitter(drop_outliers=1.5)
