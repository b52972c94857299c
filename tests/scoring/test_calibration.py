import json

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from padim.documents import Document
from padim.errors import PadimError, UsageError
from padim.scoring.calibration import Calibration, Tail
from padim.scoring.collector import Collector
from padim.scoring.facts import CalibrationFacts


def calibrated(scores: NDArray[np.floating]) -> Calibration:
    collector = Collector()
    maps = np.broadcast_to(scores[:, None, None], (len(scores), 4, 4)).astype(np.float32)
    collector.add(maps, scores.astype(np.float32))
    return collector.calibration("held-out")


@pytest.mark.parametrize(("n", "rate"), [(9, 0.1), (19, 0.1), (99, 0.01), (99, 0.2), (150, 0.05)])
def test_a_conformal_threshold_holds_for_one_more_image(n: int, rate: float) -> None:
    # Of n + 1 scores that could come in any order, each may be the new one.
    scores = np.arange(n + 1, dtype=np.float64)
    n_alarms = 0
    for new in range(n + 1):
        calibration = calibrated(np.delete(scores, new))
        threshold = calibration.threshold(rate)
        assert threshold.kind == "conformal"
        assert (threshold.rate, threshold.warning) == (rate, "")
        alarm = scores[new] > threshold.score
        assert alarm == (calibration.p_value(scores[new]) <= rate + 1e-12)
        n_alarms += alarm
    assert n_alarms == int(rate * (n + 1) + 1e-9)


def test_few_images_give_the_nearest_rate_with_a_warning() -> None:
    threshold = calibrated(np.arange(20.0)).threshold(0.01)
    assert threshold.rate == pytest.approx(1 / 21)
    assert threshold.score == 19
    assert threshold.warning == (
        "20 good images can promise one false alarm in 21 at best, and the threshold is for that. "
        "A rate of 0.01 takes 50 by the tail of their scores, 99 by a rank alone."
    )


def test_a_tail_serves_rates_below_one_in_n() -> None:
    rng = np.random.default_rng(3)
    found = []
    for _ in range(30):
        threshold = calibrated(rng.exponential(size=200)).threshold(0.001)
        assert threshold.kind == "tail"
        assert threshold.interval is not None
        assert threshold.interval[0] < threshold.score
        found.append(threshold.score)
    # The thousandth quantile of the exponential distribution is 6.9.
    assert np.median(found) == pytest.approx(-np.log(0.001), rel=0.2)
    far = calibrated(rng.exponential(size=200)).threshold(1e-6)
    assert far.rate == pytest.approx(0.1 / 200)
    assert far.warning.startswith("200 good images can promise one false alarm in 2000 at best")
    assert "takes 100000 by the tail of their scores, 999999 by a rank alone." in far.warning


@pytest.mark.parametrize(
    ("scores", "rate", "n_needed"),
    [
        (np.arange(5.0), 0.1, 9),  # a rank among 1 / rate - 1 scores
        (np.arange(5.0), 0.02, 49),
        (np.arange(5.0), 0.01, 50),  # a tail, which 50 scores have
        (np.arange(60.0), 0.001, 100),
        (np.ones(60), 0.01, 99),  # equal scores have none
    ],
)
def test_a_warning_says_how_many_images_a_rate_needs(
    scores: NDArray[np.float64], rate: float, n_needed: int
) -> None:
    assert f"A rate of {rate:g} takes {n_needed}" in calibrated(scores).threshold(rate).warning
    enough = np.arange(n_needed) if np.ptp(scores) else np.ones(n_needed)
    assert calibrated(enough.astype(np.float64)).threshold(rate).warning == ""
    fewer = enough[1:].astype(np.float64)
    assert calibrated(fewer).threshold(rate).warning != ""


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.3])
def test_a_tail_is_fitted_as_it_was_drawn(shape: float) -> None:
    scores = np.sort(scipy.stats.genpareto.rvs(shape, scale=2, size=40_000, random_state=1))
    tail = Tail.of(scores)
    expected = scipy.stats.genpareto.isf(1e-3, shape, scale=2)
    assert tail.quantile(1e-3) == pytest.approx(expected, rel=0.05)
    assert tail.rate(tail.quantile(1e-3)) == pytest.approx(1e-3)
    low, high = tail.interval(1e-3)
    assert low < expected < high


