import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from padim.scoring.calibration import HELD_OUT, LEAVE_ONE_OUT, Calibration
from padim.scoring.spread import is_highest_odd, predict_highest, student_quantile

USUAL = np.exp(5 + 0.1 * scipy.stats.norm.ppf((np.arange(30) + 0.5) / 30))


def calibration_of(scores: NDArray[np.floating], source: str = LEAVE_ONE_OUT) -> Calibration:
    ascending = np.sort(scores).astype(np.float32)
    return Calibration(source, ascending, ascending, np.ones(len(scores), np.int64))


@pytest.mark.parametrize("n", [5, 8, 15, 31, 49])
def test_student_quantiles_are_those_of_scipy(n: int) -> None:
    rate, dof = 1 / (n + 1), n + 8
    assert student_quantile(rate, dof) == pytest.approx(scipy.stats.t.isf(rate, dof), abs=1e-5)


def test_the_highest_score_is_predicted_by_the_spread_and_a_prior() -> None:
    logs = np.log([100, 103, 107, 112, 118, 120, 122])
    # A normal-inverse-gamma model: ten scores of deviation 0.2, and a flat prior of the mean.
    dof = 10 + 6
    variance = (10 * 0.2**2 + 6 * logs.var(ddof=1)) / dof
    posterior = scipy.stats.t(dof, logs.mean(), np.sqrt(variance * (1 + 1 / 7)))
    scores = np.exp(logs).astype(np.float32)
    assert predict_highest(scores) == pytest.approx(np.exp(posterior.isf(1 / 8)), rel=1e-4)
    # An odd one says nothing of the spread, and counts among the eight.
    odd = predict_highest(np.append(scores, np.float32(400)))
    assert odd == pytest.approx(np.exp(posterior.isf(1 / 9)), rel=1e-4)


def test_a_wide_gap_below_the_highest_is_odd() -> None:
    # The 50% and 90% quantiles of the others are 6 and 10, so exponential ones have a scale of
    # 4 / ln 5 = 2.49: a gap of 7.4 has a chance of 0.051, and one of 7.5 one of 0.049.
    others = np.arange(1, 12)
    assert not is_highest_odd(np.append(others, 11 + 7.4).astype(np.float32))
    assert is_highest_odd(np.append(others, 11 + 7.5).astype(np.float32))


def test_one_odd_good_image_does_not_set_the_threshold() -> None:
    odd = calibration_of(np.append(USUAL, 400))
    threshold = odd.threshold(0.01)
    assert (threshold.kind, threshold.rate) == ("spread", pytest.approx(1 / 32))
    assert 0.9 * USUAL.max() < threshold.score < 1.2 * USUAL.max()
    assert "sets it" not in threshold.warning
    # Ranks below it, and p-values, stay as they are.
    assert odd.threshold(0.5).kind == "conformal"
    assert odd.threshold(0.5).score == np.float32(np.sort(USUAL)[15])
    assert odd.p_value(399) == pytest.approx(2 / 32)


def test_no_threshold_is_raised_by_the_spread() -> None:
    threshold = calibration_of(USUAL).threshold(0.01)
    assert (threshold.kind, threshold.score) == ("conformal", np.float32(USUAL.max()))


@pytest.mark.parametrize(("n", "source"), [(4, LEAVE_ONE_OUT), (50, LEAVE_ONE_OUT), (20, HELD_OUT)])
def test_only_few_images_left_out_in_turn_are_judged_by_their_spread(n: int, source: str) -> None:
    scores = np.append(USUAL[:n], np.full(max(n - len(USUAL), 0), USUAL.mean()))
    scores[-1] = 1000
    assert calibration_of(scores, source).threshold(1 / (n + 1)).score == 1000


def test_a_higher_rate_never_raises_the_threshold() -> None:
    calibration = calibration_of(np.append(USUAL[:-3], (300, 320, 400)))
    scores = [calibration.threshold(rate).score for rate in np.linspace(0.001, 0.999, 500)]
    assert (np.diff(scores) <= 0).all()


@pytest.mark.parametrize("n", [5, 15, 31, 49])
def test_false_alarms_are_about_what_is_promised(n: int) -> None:
    # A rank keeps the promise exactly. What only lowers it gives more; leave-one-out scores,
    # which come of one image less, give less.
    rng = np.random.default_rng(n)
    spread = scipy.stats.norm(5, 0.2)
    rates = [
        spread.sf(np.log(calibration_of(scores).threshold(0.01).score))
        for scores in np.exp(spread.rvs((400, n), random_state=rng))
    ]
    assert 0.9 < np.mean(rates) * (n + 1) < 1.5


def test_scores_of_zero_and_equal_ones_have_a_threshold() -> None:
    for score in (0, 1):
        assert calibration_of(np.full(8, score)).threshold(0.01).score == score
