"""A calibration as tables that a graph looks up: thresholds by rate, p-values by score.

They give what `Calibration` does: ranks to the last bit, a tail to the last digits of float32.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from padim.errors import ParityError
from padim.scoring.calibration import Calibration
from padim.scoring.engines import OWN_RATE, OWN_RATES, Arrays
from padim.scoring.prediction import decide

_N_TAIL = 4096  # pieces of a tail; between two its rates are less than a thousandth apart
_IMPOSSIBLE = np.finfo(np.float32).min  # a threshold that every score exceeds

_TOLERANCE = 1e-6  # relative, of what a tail says in float32
# What a verdict is held against: rates for images and pixels
_CHECKED_RATES = (OWN_RATES, (0.5, 0.5), (0.1, 0.1), (0.01, 0.01), (0.001, 0.0001), (1e-6, 1e-6))

Floats = NDArray[np.float32]


class Verdict(NamedTuple):
    """What a graph with a verdict says of a batch of N images, beside ``predictor.Outputs``.

    Attributes:
        p_value: Share of good images that score at least as high, shape ``(N,)``.
        label: 0 for normal, 1 for anomalous, shape ``(N,)``.
        predicted_mask: 1 where the map lies above its threshold, shape ``(N, H, W)``.
    """

    p_value: Floats
    label: NDArray[np.uint8]
    predicted_mask: NDArray[np.uint8]


@dataclass(frozen=True)
class Pieces:
    """A function of one number in straight pieces, float32.

    Of an ``x`` above ``i`` of the knots it is ``base[i] + slope[i] * (x - start[i])``.

    Attributes:
        knots: Ascending, shape ``(k,)``.
        base: Shape ``(k + 1,)``, as the following.
        slope: 0 where a piece is level.
        start: Where a piece begins; 0 where it is level.
    """

    knots: Floats
    base: Floats
    slope: Floats
    start: Floats

    @classmethod
    def level(cls, knots: Floats, base: Floats) -> "Pieces":
        """One whose pieces are level."""
        return cls(knots, base, np.zeros_like(base), np.zeros_like(base))

    @classmethod
    def through(cls, x: Floats, y: NDArray[np.float64]) -> "Pieces":
        """Straight between points, at ascending ``x``; level before the first and after the last.

        A point belongs to the piece that ends there.
        """
        rise = np.diff(y) / np.diff(x.astype(np.float64))
        slope = np.concatenate(([0], rise, [0])).astype(np.float32)
        base = np.concatenate((y[:1], y)).astype(np.float32)
        start = np.where(slope == 0, np.float32(0), np.concatenate((x[:1], x)))
        return cls(x, base, slope, start)

    def then(self, knot: Floats, other: "Pieces") -> "Pieces":
        """This function up to a knot, and another one above it."""
        return Pieces(
            np.concatenate((self.knots, knot, other.knots)),
            np.concatenate((self.base, other.base)),
            np.concatenate((self.slope, other.slope)),
            np.concatenate((self.start, other.start)),
        )


def threshold_pieces(calibration: Calibration) -> Pieces:
    """The threshold of image scores by the false-alarm rate.

    Between ranks no float32 score lies, so they are rounded down.
    """
    n = calibration.count
    ranks = _before((np.arange(1, n + 1) / (n + 1)).astype(np.float32))  # above which one serves
    below = Pieces.level(ranks[:0], _round_down([calibration.score_at(float(ranks[0]))]))
    if calibration.tail is not None:
        rates = _spread(calibration.least_p_value, float(ranks[0]))
        # From where the tail lies below the highest score, it is level.
        bend = np.array([calibration.tail.rate(float(calibration.image_score[-1]))], np.float32)
        bends = np.concatenate((_before(bend), bend, _after(bend))).clip(rates[0], rates[-1])
        rates = np.union1d(rates, bends)
        below = Pieces.through(rates, np.array([*map(calibration.score_at, rates.tolist())]))
    served = below.then(ranks[:1], Pieces.level(ranks[1:], calibration.ranked[::-1]))
    return _by_rate(served, _round_down([decide(calibration).threshold.score]))


def pixel_threshold_pieces(calibration: Calibration) -> Pieces:
    """The threshold of maps by the pixel false-alarm rate."""
    thresholds = calibration.pixel_thresholds.astype(np.float32)[::-1]
    rates = np.maximum(_before(calibration.pixel_rates[-2::-1]), np.float32(0))
    own = np.array([decide(calibration).pixel_threshold], np.float32)
    return _by_rate(Pieces.level(rates, thresholds), own)


def p_value_pieces(calibration: Calibration) -> Pieces:
    """The p-value by the image score."""
    n, scores = calibration.count, calibration.image_score
    ranks = (1 + n - np.arange(n)) / (1 + n)
    points = above = _after(scores[-1:])
    if calibration.tail is not None:
        rates = _spread(calibration.least_p_value, calibration.p_value(float(above[0])))
        tail = [*map(calibration.tail.quantile, rates[::-1].tolist())]
        inside = np.array(tail, np.float32)
        # Where it is level, up to the first and from the last, it stays so.
        ends = above, _before(inside[:1]), _after(inside[-1:])
        points = np.unique(np.maximum(np.concatenate((*ends, inside)), above))
    values = np.array([*map(calibration.p_value, points.tolist())])
    highest = Pieces.through(points, values)
    return Pieces.level(scores[:-1], ranks.astype(np.float32)).then(scores[-1:], highest)


def check_verdict(
    run: Callable[[NDArray[np.uint8], Sequence[float]], Arrays],
    calibration: Calibration,
    images: NDArray[np.uint8],
) -> None:
    """Raise a `ParityError` if a graph judges images otherwise than the package would."""
    wrong: list[Sequence[float]] = []
    for rates in _CHECKED_RATES:
        anomaly_map, scores, _, *judged = run(images, rates)
        found = Verdict(*judged)
        own = [None if rate == OWN_RATE else rate for rate in rates]
        decision = decide(calibration, *own)
        p_value = [*map(calibration.p_value, scores.tolist())]
        exact, threshold = scores.astype(np.float64), decision.threshold.score
        is_clear = np.abs(exact - threshold) > _TOLERANCE * abs(threshold)
        if not (
            np.allclose(found.p_value, p_value, rtol=_TOLERANCE, atol=0)
            and (found.label == (exact > threshold))[is_clear].all()
            and np.array_equal(found.predicted_mask, anomaly_map > decision.pixel_threshold)
        ):
            wrong.append(rates)
    if wrong or not all(output.all() for output in run(images, (np.nan, np.nan))[-2:]):
        raise ParityError(
            f"The graph judges otherwise than padim at a false-alarm rate of "
            f"{wrong[0][0] if wrong else np.nan:g}. Export it without --verdict."
        )


def _by_rate(served: Pieces, own: Floats) -> Pieces:
    """A threshold by rates above 0 and below 1, of `OWN_RATE`, and of impossible rates."""
    none, ends = served.knots[:0], np.array([OWN_RATE, 0, 1], np.float32)
    impossible = Pieces.level(none, np.array([_IMPOSSIBLE], np.float32))
    chosen = impossible.then(_before(ends[:1]), Pieces.level(none, own))
    possible = chosen.then(ends[:1], impossible).then(ends[1:2], served)
    return possible.then(_before(ends[2:]), impossible)


def _spread(low: float, high: float) -> Floats:
    """Ascending rates from one to another, of equal ratios."""
    return np.unique(np.geomspace(low, high, _N_TAIL + 1).astype(np.float32))


def _before(values: Floats) -> Floats:
    """The next lower numbers of float32: what is above them is at least as high as these."""
    return np.nextafter(values, np.float32(-np.inf))


def _after(values: Floats) -> Floats:
    """The next higher numbers of float32."""
    return np.nextafter(values, np.float32(np.inf))


def _round_down(values: list[float]) -> Floats:
    """The highest numbers of float32 that are not higher."""
    nearest = np.array(values, np.float32)
    return np.where(nearest > np.array(values), _before(nearest), nearest)
