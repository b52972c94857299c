import numpy as np
import oracle
import pytest
import torch
from torch import Tensor

from padim.features.features import Features
from padim.fitting.fitter import Fitter
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitChoices, FitSettings
from padim.method.gaussian import factor
from padim.method.head import Head
from padim.method.moments import Moments
from padim.method.pyramid import Level, Splitter, nest
from padim.model.scorer import Scorer, scorer_of

N_TRAIN = 6


@pytest.fixture(scope="module", params=[(64, 64), (64, 96)], ids=["square", "wide"])
def fitter(request: pytest.FixtureRequest) -> Fitter:
    choices = FitChoices(size_px=request.param, engine="torch", store="float32")
    return prepare(FitSettings(**(oracle.ONE_HEAD | choices)))


@pytest.fixture(scope="module")
def scorer(fitter: Fitter) -> Scorer:
    state = fitter.fit(list(oracle.random_images(N_TRAIN, fitter.encoder.preprocess.size_px))).state
    return scorer_of(state, fitter.features).eval()


def images(fitter: Fitter, n: int) -> Tensor:
    return torch.from_numpy(oracle.random_images(n, fitter.encoder.preprocess.size_px, seed=7))


def test_an_image_scores_the_same_in_batches_of_any_size(fitter: Fitter, scorer: Scorer) -> None:
    pixels = images(fitter, 7)
    with torch.inference_mode():
        whole = scorer(pixels)
        for n in (1, 2):
            parts = [scorer(part) for part in pixels.split(n)]
            for outputs, expected in zip(zip(*parts, strict=True), whole, strict=True):
                torch.testing.assert_close(torch.cat(outputs), expected, rtol=1e-5, atol=0)


def test_maps_and_scores_have_the_shapes_they_say(fitter: Fitter, scorer: Scorer) -> None:
    with torch.inference_mode():
        scores = anomaly_map, image_score, level_scores = scorer(images(fitter, 3))
    assert anomaly_map.shape == (3, *fitter.encoder.preprocess.size_px)
    assert image_score.shape == (3,)
    assert level_scores.shape == (3, len(fitter.encoder.pyramid.levels))
    for output in scores:
        assert output.dtype == torch.float32
        assert bool((output > 0).all())


def test_level_scores_are_the_hottest_cells_of_each_level(fitter: Fitter, scorer: Scorer) -> None:
    pixels = images(fitter, 2)
    with torch.inference_mode():
        (head,) = scorer.heads
        assert isinstance(head, Head)
        levels = head.levels(scorer.features(pixels))
        _, _, own = scorer(pixels)
    for i, (level, cells) in enumerate(zip(fitter.encoder.pyramid.levels, levels, strict=True)):
        k = max(1, round(fitter.recipe.score_fraction * level.n_cells))
        hottest = np.sort(cells.sqrt().numpy(), axis=0)[-k:]
        np.testing.assert_allclose(own[:, i], hottest.mean(axis=0), rtol=1e-5)


def test_images_that_were_fitted_score_lower_than_others(fitter: Fitter, scorer: Scorer) -> None:
    seen = torch.from_numpy(oracle.random_images(N_TRAIN, fitter.encoder.preprocess.size_px))
    with torch.inference_mode():
        (_, low, _), (_, high, _) = scorer(seen), scorer(images(fitter, 3))
    assert low.max() < high.min()


def test_a_defect_is_hot_where_it_is(fitter: Fitter, scorer: Scorer) -> None:
    height, width = fitter.encoder.preprocess.size_px
    flat = np.stack([oracle.random_images(N_TRAIN, (height, width))[0]] * 2)
    flat[1, 40:56, 8:24] = (255, 0, 0)
    with torch.inference_mode():
        (good, bad), _, _ = scorer(torch.from_numpy(flat))
    y, x = divmod(int((bad - good).argmax()), width)
    assert 36 <= y < 60
    assert 4 <= x < 28


def test_every_level_adds_to_the_distance() -> None:
    pyramid = nest(
        [
            Level((1, 2), (2,), (tuple(range(5)),)),
            Level((2, 2), (1,), (tuple(range(3)),)),
            Level((6, 4), (0,), (tuple(range(4)),)),
        ]
    )
    generator = np.random.default_rng(0)
    shapes = [(4, 6, 4), (3, 2, 2), (5, 1, 2)]
    train = [generator.standard_normal((9, *shape)) for shape in shapes]
    test = [generator.standard_normal((3, *shape)) for shape in shapes]
    moments = Moments.of(Splitter(pyramid)([torch.from_numpy(m) for m in train]))
    rows = factor(moments, [0.1] * 3, 8)
    exact = oracle.distances(oracle.embeddings(train), oracle.embeddings(test), 0.1)

    head = Head(pyramid, moments.mean, rows)
    distance = head(Splitter(pyramid)([torch.from_numpy(m).float() for m in test]))

    assert distance.dtype == torch.float32
    np.testing.assert_allclose(distance.numpy(), exact, rtol=1e-5)


def test_pixels_are_normalised_with_what_the_weights_want(fitter: Fitter) -> None:
    seen: list[Tensor] = []
    hook = fitter.features.trunk.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    pixels = images(fitter, 2)
    with torch.inference_mode():
        fitter.features(pixels)
    hook.remove()
    expected = oracle.normalised(pixels.numpy(), *oracle.MEAN_STD["half"])
    torch.testing.assert_close(seen[0], expected, rtol=1e-6, atol=1e-6)


def test_a_trunk_in_bfloat16_gives_features_in_float32_nearby(fitter: Fitter) -> None:
    low = Features(
        fitter.features.trunk, fitter.encoder.pyramid, fitter.encoder.preprocess, torch.bfloat16
    ).eval()
    pixels = images(fitter, 2)
    with torch.inference_mode():
        for ours, exact in zip(low(pixels), fitter.features(pixels), strict=True):
            assert ours.dtype == torch.float32
            assert 0 < float((ours - exact).norm()) < 0.05 * float(exact.norm())
