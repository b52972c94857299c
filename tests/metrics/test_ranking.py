import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import DTypeLike, NDArray
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from padim.errors import PadimError, ShapeError, UsageError
from padim.metrics.ranking import Ranking

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


@given(case=CASES)
def test_auroc_equals_scikit_learn(case: Labelled) -> None:
    auroc = Ranking.of(*case).auroc()
    assert auroc == pytest.approx(roc_auc_score(*case), abs=1e-9)


@given(case=CASES)
def test_auroc_is_the_share_of_pairs_in_order(case: Labelled) -> None:
    labels, scores = case
    gap = np.subtract.outer(scores[labels].astype(np.float64), scores[~labels])
    assert Ranking.of(labels, scores).auroc() == (np.sign(gap) + 1).mean() / 2


@given(case=CASES)
def test_average_precision_equals_scikit_learn(case: Labelled) -> None:
    expected = average_precision_score(*case)
    assert Ranking.of(*case).average_precision() == pytest.approx(expected, abs=1e-9)


@given(case=CASES, n_false_alarms=st.integers(0, 70))
def test_recall_is_the_best_of_all_thresholds(case: Labelled, n_false_alarms: int) -> None:
    labels, scores = case
    allowed = [
        (scores[labels] >= threshold).mean()
        for threshold in np.append(scores, np.inf)
        if (scores[~labels] >= threshold).sum() <= n_false_alarms
    ]
    assert Ranking.of(labels, scores).recall(n_false_alarms) == max(allowed)


@given(case=CASES)
def test_f1_max_equals_brute_force(case: Labelled) -> None:
    expected, expected_threshold = brute_f1_max(*case)
    f1, threshold = Ranking.of(*case).f1_max()
    assert f1 == pytest.approx(expected, abs=1e-9)
    assert threshold == expected_threshold


@given(case=CASES)
def test_f1_max_is_reached_at_its_threshold(case: Labelled) -> None:
    labels, scores = case
    f1, threshold = Ranking.of(labels, scores).f1_max()
    predicted = scores >= threshold
    assert f1 == 2 * (predicted & labels).sum() / (predicted.sum() + labels.sum())
    assert threshold in scores[labels]


@given(case=CASES)
def test_roc_of_few_scores_has_every_vertex(case: Labelled) -> None:
    fpr, tpr = Ranking.of(*case).roc()
    expected_fpr, expected_tpr, _ = roc_curve(*case, drop_intermediate=False)
    np.testing.assert_allclose(fpr, expected_fpr, atol=1e-15)
    np.testing.assert_allclose(tpr, expected_tpr, atol=1e-15)


@given(case=CASES, n_points=st.integers(3, 20))
def test_thinned_roc_is_part_of_the_full_one(case: Labelled, n_points: int) -> None:
    fpr, tpr = Ranking.of(*case).roc(n_points)
    full = set(zip(*(rate.tolist() for rate in Ranking.of(*case).roc()), strict=True))
    assert len(fpr) <= n_points
    assert set(zip(fpr.tolist(), tpr.tolist(), strict=True)) <= full
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(fpr) >= 0).all()
    assert (np.diff(tpr) >= 0).all()


def test_roc_of_many_scores_but_few_values_has_every_vertex() -> None:
    scores = np.repeat(np.arange(8.0), [50_000, 1, 2, 50_000, 3, 50_000, 1, 50_000])
    labels = np.arange(scores.size) % 3 == 0
    assert len(Ranking.of(labels, scores).roc()[0]) == 1 + 8


def many(n_scores: int, anomalous_fraction: float = 0.03) -> Labelled:
    generator = np.random.default_rng(0)
    labels = generator.random(n_scores) < anomalous_fraction
    scores = generator.standard_normal(n_scores, dtype=np.float32) + 2 * labels
    return labels, scores.astype(np.float32)


def test_five_million_scores_are_counted_exactly() -> None:
    labels, scores = many(5_000_000)
    ranking = Ranking.of(labels, scores)
    assert ranking.auroc() == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
    f1, threshold = ranking.f1_max()
    expected, expected_threshold = brute_f1_max(labels, scores)
    assert f1 == pytest.approx(expected, abs=1e-9)
    assert threshold == expected_threshold
    fpr, tpr = ranking.roc()
    assert 1900 < len(fpr) <= 2000
    assert np.trapezoid(tpr, fpr) == pytest.approx(ranking.auroc(), abs=1e-5)


