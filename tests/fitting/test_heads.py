"""Mirrored features and two heads, against the formulas written out."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import padim
from padim.features.features import TiledFeatures
from padim.fitting.settings import FitChoices
from padim.method.fusion import Fusion
from padim.model.file import load_state
from padim.model.padim import PaDiM
from padim.model.scorer import scorer_of
from padim.model.torch_score import TileScore
from padim.scoring.predictor import Prediction

SIZE_PX = (64, 64)
COARSE_PX = (48, 48)
BOTH = oracle.ONE_HEAD | FitChoices(
    size_px=SIZE_PX,
    store="float32",
    engine="torch",
    taps=(2, 4),
    mirrored=True,
    coarse_scale=0.75,
)


def feature_maps(pixels: NDArray[np.uint8], size_px: tuple[int, int]) -> list[oracle.Floats]:
    """Of a network that is run as it is, on smaller images and on their mirror images."""
    network, names = oracle.lite0(), oracle.tap_names("efficientnet_lite0")[1:]
    plain, mirrored = (
        oracle.hooked(
            network,
            names,
            torch.nn.functional.interpolate(
                oracle.normalised(one, *oracle.MEAN_STD["half"]),
                size_px,
                mode="bilinear",
                antialias=True,
            ),
        )
        for one in (pixels, pixels[:, :, ::-1])
    )
    pairs = zip(plain, mirrored, strict=True)
    return [(one.numpy() + other.numpy()[..., ::-1]) / 2 for one, other in pairs]


@dataclass(frozen=True)
class Seen:
    """The feature maps of images, and those of the last tap of their smaller copies."""

    fine: list[oracle.Floats]
    coarse: oracle.Floats

    def pick(self, places: list[int]) -> "Seen":
        return Seen([one[places] for one in self.fine], self.coarse[places])


def scores_of(
    train: Seen, test: Seen, eps: tuple[oracle.Floats, ...]
) -> tuple[oracle.Floats, oracle.Floats]:
    """The maps of the levels, and the scores by either head, shape ``(N, 2)``."""
    fine = oracle.distances(oracle.embeddings(train.fine), oracle.embeddings(test.fine), eps[0])
    coarse = oracle.distances(train.coarse, test.coarse, eps[1])
    maps = oracle.anomaly_map(fine, SIZE_PX, sigma_px=4)
    return maps, np.stack((oracle.image_score(maps, 0.01), oracle.image_score(coarse, 0.05)), 1)


def test_maps_and_scores_equal_the_formulas_written_out() -> None:
    pixels = oracle.random_images(9, SIZE_PX)
    seen = Seen(feature_maps(pixels, SIZE_PX), feature_maps(pixels, COARSE_PX)[-1])
    train, test = seen.pick([0, 1, 2, 3, 4, 5]), seen.pick([6, 7, 8])
    eps = oracle.relative_eps(train.fine, 0.01), oracle.relative_eps([train.coarse], 0.01)
    expected, by_head = scores_of(train, test, eps)
    left_out = np.concatenate(
        [
            scores_of(train.pick([k for k in range(6) if k != i]), train.pick([i]), eps)[1]
            for i in range(6)
        ]
    )
    usual = np.exp(np.log(left_out).mean(axis=0))

    def joined(scores: oracle.Floats) -> oracle.Floats:
        return usual[0] * ((scores / usual) ** 10).sum(axis=1) ** 0.1

    model = padim.fit(list(pixels[:6]), **BOTH)
    found = model.predict(list(pixels[6:]))

    np.testing.assert_allclose([one.anomaly_map for one in found], expected, rtol=1e-3)
    np.testing.assert_allclose([one.level_scores[-1] for one in found], by_head[:, 1], rtol=1e-3)
    np.testing.assert_allclose([one.score for one in found], joined(by_head), rtol=1e-3)
    assert model.decision is not None
    good = model.decision.calibration.image_score
    np.testing.assert_allclose(good, np.sort(joined(left_out)), rtol=1e-3)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    for i, pixels in enumerate(oracle.random_images(10, SIZE_PX)):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


def scored(
    model: padim.Predictor, images: list[Path] | list[NDArray[np.uint8]]
) -> tuple[np.ndarray, np.ndarray]:
    found = model.predict(images)
    assert all(isinstance(one, Prediction) for one in found)
    return np.array([one.score for one in found]), np.array([one.level_scores for one in found])


def test_the_model_survives_its_file_and_its_graphs(images: list[Path], tmp_path: Path) -> None:
    model = padim.fit(images[:8], **BOTH)
    path = tmp_path / "part.safetensors"
    model.save(path)
    state = load_state(path)
    assert state.metadata()["format_version"] == 3
    assert state.fusion == model.state.fusion
    new = images[8:]
    expected = scored(model, new)
    for name in ("part.safetensors", "part.onnx", "part.xml"):
        if name != path.name:
            padim.export(path, tmp_path / name)
        for ours, theirs in zip(scored(padim.load(tmp_path / name), new), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3)


def test_a_model_without_them_says_nothing_of_them(images: list[Path]) -> None:
    metadata = padim.fit(images[:3], size_px=SIZE_PX, coarse_scale=0).state.metadata()
    assert metadata["format_version"] == 1
    assert not {"mirrored", "coarse_scale", "coarse_fraction"} & metadata["recipe"].keys()
    assert "fusion" not in metadata


def test_tile_by_tile_they_score_as_all_at_once() -> None:
    fitter = oracle.small_fitter(
        size_px=(96, 128), tile_px=64, tile_overlap_px=32, mirrored=True, coarse_scale=0.75
    )
    state = fitter.fit(list(oracle.random_images(5, (96, 128)))).state
    images = oracle.random_images(3, (96, 128), seed=5)
    assert isinstance(fitter.features, TiledFeatures)
    assert state.fusion is not None
    found = TileScore(state, fitter.features, torch.device("cpu"))(images)
    with torch.inference_mode():
        expected = scorer_of(state, fitter.features)(torch.from_numpy(images))
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs.numpy(), rtol=2e-5)


def test_good_images_of_tiles_score_as_under_the_model_without_them() -> None:
    pixels, choices = (
        list(oracle.random_images(4, (64, 96))),
        BOTH | FitChoices(size_px=(64, 96), tile_px=64, tile_overlap_px=32, eps_rule="absolute"),
    )
    calibration = padim.fit(pixels, **choices).state.calibration
    by_head = []
    for i, image in enumerate(pixels):
        others = pixels[:i] + pixels[i + 1 :]
        alone = padim.fit(others, calibrate=False, **choices).predict(image)
        by_head.append((alone.score, alone.level_scores[-1]))
    scores = np.array(by_head, np.float32)
    expected = Fusion.of(scores).join(torch.from_numpy(scores).unbind(dim=1))
    assert calibration is not None
    np.testing.assert_allclose(calibration.image_score, np.sort(expected.numpy()), rtol=1e-3)


def test_the_coarse_head_looks_inside_the_region_alone() -> None:
    pixels = oracle.random_images(6, SIZE_PX)
    left = np.zeros(SIZE_PX, np.bool_)
    left[:, :32] = True
    model = padim.fit(list(pixels[:5]), roi=left, tile_overlap_px=32, **BOTH)
    assert [shape[0] for shape in model.state.pyramid.shapes] == [8, 32, 6]
    changed = pixels[5].copy()
    changed[:, 60:] = 0  # beyond what the network sees around the region
    for one, other in zip(scored(model, [pixels[5]]), scored(model, [changed]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_models_of_two_heads_learn_forget_and_merge(images: list[Path], tmp_path: Path) -> None:
    paths = {name: tmp_path / f"{name}.safetensors" for name in ("all", "few", "rest", "both")}
    for name, some in (("all", images), ("few", images[:5]), ("rest", images[5:])):
        padim.fit(some, keep_moments=True, **BOTH).save(paths[name], moments=True)
    merged = padim.merge(paths["few"], paths["rest"], paths["both"])
    updated = padim.update(paths["few"], images[5:], recalibrate=images)
    whole = load_state(paths["all"])
    for model in (merged, updated):
        for ours, theirs in zip(model.state.whitening, whole.whitening, strict=True):
            np.testing.assert_allclose(
                ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max())
            )
    assert updated.state.fusion is not None
    assert whole.fusion is not None
    np.testing.assert_allclose(updated.state.fusion.usual, whole.fusion.usual, rtol=1e-4)
    forgotten = padim.forget(paths["few"], images[5:], recalibrate=images[:5])
    again = padim.fit(images[:5], **BOTH)
    assert isinstance(again, PaDiM)
    expected = scored(again, images)
    for ours, theirs in zip(scored(forgotten, images), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3)


def test_a_single_image_says_what_is_usual_of_either_head(
    images: list[Path], tmp_path: Path
) -> None:
    path = tmp_path / "part.safetensors"
    padim.fit(images[:4], keep_moments=True, calibrate=False, **BOTH).save(path, moments=True)
    padim.update(path, images[4], recalibrate=images[0])
    state = load_state(path)
    assert state.fusion is not None
    assert state.calibration is not None
    # Both are as usual: (1 + 1) to the power of a tenth.
    expected = state.fusion.usual[0] * 2 ** (1 / state.fusion.power)
    np.testing.assert_allclose(state.calibration.image_score, [expected], rtol=1e-5)


def test_the_score_is_the_maps_where_nothing_weighs_the_heads(images: list[Path]) -> None:
    choices = BOTH | FitChoices(calibrate=False, score_fraction=0)
    model = padim.fit(images[:4], **choices)
    assert model.state.fusion is None
    found = model.predict(images[5])
    assert found.score == pytest.approx(found.anomaly_map.max())


def test_a_fit_with_other_heads_is_another_model(images: list[Path], tmp_path: Path) -> None:
    for name, choices in (("a", BOTH), ("b", BOTH | FitChoices(mirrored=False))):
        some = images[:4] if name == "a" else images[4:8]
        padim.fit(some, keep_moments=True, **choices).save(
            tmp_path / f"{name}.safetensors", moments=True
        )
    with pytest.raises(padim.UsageError, match=r"differ in their recipe"):
        padim.merge(
            tmp_path / "a.safetensors", tmp_path / "b.safetensors", tmp_path / "c.safetensors"
        )
    one, other = (load_state(tmp_path / f"{name}.safetensors").encoder for name in "ab")
    assert one.differences(other).keys() == {"mirror"}
    assert replace(one, mirrored=False) == other
