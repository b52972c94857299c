import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score
from test_ranking import CASES, Labelled, brute_f1_max

from padim.errors import ShapeError, UsageError
from padim.evaluation.category import intervals
from padim.metrics.ranking import Ranking
from padim.metrics.resamples import ImageScores, bootstrap_weights, interval


def metrics(images: ImageScores, weights: NDArray[np.float64] | None) -> list[NDArray[np.float64]]:
    return [
        images.auroc(weights),
        images.average_precision(weights),
        images.f1_max(weights),
        images.recall(1, weights),
    ]


@given(case=CASES)
def test_without_weights_they_are_those_of_the_ranking(case: Labelled) -> None:
    ranking = Ranking.of(*case)
    expected = (
        ranking.auroc(),
        ranking.average_precision(),
        ranking.f1_max()[0],
        ranking.recall(1),
    )
    assert metrics(ImageScores.of(*case), None) == pytest.approx(expected, abs=1e-12)


@given(case=CASES, seed=st.integers(0, 2**32 - 1))
def test_with_weights_they_are_those_of_scikit_learn(case: Labelled, seed: int) -> None:
    labels, scores = case
    weights = np.random.default_rng(seed).integers(0, 4, (3, labels.size))
    weights[:, -2:] = 1
    auroc, precision, f1, recall = metrics(ImageScores.of(*case), weights)
    for row, times in enumerate(weights):
        assert auroc[row] == pytest.approx(
            roc_auc_score(labels, scores, sample_weight=times), abs=1e-9
        )
        assert precision[row] == pytest.approx(
            average_precision_score(labels, scores, sample_weight=times), abs=1e-9
        )
        repeated = np.repeat(labels, times), np.repeat(scores, times)
        assert f1[row] == pytest.approx(brute_f1_max(*repeated)[0], abs=1e-9)
        assert recall[row] == pytest.approx(Ranking.of(*repeated).recall(1), abs=1e-12)
        assert ImageScores.of(*case).auroc(times) == pytest.approx(auroc[row])


@pytest.mark.parametrize("label", [0, 1])
def test_a_missing_class_gives_nan(label: int) -> None:
    for value in metrics(ImageScores.of([label, label], [1.0, 2.0]), None):
        assert np.isnan(value)
    for value in metrics(ImageScores.of([label, 1 - label], [1.0, 2.0]), np.array([[1, 0]])):
        assert np.isnan(value).tolist() == [True]


def test_no_images_give_nan() -> None:
    for value in metrics(ImageScores.of([], []), None):
        assert np.isnan(value)


def test_what_the_ranking_refuses_is_refused() -> None:
    with pytest.raises(UsageError, match="scores have NaN"):
        ImageScores.of([0, 1], [1.0, np.nan])
    with pytest.raises(ShapeError, match=r"shape \(1, 3\), but need \(2,\)"):
        ImageScores.of([0, 1], [1.0, 2.0]).auroc(np.ones((1, 3)))


def test_draws_are_as_many_of_each_class() -> None:
    labels = np.array([1, 0, 0, 1, 0, 1, 0])
    weights = bootstrap_weights(labels, 400)
    assert weights.shape == (400, 7)
    assert (weights[:, labels == 1].sum(axis=1) == 3).all()
    assert (weights[:, labels == 0].sum(axis=1) == 4).all()
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.15)
    # Of n draws from n, each place comes (1 - 1 / n) times its mean in variance.
    np.testing.assert_allclose(weights[:, labels == 0].var(axis=0), 3 / 4, atol=0.2)
    np.testing.assert_array_equal(weights, bootstrap_weights(labels, 400))
    assert (weights != bootstrap_weights(labels, 400, seed=1)).any()


def test_one_class_alone_is_drawn() -> None:
    assert (bootstrap_weights([0, 0, 0], 5).sum(axis=1) == 3).all()
    assert bootstrap_weights([], 5).shape == (5, 0)


def test_an_interval_holds_the_middle() -> None:
    assert interval(np.arange(1001.0)) == pytest.approx((25, 975))
    assert interval(np.array([np.nan, 2.0])) == (2, 2)
    assert np.isnan(interval(np.array([np.nan]))).all()


def test_an_interval_is_as_wide_as_theory_has_it() -> None:
    # The mean of an indicator: of 400 images, 40% are found, +- 1.96 sqrt(0.4 0.6 / 400).
    labels = np.repeat([0, 1], [1, 400])
    scores = np.concatenate(([0.5], np.arange(400) >= 240))
    low, high = interval(ImageScores.of(labels, scores).auroc(bootstrap_weights(labels)))
    assert (low, high) == pytest.approx((0.4 - 0.048, 0.4 + 0.048), abs=0.006)


def test_an_interval_holds_its_metric() -> None:
    labels = [0] * 5 + [1] * 6  # the anomalous score lowest
    scores = ImageScores.of(np.array(labels, np.bool_), np.arange(11.0)[::-1])
    drawn = scores.average_precision(bootstrap_weights(labels))
    value = float(scores.average_precision(None))
    assert value == pytest.approx(average_precision_score(labels, np.arange(11)[::-1]))
    assert interval(drawn)[0] > value
    found = intervals(
        {"ap": drawn, "none": drawn, "never": drawn * np.nan},
        {"ap": value, "none": None, "never": value},
    )
    assert found == {"ap": (value, interval(drawn)[1]), "none": None, "never": None}


def test_intervals_cover_what_endless_images_would_give() -> None:
    # Scores of 40 normal and 60 anomalous images, normal about 0 and about 1. Nominal is 0.95;
    # average precision stays below: an image that is drawn twice is a tie, which it rewards.
    labels = np.repeat([False, True], [40, 60])
    threshold = np.linspace(-8, 9, 20_001)
    tpr, fpr = norm.sf(threshold, 1), norm.sf(threshold)
    precision = 0.6 * tpr / (0.6 * tpr + 0.4 * fpr)
    truth = {
        "image_auroc": norm.cdf(1 / np.sqrt(2)),
        "image_average_precision": np.trapezoid(precision * norm.pdf(threshold, 1), threshold),
    }
    generator = np.random.default_rng(0)
    n_times, n_covered = 600, dict.fromkeys(truth, 0)
    for i in range(n_times):
        images = ImageScores.of(labels, generator.normal(size=labels.size) + labels)
        weights = bootstrap_weights(labels, 200, seed=i)
        drawn = {
            "image_auroc": images.auroc(weights),
            "image_average_precision": images.average_precision(weights),
        }
        values = {
            "image_auroc": float(images.auroc()),
            "image_average_precision": float(images.average_precision()),
        }
        for name, ends in intervals(drawn, values).items():
            assert ends is not None
            n_covered[name] += ends[0] <= truth[name] <= ends[1]
    assert 0.92 <= n_covered["image_auroc"] / n_times <= 0.97
    assert 0.88 <= n_covered["image_average_precision"] / n_times <= 0.97
