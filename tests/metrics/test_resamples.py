import numpy as np
import pytest
from scipy.integrate import trapezoid
from scipy.stats import norm
from sklearn.metrics import average_precision_score

from padim.metrics.images import ImageMetrics
from padim.metrics.resamples import bootstrap_weights, holm, interval, intervals, p_value


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
    drawn = ImageMetrics.of(labels, scores).resampled(bootstrap_weights(labels))
    low, high = interval(drawn["image_auroc"])
    assert (low, high) == pytest.approx((0.4 - 0.048, 0.4 + 0.048), abs=0.006)


def test_an_interval_holds_its_metric() -> None:
    labels = [0] * 5 + [1] * 6  # the anomalous score lowest
    metrics = ImageMetrics.of(np.array(labels, np.bool_), np.arange(11.0)[::-1])
    drawn = metrics.resampled(bootstrap_weights(labels))["image_average_precision"]
    value = float(metrics.resampled(None)["image_average_precision"])
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
        "image_average_precision": trapezoid(precision * norm.pdf(threshold, 1), threshold),
    }
    generator = np.random.default_rng(0)
    n_times, n_covered = 600, dict.fromkeys(truth, 0)
    for i in range(n_times):
        images = ImageMetrics.of(labels, generator.normal(size=labels.size) + labels)
        drawn, values = (
            {name: found[name] for name in truth}
            for found in map(images.resampled, (bootstrap_weights(labels, 200, seed=i), None))
        )
        for name, ends in intervals(drawn, values).items():
            assert ends is not None
            n_covered[name] += ends[0] <= truth[name] <= ends[1]
    assert 0.92 <= n_covered["image_auroc"] / n_times <= 0.97
    assert 0.88 <= n_covered["image_average_precision"] / n_times <= 0.97


def test_a_p_value_is_that_of_a_normal_difference() -> None:
    drawn = np.random.default_rng(0).normal(2.5, 1, 100_000)
    # The resamples alone say as much as the normal distribution.
    assert p_value(2.5, drawn) == pytest.approx(2 * norm.sf(2.5), rel=0.1)
    # Far out no resample is on the other side, and the tail goes on.
    assert p_value(-8.0, drawn - 10.5) == pytest.approx(2 * norm.sf(8), rel=1)
    # A skewed spread is that of its resamples, where they say more than the normal one.
    skewed = np.concatenate((np.full(950, 1.0), np.full(50, -0.01)))
    assert p_value(0.95, skewed) == pytest.approx(0.1)


def test_a_p_value_of_nothing_is_1() -> None:
    assert p_value(0.0, np.zeros(9)) == 1
    assert p_value(0.3, np.full(9, np.nan)) == 1
    assert p_value(0.1, np.array([np.nan, -1.0, 1.0, 0.0])) == 1
    assert p_value(0.5, np.full(9, 0.5)) == 0  # there is no draw without it


def test_p_values_of_no_difference_are_even() -> None:
    generator = np.random.default_rng(1)
    means = generator.normal(size=2000) / 10
    found = [p_value(mean, mean + generator.normal(size=500) / 10) for mean in means]
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(found) <= level) == pytest.approx(level, abs=0.03)


def test_holm_corrects_step_by_step() -> None:
    # By hand: 4 x 0.01, 3 x 0.012, which may not be below what came before, 2 x 0.03, 1 x 0.9.
    assert holm([0.03, 0.01, 0.9, 0.012]) == pytest.approx([0.06, 0.04, 0.9, 0.04])
    assert holm([0.5, 0.6]) == [1, 1]
    assert holm([]) == []
    # What R's p.adjust gives.
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