def test_p_values_never_rise_with_the_score() -> None:
    calibration = calibrated(np.random.default_rng(0).gamma(3, size=80))
    p_values = [calibration.p_value(score) for score in np.linspace(0, 30, 400)]
    assert (np.diff(p_values) <= 0).all()
    assert p_values[0] == 1
    assert p_values[-1] < 1 / 81


def test_a_pixel_threshold_is_a_quantile() -> None:
    rng = np.random.default_rng(0)
    maps = rng.gamma(9, size=(10, 64, 64)).astype(np.float32)
    collector = Collector()
    for part in np.array_split(maps, 3):
        collector.add(part, part.max(axis=(1, 2)))
    calibration = collector.calibration("held-out")
    for rate in (0.5, 0.01, 0.001, 1e-9):
        threshold = calibration.pixel_threshold(rate)
        assert (maps > threshold).mean() <= rate
        assert threshold == pytest.approx(np.quantile(maps, 1 - rate, method="higher"), rel=2e-3)
    document = Document("it", PadimError, "")
    data = document.parse(json.dumps(calibration.to_json()))
    again = document.restore(data, CalibrationFacts).calibration()
    assert again.threshold(0.2) == calibration.threshold(0.2)


@pytest.mark.parametrize("rate", [0, 1, -0.1, float("nan")])
def test_impossible_rates_are_refused(rate: float) -> None:
    calibration = calibrated(np.arange(20.0))
    for threshold in (calibration.threshold, calibration.pixel_threshold):
        with pytest.raises(UsageError, match="needs to be a fraction, above 0 and below 1"):
            threshold(rate)


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (5, r"The false-alarm rate is 5, but needs to be a fraction, .*Did you mean 0\.05\?"),
        (np.float32(1), r"is 1, .*Did you mean 0\.01\?"),
        (500, r"is 500, .*Try 0\.01\."),
        ("x", r"is 'x', .*Try 0\.01\."),
        ([0.1], r"is \[0\.1\], .*Try 0\.01\."),
    ],
)
def test_a_rate_is_a_fraction_and_no_percentage(rate: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        calibrated(np.arange(20.0)).threshold(rate)


def test_a_tail_claims_no_p_value_below_a_tenth_of_one_image() -> None:
    scores = np.sort(np.random.default_rng(0).gamma(9, 1, 80)).astype(np.float32)
    calibration = Calibration("held-out", scores, scores, np.ones(80, np.int64))
    assert calibration.p_value(1e6) == pytest.approx(0.1 / 80)


@pytest.mark.parametrize("seed", range(5))
def test_a_threshold_lies_in_its_own_interval(seed: int) -> None:
    scores = np.random.default_rng(seed).gamma(9, 1, 60).astype(np.float32)
    scores[0] = 100  # an outlier, below which no threshold goes
    calibration = Calibration("held-out", np.sort(scores), np.sort(scores), np.ones(60, np.int64))
    threshold = calibration.threshold(0.01)
    assert threshold.interval is not None
    assert threshold.interval[0] <= threshold.score <= threshold.interval[1]


def test_one_odd_good_image_that_sets_the_threshold_is_named() -> None:
    usual = 180 + 15 * scipy.stats.norm.ppf((np.arange(30) + 0.5) / 30)
    usual[-1] = 211
    odd = calibrated(np.append(usual, 254)).threshold(0.01)
    assert odd.score == 254
    assert odd.warning.startswith("31 good images can promise one false alarm in 32 at best")
    assert "One good image scores 254 and sets it, the next 211: look at that" in odd.warning
    # It says so at a rate that 31 images allow, and not where another image sets the threshold.
    assert calibrated(np.append(usual, 254)).threshold(1 / 32).warning.startswith("One good image")
    assert not calibrated(np.append(usual, 254)).threshold(2 / 32).warning
    assert not calibrated(np.append(usual, 214)).threshold(1 / 32).warning
    # With enough images for a tail, the highest of them is still what no threshold goes below.
    many = 180 + 15 * scipy.stats.norm.ppf((np.arange(70) + 0.5) / 70)
    tailed = calibrated(np.append(many, 400)).threshold(0.013)
    assert (tailed.kind, tailed.score) == ("tail", 400)
    assert tailed.warning.startswith("One good image scores 400 and sets it, the next 216.7")


def test_a_usual_highest_score_is_seldom_called_odd() -> None:
    draws = np.random.default_rng(0).exponential(size=(500, 40)) + 5
    called = sum("One good" in calibrated(row).threshold(1 / 41).warning for row in draws)
    assert 0 < called < 0.15 * len(draws)  # a twentieth by the gap, more by the scale's own error
