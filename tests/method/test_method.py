"""The package against the dense PaDiM of ``oracle``: same features, same distances, same maps."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import numpy as np
import oracle
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from padim.backbones import backbone
from padim.fitting.fit import build_model
from padim.fitting.fitter import Fitter
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitChoices, FitSettings
from padim.method.gaussian import factor, relative_eps
from padim.method.head import Head
from padim.method.moments import Moments
from padim.method.pyramid import Splitter

N_TRAIN = 24
N_TEST_EACH = 6

# The reference: Defard et al. 2021 as its code has it. The standard: the whole image, here smaller.
GEOMETRY = {
    "reference": transforms.Compose(
        [transforms.Resize(256, InterpolationMode.LANCZOS), transforms.CenterCrop(224)]
    ),
    "standard": transforms.Resize((128, 128), InterpolationMode.BILINEAR),
}


@dataclass(frozen=True)
class Case:
    """Real photographs and what the whole, unfolded network makes of them."""

    recipe: str
    train: list[Path]
    test: list[Path]
    is_defective: list[bool]
    train_maps: list[oracle.Floats]  # one (n, C, h, w) per tap
    test_maps: list[oracle.Floats]
    distance: oracle.Floats  # of the test images, by the oracle


def seen(paths: Sequence[Path], recipe: str) -> NDArray[np.uint8]:
    return np.stack(
        [np.asarray(GEOMETRY[recipe](Image.open(path).convert("RGB"))) for path in paths]
    )


@pytest.fixture(scope="module", params=["reference", "standard"])
def case(request: pytest.FixtureRequest) -> Case:
    good, bad = oracle.solar_cells()
    # From panel to panel, so that scores overlap: an AUROC of 1 would hide a difference.
    good, bad = good[::19], bad[::52]
    train = good[:N_TRAIN]
    test = good[N_TRAIN : N_TRAIN + N_TEST_EACH] + bad[:N_TEST_EACH]
    network, names = oracle.lite0(), oracle.tap_names("efficientnet_lite0")
    train_maps, test_maps = (
        [
            m.numpy()
            for m in oracle.hooked(
                network,
                names,
                oracle.normalised(seen(paths, request.param), *oracle.MEAN_STD["half"]),
            )
        ]
        for paths in (train, test)
    )
    if request.param == "reference":
        eps: float | oracle.Floats = 0.01
    else:
        eps = oracle.relative_eps(train_maps, 0.01)
    distance = oracle.distances(oracle.embeddings(train_maps), oracle.embeddings(test_maps), eps)
    is_defective = [path in bad for path in test]
    return Case(request.param, train, test, is_defective, train_maps, test_maps, distance)


@pytest.fixture(scope="module")
def fitter(case: Case) -> Fitter:
    choices = FitChoices(recipe=case.recipe, store="float32", engine="torch")
    if case.recipe == "standard":
        choices |= oracle.ONE_HEAD | FitChoices(size_px=(128, 128))
    return prepare(FitSettings(**choices))


def tensors(feature_maps: Sequence[oracle.Floats]) -> list[torch.Tensor]:
    return [torch.from_numpy(m) for m in feature_maps]


def eps_of(fitter: Fitter, moments: Moments) -> list[float]:
    if fitter.recipe.eps_rule == "relative":
        return relative_eps(moments, fitter.recipe.eps)
    return [fitter.recipe.eps] * len(fitter.encoder.pyramid.levels)


def hierarchical(
    fitter: Fitter,
    train_maps: Sequence[oracle.Floats],
    test_maps: Sequence[oracle.Floats],
    store: torch.dtype = torch.float64,
) -> oracle.Floats:
    """The package's distances in float64, from given feature maps."""
    moments = Moments.of(Splitter(fitter.encoder.pyramid)(tensors(train_maps)))
    rows = factor(moments, eps_of(fitter, moments), max(moments.count - 1, 1), store)
    head = Head(fitter.encoder.pyramid, moments.mean, rows, torch.float64)
    result: oracle.Floats = head(Splitter(fitter.encoder.pyramid)(tensors(test_maps))).numpy()
    return result


@pytest.mark.slow
def test_distances_on_real_images_equal_the_dense_reference(case: Case, fitter: Fitter) -> None:
    distance = hierarchical(fitter, case.train_maps, case.test_maps)
    np.testing.assert_allclose(distance, case.distance, rtol=1e-5)