@pytest.mark.parametrize(
    ("n_values", "anomalous_fraction"), [(1000, 0.03), (5_000_000, 0.03), (5_000_000, 0.97)]
)
def test_memory_stays_within_sixteen_bytes_a_pixel(
    n_values: int, anomalous_fraction: float
) -> None:
    labels, scores = many(5_000_000, anomalous_fraction)
    scores = (np.argsort(scores) % n_values).astype(np.float32)
    n_input_bytes = labels.nbytes + scores.nbytes
    tracemalloc.start()
    try:
        ranking = Ranking.of(labels, scores)
        in_ranking = tracemalloc.get_traced_memory()[1]
        ranking.auroc()
        ranking.average_precision()
        ranking.f1_max()
        ranking.roc()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert scores.nbytes < in_ranking <= 7 * scores.size
    assert peak + n_input_bytes <= 16 * scores.size


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_and_shape_of_the_input_do_not_matter(dtype: DTypeLike) -> None:
    scores = np.array([[0.1, 0.4], [0.35, 0.8]], dtype=dtype)
    before = scores.copy()
    labels = np.array([[0, 0], [1, 1]])
    for kind in (bool, np.uint8, int, float):
        ranking = Ranking.of(labels.astype(kind), scores)
        assert ranking.normal.dtype == ranking.anomalous.dtype == dtype
        assert ranking.auroc() == 0.75
    assert Ranking.of(labels.T, scores.T).auroc() == 0.75
    np.testing.assert_array_equal(scores, before)


def test_other_types_of_scores_become_float64() -> None:
    ranking = Ranking.of([0, 1, 1], [1, 2, 3])
    assert ranking.normal.dtype == np.float64
    assert ranking.anomalous.tolist() == [2, 3]


def test_separable_scores_are_perfect() -> None:
    ranking = Ranking.of([0, 0, 1, 1], [1.0, 2.0, 3.0, 4.0])
    assert ranking.auroc() == 1
    assert ranking.f1_max() == (1, 3)
    reversed_ranking = Ranking.of([1, 1, 0, 0], [1.0, 2.0, 3.0, 4.0])
    assert reversed_ranking.auroc() == 0
    assert reversed_ranking.f1_max() == (pytest.approx(2 / 3), 1)


def test_constant_scores_are_chance() -> None:
    ranking = Ranking.of([0, 1, 1, 0, 0], np.full(5, 7.0))
    assert ranking.auroc() == 0.5
    assert ranking.f1_max() == (4 / 7, 7)
    assert [rate.tolist() for rate in ranking.roc()] == [[0, 1], [0, 1]]


def test_infinities_are_ranked_at_the_ends() -> None:
    ranking = Ranking.of([0, 0, 0, 1, 1, 1], [-np.inf, 0, np.inf, -np.inf, 1, np.inf])
    assert ranking.auroc() == (0.5 + 2 + 2.5) / 9
    assert ranking.f1_max() == (2 / 3, 1)
    assert ranking.roc()[1].tolist() == [0, 1 / 3, 2 / 3, 2 / 3, 1]


def test_of_equally_good_thresholds_the_highest_is_taken() -> None:
    # At 5: 1 of 2 found, no false alarm, 2/3. At 1: 2 found, 2 false alarms, 2/3.
    assert Ranking.of([1, 0, 0, 1], [5.0, 3.0, 2.0, 1.0]).f1_max() == (2 / 3, 5)


def test_equally_good_thresholds_in_distant_chunks_give_the_highest() -> None:
    # n found without a false alarm, or all 2n found with 2n false alarms: both 2/3.
    n = 200_000
    labels = np.repeat([1, 0, 1], [n, 2 * n, n])
    scores = np.repeat([1.0, 2.0, 3.0], [n, 2 * n, n])
    assert Ranking.of(labels, scores).f1_max() == (2 / 3, 3)


@pytest.mark.parametrize("label", [0, 1])
def test_missing_class_gives_none(label: int) -> None:
    ranking = Ranking.of([label, label], [1.0, 2.0])
    assert ranking.auroc() is None
    assert ranking.average_precision() is None
    assert ranking.recall(0) is None
    assert ranking.f1_max() == (None, None)
    assert [rate.size for rate in ranking.roc()] == [0, 0]


def test_no_scores_give_none() -> None:
    assert Ranking.of([], []).auroc() is None


@pytest.mark.parametrize("label", [0, 1])
def test_nan_scores_are_refused(label: int) -> None:
    with pytest.raises(UsageError, match=r"scores have NaN .* but need to be numbers") as caught:
        Ranking.of([0, 1, label], [1.0, 2.0, np.nan])
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, PadimError)


@pytest.mark.parametrize("label", [2, -1, 0.5, np.nan, 255])
def test_labels_other_than_zero_and_one_are_refused(label: float) -> None:
    with pytest.raises(UsageError, match="labels have 1 values that are neither 0 nor 1"):
        Ranking.of([0, 1, label], [1.0, 2.0, 3.0])


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"shape \(2,\), but need that of the scores, \(1, 2\)"):
        Ranking.of([0, 1], [[1.0, 2.0]])


def test_roc_of_too_few_points_is_refused() -> None:
    with pytest.raises(UsageError, match="2 points is asked for, but needs 3"):
        Ranking.of([0, 1], [1.0, 2.0]).roc(2)
