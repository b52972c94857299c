import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike, DTypeLike, NDArray
from scipy.integrate import trapezoid
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from padim.errors import PadimError, ShapeError, UsageError
from padim.metrics.images import ImageMetrics

Labelled = tuple[NDArray[np.bool_], NDArray[np.floating]]


def labelled(pairs: list[tuple[bool, float]], dtype: DTypeLike) -> Labelled:
    # One of each class at least, neither at an end.
    labels = np.array([*(label for label, _ in pairs), True, False])
    scores = np.array([*(score for _, score in pairs), 0.5, 0.25], dtype=dtype)
    return labels, scores


def brute_f1_max(labels: NDArray[np.bool_], scores: NDArray[np.floating]) -> tuple[float, float]:
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    with np.errstate(invalid="ignore"):
        f1 = np.nan_to_num(2 * precision * recall / (precision + recall))[:-1]
    best = f1.max()
    return best, thresholds[np.flatnonzero(f1 > best - 1e-12)[-1]]


CASES = st.builds(
    labelled,
    st.lists(
        st.tuples(
            st.booleans(),
            # Few values make heavy ties.
            st.one_of(st.integers(-2, 2).map(float), st.floats(-1e6, 1e6, width=32)),
        ),
        max_size=60,
    ),
    st.sampled_from([np.float32, np.float64]),
)


def measured(labels: ArrayLike, scores: ArrayLike) -> dict[str, float]:
    found = ImageMetrics.of(labels, scores).resampled(None)
    return {name.removeprefix("image_"): float(value) for name, value in found.items()}


@given(case=CASES)
def test_metrics_equal_scikit_learn_and_what_they_are_defined_as(case: Labelled) -> None:
    labels, scores = case
    found = measured(*case)
    assert found["auroc"] == pytest.approx(roc_auc_score(*case), abs=1e-9)
    gap = np.subtract.outer(scores[labels].astype(np.float64), scores[~labels])
    assert found["auroc"] == pytest.approx((np.sign(gap) + 1).mean() / 2, abs=1e-12)
    assert found["average_precision"] == pytest.approx(average_precision_score(*case), abs=1e-9)
    for n_alarms in (0, 1):
        allowed = [
            (scores[labels] >= threshold).mean()
            for threshold in np.append(scores, np.inf)
            if (scores[~labels] >= threshold).sum() <= n_alarms
        ]
        assert found[f"recall_at_{n_alarms}"] == max(allowed)


@given(case=CASES)
def test_f1_max_equals_brute_force_and_is_reached_at_its_threshold(case: Labelled) -> None:
    labels, scores = case
    f1, threshold = measured(*case)["f1_max"], ImageMetrics.of(*case).f1_threshold()
    expected, expected_threshold = brute_f1_max(*case)
    assert f1 == pytest.approx(expected, abs=1e-9)
    assert threshold == expected_threshold
    predicted = scores >= threshold
    assert f1 == 2 * (predicted & labels).sum() / (predicted.sum() + labels.sum())
    assert threshold in scores[labels]


@given(case=CASES, seed=st.integers(0, 2**32 - 1))
def test_with_weights_they_are_those_of_scikit_learn(case: Labelled, seed: int) -> None:
    labels, scores = case
    weights = np.random.default_rng(seed).integers(0, 4, (3, labels.size))
    weights[:, -2:] = 1
    metrics = ImageMetrics.of(*case)
    found = metrics.resampled(weights)
    for row, times in enumerate(weights):
        assert found["image_auroc"][row] == pytest.approx(
            roc_auc_score(labels, scores, sample_weight=times), abs=1e-9
        )
        assert found["image_average_precision"][row] == pytest.approx(
            average_precision_score(labels, scores, sample_weight=times), abs=1e-9
        )
        repeated = np.repeat(labels, times), np.repeat(scores, times)
        assert found["image_f1_max"][row] == pytest.approx(brute_f1_max(*repeated)[0], abs=1e-9)
        # Of recall the normal images stay as they are.
        kept = np.where(labels, times, 1)
        of_anomalous = measured(np.repeat(labels, kept), np.repeat(scores, kept))
        for name in ("recall_at_0", "recall_at_1"):
            assert found[f"image_{name}"][row] == pytest.approx(of_anomalous[name], abs=1e-12)
        for name, value in metrics.resampled(times).items():
            assert value == pytest.approx(found[name][row])


@given(case=CASES)
def test_roc_of_few_scores_has_every_vertex(case: Labelled) -> None:
    fpr, tpr = ImageMetrics.of(*case).roc()
    expected_fpr, expected_tpr, _ = roc_curve(*case, drop_intermediate=False)
    np.testing.assert_allclose(fpr, expected_fpr, atol=1e-15)
    np.testing.assert_allclose(tpr, expected_tpr, atol=1e-15)


@given(case=CASES, n_points=st.integers(3, 20))
def test_thinned_roc_is_part_of_the_full_one(case: Labelled, n_points: int) -> None:
    fpr, tpr = ImageMetrics.of(*case).roc(n_points)
    full = set(zip(*(rate.tolist() for rate in ImageMetrics.of(*case).roc()), strict=True))
    assert len(fpr) <= n_points
    assert set(zip(fpr.tolist(), tpr.tolist(), strict=True)) <= full
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(fpr) >= 0).all()
    assert (np.diff(tpr) >= 0).all()


