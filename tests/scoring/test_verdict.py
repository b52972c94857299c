"""The tables of a verdict are looked up as a graph does, and held against the calibration."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from padim.errors import ParityError
from padim.scoring.calibration import Calibration, Threshold
from padim.scoring.collector import Collector
from padim.scoring.prediction import decide
from padim.scoring.verdict import (
    Pieces,
    check_verdict,
    p_value_pieces,
    pixel_threshold_pieces,
    threshold_pieces,
)

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]
DRAWS: dict[str, Draw] = {
    "exponential": lambda rng, n: rng.exponential(size=n),
    "short": lambda rng, n: rng.random(n),
    "heavy": lambda rng, n: rng.pareto(2.5, n),
    "tied": lambda rng, n: rng.exponential(size=n).round(1),
    "below zero": lambda rng, n: rng.standard_normal(n) - 10,
    "constant": lambda _, n: np.zeros(n),
}
COUNTS = (1, 2, 9, 49, 50, 99, 300)
IMPOSSIBLE = [-np.inf, -2.0, -0.5, 0.0, 1.0, 1.5, np.inf, np.nan]


def calibrated(draw: str, n: int) -> Calibration:
    rng = np.random.default_rng(n)
    collector = Collector()
    collector.add(rng.gamma(2, size=(n, 8, 8)).astype(np.float32), DRAWS[draw](rng, n) + 10)
    return collector.calibration("held-out")


def look_up(pieces: Pieces, x: NDArray[np.floating]) -> NDArray[np.float32]:
    x = x.astype(np.float32)
    i = (x[:, None] > pieces.knots).sum(axis=1)
    with np.errstate(invalid="ignore"):  # an infinite rate gives NaN
        found: NDArray[np.float32] = pieces.base[i] + pieces.slope[i] * (x - pieces.start[i])
    assert found.dtype == np.float32
    return found


def draw_rates(n: int) -> NDArray[np.float64]:
    """Rates of every size, and those at which a rank begins, as float64 and as float32 have it."""
    rng = np.random.default_rng(n)
    ranks = np.arange(1, n + 1) / (n + 1)
    near = [*ranks, *ranks.astype(np.float32).astype(float), *(0.1, 0.05, 0.01, 0.001, 1e-30)]
    near += [0.1 / n, 0.1 / n * (1 + 1e-6), 0.1 / n * (1 - 1e-6), *ranks * 0.999, *ranks * 1.001]
    rates = np.concatenate((near, rng.random(200), 10 ** rng.uniform(-7, 0, 200)))
    return rates[rates.astype(np.float32) < 1]


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("n", COUNTS)
def test_a_table_of_thresholds_is_that_of_the_calibration(draw: str, n: int) -> None:
    calibration, rates = calibrated(draw, n), draw_rates(n)
    found = look_up(threshold_pieces(calibration), rates)
    expected = np.array([calibration.score_at(rate) for rate in rates])
    is_rank = np.isin(expected, calibration.image_score)
    np.testing.assert_array_equal(found[is_rank], expected[is_rank])
    last_digit = np.spacing(np.abs(expected).astype(np.float32))
    assert (np.abs(found - expected) <= 2 * last_digit).all()
    for rate in rates[::50]:
        assert calibration.threshold(rate).score == calibration.score_at(rate)


@pytest.mark.parametrize("n", [5, 20, 49])
def test_a_table_holds_what_the_spread_of_few_images_lowers(n: int) -> None:
    scores = np.sort(np.append(np.random.default_rng(n).gamma(50, size=n - 1), 500))
    ascending = scores.astype(np.float32)
    calibration = Calibration("leave-one-out", ascending, ascending, np.ones(n, np.int64))
    rates = draw_rates(n)
    found = look_up(threshold_pieces(calibration), rates)
    np.testing.assert_array_equal(found, [calibration.score_at(rate) for rate in rates])
    assert found.max() < 500


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("n", COUNTS)
def test_a_table_of_p_values_is_that_of_the_calibration(draw: str, n: int) -> None:
    calibration, rng = calibrated(draw, n), np.random.default_rng(n)
    seen = calibration.image_score
    beside = [np.nextafter(seen, np.float32(end)) for end in (-np.inf, np.inf)]
    far = seen[-1] + rng.exponential(size=300) * [[0.01], [1], [100]]
    scores = np.concatenate((seen, *beside, *far, [-1e30, 1e30])).astype(np.float32)
    expected = [calibration.p_value(float(score)) for score in scores]
    found = look_up(p_value_pieces(calibration), scores)
    np.testing.assert_allclose(found, expected, rtol=5e-7)
    higher = (seen[None] >= scores[:, None]).sum(axis=1)
    ranks = ((1 + higher) / (1 + n)).astype(np.float32)
    np.testing.assert_array_equal(found[higher > 0], ranks[higher > 0])


@pytest.mark.parametrize("n", COUNTS)
def test_a_table_of_pixel_thresholds_is_that_of_the_calibration(n: int) -> None:
    calibration = calibrated("short", n)
    shares = calibration.pixel_rates.astype(float)
    rates = np.concatenate((draw_rates(n), shares[(shares > 0) & (shares < 1)]))
    found = look_up(pixel_threshold_pieces(calibration), rates)
    expected = np.array([calibration.pixel_threshold(rate) for rate in rates], np.float32)
    np.testing.assert_array_equal(found, expected)


def test_bins_that_count_no_pixel_change_nothing() -> None:
    counts = np.array([0, 3, 0, 1, 0, 0])
    values = np.arange(6, dtype=np.float32)
    calibration = Calibration("held-out", np.zeros(1, np.float32), values, counts)
    rates = np.array([0.01, 0.24, 0.25, 0.3, 0.99])
    found = look_up(pixel_threshold_pieces(calibration), rates)
    np.testing.assert_allclose(found, [3, 3, 1, 1, 1], rtol=1e-3)
    assert [calibration.pixel_threshold(rate) for rate in rates] == pytest.approx(found)


@pytest.mark.parametrize("table", [threshold_pieces, pixel_threshold_pieces])
def test_no_score_is_normal_at_an_impossible_rate(table: Callable[[Calibration], Pieces]) -> None:
    found = look_up(table(calibrated("below zero", 50)), np.array(IMPOSSIBLE))
    assert not (np.array([-1e30, 0, 3], np.float32)[:, None] <= found).any()


@pytest.mark.parametrize("score", [None, 1 / 3, 12.3])
def test_without_a_rate_the_model_chooses_as_it_does_elsewhere(score: float | None) -> None:
    base = calibrated("short", 30)
    chosen = None if score is None else Threshold(0.1, score, "cost")
    calibration = Calibration(
        base.source, base.image_score, base.pixel_score, base.pixel_count, chosen
    )
    decision, own = decide(calibration), np.array([-1.0])
    (threshold,) = look_up(threshold_pieces(calibration), own)
    # No score of float32 lies between the two.
    above = np.nextafter(threshold, np.float32(np.inf))
    assert float(threshold) <= decision.threshold.score < float(above)
    assert look_up(pixel_threshold_pieces(calibration), own) == np.float32(decision.pixel_threshold)


@pytest.mark.parametrize(("n", "k"), [(99, 2), (9, 3), (99, 7), (2, 2), (18, 6)])
def test_a_rate_is_the_same_in_float32(n: int, k: int) -> None:
    # float32 has some of these above k / (n + 1), and some below.
    calibration = calibrated("exponential", n)
    rate = k / (n + 1)
    expected = calibration.image_score[n - k]
    assert calibration.threshold(rate).score == expected
    assert calibration.threshold(float(np.float32(rate))).score == expected
    assert calibration.threshold(rate * (1 - 1e-6)).score > expected


def test_the_highest_rates_are_the_lowest_score() -> None:
    calibration = calibrated("exponential", 99)
    for rate in (0.99, 1 - 1e-10, float(np.nextafter(1, 0))):
        assert calibration.threshold(rate).score == calibration.image_score[0]


@pytest.mark.parametrize("wrong", ["p_value", "label", "predicted_mask", "impossible"])
def test_a_graph_that_judges_otherwise_is_noticed(wrong: str) -> None:
    calibration = calibrated("exponential", 60)
    p_values, thresholds = p_value_pieces(calibration), threshold_pieces(calibration)
    pixel_thresholds = pixel_threshold_pieces(calibration)

    def run(images: NDArray[np.uint8], rates: tuple[float, float]) -> tuple[NDArray, ...]:
        maps, scores = images[..., 0].astype(np.float32) / 16, images[:, 0, 0, 0] / np.float32(16)
        found = {
            "p_value": look_up(p_values, scores),
            "label": ~(scores <= look_up(thresholds, np.array(rates[:1]))),
            "predicted_mask": ~(maps <= look_up(pixel_thresholds, np.array(rates[1:]))),
        }
        if wrong in found:
            found[wrong] = found[wrong][::-1]
        if wrong == "impossible" and np.isnan(rates[0]):
            found["label"] = ~found["label"]
        return maps, scores, scores, *found.values()

    images = np.arange(200, 200 + 5 * 12, dtype=np.uint8).reshape(5, 2, 2, 3)
    images[0] = 10
    with pytest.raises(ParityError, match="judges otherwise than padim at a false-alarm rate of"):
        check_verdict(run, calibration, images)
    wrong = "none"
    check_verdict(run, calibration, images)