@pytest.mark.slow
def test_maps_on_real_images_equal_the_dense_reference(case: Case, fitter: Fitter) -> None:
    settings = fitter.recipe
    expected = oracle.anomaly_map(case.distance, settings.size_px, sigma_px=4)
    expected_score = oracle.image_score(expected, 0.0 if case.recipe == "reference" else 0.01)

    model = build_model(fitter, fitter.fit(case.train))
    predictions = model.predict(list(case.test))

    maps = np.stack([prediction.anomaly_map for prediction in predictions])
    scores = [prediction.score for prediction in predictions]
    np.testing.assert_allclose(maps, expected, rtol=1e-4)
    np.testing.assert_allclose(scores, expected_score, rtol=1e-4)
    expected_auroc = roc_auc_score(case.is_defective, expected_score)
    assert expected_auroc < 0.95
    assert roc_auc_score(case.is_defective, scores) == pytest.approx(expected_auroc, abs=1e-4)


@pytest.mark.slow
def test_rows_in_float16_change_no_distance_by_a_thousandth(case: Case, fitter: Fitter) -> None:
    distance = hierarchical(fitter, case.train_maps, case.test_maps, torch.float16)
    np.testing.assert_allclose(distance, case.distance, rtol=1e-3)


# Every other backbone, with random weights: its own structure, strides and names.


@dataclass(frozen=True)
class RandomCase:
    """A backbone of random weights, in a file, and what its unfolded network makes of images."""

    weights: Path
    pixels: NDArray[np.uint8]
    feature_maps: list[oracle.Floats]


N_RANDOM_TRAIN = 5  # far fewer than dimensions
OTHERS = [name for name in oracle.NETWORKS if name != "efficientnet_lite0"]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.slow if "_l2_" in name or "_xl_" in name else ())
        for name in OTHERS
    ],
)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def random_case(name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RandomCase]:
    weights = tmp_path_factory.mktemp("weights") / f"{name}.safetensors"
    pixels = oracle.random_images(N_RANDOM_TRAIN + 3, (64, 96), seed=1)
    half = name in ("efficientnet_v2_l", *(n for n in OTHERS if "lite" in n or "in21" in n))
    images = oracle.normalised(pixels, *oracle.MEAN_STD["half" if half else "imagenet"])
    network = oracle.random_network(name, images)
    save_file(oracle.tensors_of(network), weights)
    feature_maps = [m.numpy() for m in oracle.hooked(network, oracle.tap_names(name), images)]
    for feature_map in feature_maps:
        assert np.isfinite(feature_map).all()
        assert 0.1 < feature_map.std(axis=0).mean() < 100
    yield RandomCase(weights, pixels, feature_maps)
    weights.unlink()


def random_fitter(name: str, case: RandomCase, **choices: Unpack[FitChoices]) -> Fitter:
    return prepare(
        FitSettings(
            backbone=name,
            size_px=case.pixels.shape[1:3],
            weights=case.weights,
            include_backbone=False,
            engine="torch",
            taps=backbone(name).taps,
            coarse_scale=0.0,
            **choices,
        )
    )


def test_folded_trunk_gives_the_feature_maps_of_the_whole_network(
    name: str, random_case: RandomCase
) -> None:
    fitter = random_fitter(name, random_case, dims="all")
    with torch.inference_mode():
        embedding = fitter.features(torch.from_numpy(random_case.pixels))
    expected = Splitter(fitter.encoder.pyramid)(tensors(random_case.feature_maps))
    for ours, whole in zip(embedding, expected, strict=True):
        assert ours.shape == whole.shape
        # Near zero a feature is a difference of large ones: its error is theirs.
        assert float((ours - whole).abs().max()) < 1e-4 * float(whole.abs().max())
        assert float((ours - whole).norm()) < 1e-4 * float(whole.norm())


def default_dims(name: str) -> list[int] | None:
    drawn = {"resnet18": (448, 100), "wide_resnet50_2": (1792, 550)}.get(name)
    if drawn is None:
        return None
    random.seed(1024)
    return random.sample(range(drawn[0]), drawn[1])


def test_distances_of_every_backbone_equal_the_dense_reference(
    name: str, random_case: RandomCase
) -> None:
    fitter = random_fitter(name, random_case)
    train = [m[:N_RANDOM_TRAIN] for m in random_case.feature_maps]
    test = [m[N_RANDOM_TRAIN:] for m in random_case.feature_maps]
    dims = default_dims(name)
    dense_train = oracle.embeddings(train, dims)
    h, w = dense_train.shape[2:]
    locations = random.Random(0).sample(sorted(np.ndindex(h, w)), 8)

    expected = oracle.distances(
        dense_train,
        oracle.embeddings(test, dims),
        oracle.relative_eps(train, 0.01, dims),
        locations,
    )
    distance = hierarchical(fitter, train, test)

    asked = ~np.isnan(expected)
    assert asked.sum() == len(locations) * len(test[0])
    np.testing.assert_allclose(distance[asked], expected[asked], rtol=1e-5)