@given(case=CASES, n_points=st.integers(3, 20))
def test_a_thinned_roc_is_even_over_the_ranks_of_both_classes(
    case: Labelled, n_points: int
) -> None:
    labels, scores = case
    fpr, tpr = ImageMetrics.of(*case).roc(n_points)
    parts = [np.sort(scores[labels == label]) for label in (False, True)]
    thresholds = [np.unique(part) for part in parts]
    if sum(part.size for part in thresholds) > n_points - 1:
        ranks = [np.linspace(0, part.size - 1, (n_points - 1) // 2).astype(int) for part in parts]
        thresholds = [part[rank] for part, rank in zip(parts, ranks, strict=True)]
    descending = np.unique(np.concatenate(thresholds))[::-1, None]
    for found, part in zip((fpr, tpr), parts, strict=True):
        np.testing.assert_array_equal(found, [0, *(part >= descending).mean(axis=1)])


def test_roc_of_many_scores_but_few_values_has_every_vertex() -> None:
    scores = np.repeat(np.arange(8.0), [50_000, 1, 2, 50_000, 3, 50_000, 1, 50_000])
    labels = np.arange(scores.size) % 3 == 0
    assert len(ImageMetrics.of(labels, scores).roc()[0]) == 1 + 8


def test_a_roc_of_many_scores_encloses_their_auroc() -> None:
    generator = np.random.default_rng(0)
    labels = generator.random(500_000) < 0.03
    scores = generator.standard_normal(labels.size) + 2 * labels
    fpr, tpr = ImageMetrics.of(labels, scores).roc()
    assert 1900 < len(fpr) <= 2000
    assert trapezoid(tpr, fpr) == pytest.approx(roc_auc_score(labels, scores), abs=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_type_of_the_input_does_not_matter(dtype: DTypeLike) -> None:
    scores = np.array([0.1, 0.4, 0.35, 0.8], dtype=dtype)
    before = scores.copy()
    labels = np.array([0, 0, 1, 1])
    for kind in (bool, np.uint8, int, float):
        assert measured(labels.astype(kind), scores)["auroc"] == 0.75
    np.testing.assert_array_equal(scores, before)
    assert measured(labels, np.array([1, 3, 2, 4], np.uint8))["auroc"] == 0.75


def test_separable_scores_are_perfect() -> None:
    found = measured([0, 0, 1, 1], [1.0, 2.0, 3.0, 4.0])
    assert set(found.values()) == {1}
    assert ImageMetrics.of([0, 0, 1, 1], [1.0, 2.0, 3.0, 4.0]).f1_threshold() == 3
    reversed_metrics = measured([1, 1, 0, 0], [1.0, 2.0, 3.0, 4.0])
    assert reversed_metrics["auroc"] == 0
    assert reversed_metrics["f1_max"] == pytest.approx(2 / 3)


def test_constant_scores_are_chance() -> None:
    metrics = ImageMetrics.of([0, 1, 1, 0, 0], np.full(5, 7.0))
    assert metrics.resampled(None)["image_auroc"] == 0.5
    assert metrics.resampled(None)["image_f1_max"] == 4 / 7
    assert metrics.f1_threshold() == 7
    assert [rate.tolist() for rate in metrics.roc()] == [[0, 1], [0, 1]]


def test_infinities_are_ranked_at_the_ends() -> None:
    labels, scores = [0, 0, 0, 1, 1, 1], [-np.inf, 0, np.inf, -np.inf, 1, np.inf]
    assert measured(labels, scores)["auroc"] == pytest.approx((0.5 + 2 + 2.5) / 9)
    assert measured(labels, scores)["f1_max"] == 2 / 3
    metrics = ImageMetrics.of(labels, scores)
    assert metrics.f1_threshold() == 1
    assert metrics.roc()[1].tolist() == [0, 1 / 3, 2 / 3, 2 / 3, 1]


def test_of_equally_good_thresholds_the_highest_is_taken() -> None:
    # At 5: 1 of 2 found, no false alarm, 2/3. At 1: 2 found, 2 false alarms, 2/3.
    assert ImageMetrics.of([1, 0, 0, 1], [5.0, 3.0, 2.0, 1.0]).f1_threshold() == 5


@pytest.mark.parametrize("labels", [[0, 0], [1, 1], []])
def test_a_missing_class_gives_nan(labels: list[int]) -> None:
    metrics = ImageMetrics.of(labels, np.arange(len(labels)))
    assert np.isnan(list(metrics.resampled(None).values())).all()
    assert np.isnan(metrics.f1_threshold())
    assert [rate.size for rate in metrics.roc()] == [0, 0]


@pytest.mark.parametrize("label", [0, 1])
def test_a_class_that_no_draw_has_gives_nan_there_alone(label: int) -> None:
    found = ImageMetrics.of([label, 1 - label], [1.0, 2.0]).resampled(np.array([[1, 1], [1, 0]]))
    for name in ("image_auroc", "image_average_precision", "image_f1_max"):
        assert np.isnan(found[name]).tolist() == [False, True]


@pytest.mark.parametrize("label", [0, 1])
def test_nan_scores_are_refused(label: int) -> None:
    with pytest.raises(UsageError, match=r"scores have NaN .* but need to be numbers") as caught:
        ImageMetrics.of([0, 1, label], [1.0, 2.0, np.nan])
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, PadimError)


@pytest.mark.parametrize("label", [2, -1, 0.5, np.nan, 255])
def test_labels_other_than_zero_and_one_are_refused(label: float) -> None:
    with pytest.raises(UsageError, match="labels have values that are neither 0 nor 1"):
        ImageMetrics.of([0, 1, label], [1.0, 2.0, 3.0])


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"shape \(2,\) and the scores \(1, 2\), but both need"):
        ImageMetrics.of([0, 1], [[1.0, 2.0]])
    with pytest.raises(ShapeError, match=r"shape \(1, 3\), but need \(2,\)"):
        ImageMetrics.of([0, 1], [1.0, 2.0]).resampled(np.ones((1, 3)))
