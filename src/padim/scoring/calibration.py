"""From scores of good images to thresholds at a false-alarm rate; without torch."""

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from numbers import Real
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from padim.documents import Finite, Fraction
from padim.errors import UsageError, format_count
from padim.scoring.reference import Reference
from padim.scoring.spread import is_highest_odd, predict_highest

DEFAULT_RATE = 0.01
DEFAULT_PIXEL_RATE = 0.001
LEAVE_ONE_OUT = "leave-one-out"
HELD_OUT = "held-out"
ARRAYS = ("image_score", "pixel_score", "pixel_count")
FEW_COUNT = 5  # scores whose spread may say more than the highest of them
TAIL_COUNT = 50  # scores that a tail fit needs
TAIL_REACH = 0.1  # a tail fit serves rates down to this over the number of scores
_TAIL_FRACTION = 0.1
_TAIL_LEAST = 20  # excesses that a tail is fitted to, at least
_SHAPES = (-0.5, 0.5)
_N_BOOTSTRAP = 1000
_ODD_COUNT = 10  # scores that it takes to call the highest odd
_BIN_ERROR = 2.0**-11  # relative, of a value rounded to float16


@dataclass(frozen=True)
class Threshold:
    """Where normal ends.

    Attributes:
        rate: The false-alarm rate it stands for.
        score: Images that score higher are anomalous.
        kind: ``conformal``: a rank among the scores of good images. ``spread``: what the spread of
            few scores lets the highest be, where that is lower. ``tail``: a generalised Pareto
            distribution fitted to the highest of them. ``cost``: the least cost on images of both
            kinds.
        interval: 90% interval of a tail's score; None for a rank.
        warning: Why it does not stand for the rate that was asked for, or what to look at before
            it is relied on; empty when there is nothing to say.
        basis: What a least cost was found on; empty for others.
    """

    rate: Fraction
    score: Finite
    kind: Literal["conformal", "spread", "tail", "cost"]
    interval: tuple[Finite, Finite] | None = None
    warning: str = ""
    basis: str = ""


@dataclass(frozen=True)
class Tail:
    """A generalised Pareto distribution of what exceeds a score, ``start``."""

    start: float
    part: float  # fraction of the scores above the start
    count: int  # how many those are
    shape: float  # 0 for an exponential tail; below, it ends
    scale: float

    @classmethod
    def of(cls, scores: NDArray[np.float64]) -> "Tail":
        """Fit the highest tenth of ascending scores, and 20 at least.

        Source:
            Hosking & Wallis 1987, probability-weighted moments.
        """
        n = len(scores)
        count = max(_TAIL_LEAST, round(_TAIL_FRACTION * n))
        start = scores[n - count - 1]
        shape, scale = (float(x) for x in _pareto(scores[n - count :] - start))
        return cls(float(start), count / n, count, shape, scale)

    def quantile(self, rate: float) -> float:
        """The score that this fraction exceeds."""
        return self.start + float(_excess(rate / self.part, self.shape, self.scale))

    def rate(self, score: float) -> float:
        """The fraction that exceeds a score above the start."""
        relative = max((score - self.start) / self.scale, 0)
        if abs(self.shape) < 1e-9:
            return self.part * float(np.exp(-relative))
        return self.part * float(max(1 + self.shape * relative, 0) ** (-1 / self.shape))

    def interval(self, rate: float) -> tuple[float, float]:
        """90% interval of a quantile: 1,000 samples of the tail, each fitted anew."""
        uniform = np.random.default_rng(0).random((_N_BOOTSTRAP, self.count))
        samples = np.sort(_excess(uniform, self.shape, self.scale), axis=1)
        quantiles = self.start + _excess(rate / self.part, *_pareto(samples))
        low, high = np.quantile(quantiles, (0.05, 0.95))
        return float(low), float(high)


@dataclass(frozen=True)
class Calibration:
    """How good images score that the model was not fitted on, and what follows from it.

    Attributes:
        source: ``leave-one-out``: the images of the fit, each under the model fitted without it.
            ``held-out``: other good images.
        image_score: Their image scores, ascending, shape ``(n,)``, float32.
        pixel_score: Values of their maps, rounded to float16, ascending, shape ``(bins,)``,
            float32.
        pixel_count: How many pixels have each, shape ``(bins,)``, int64.
        chosen: A threshold that known defects were used for; None when there were none.
        stale: Whether the model has changed since.
        reference: What else these images were like; None in older models, and of tiles.
    """

    source: str
    image_score: NDArray[np.float32]
    pixel_score: NDArray[np.float32]
    pixel_count: NDArray[np.int64]
    chosen: Threshold | None = None
    stale: bool = False
    reference: Reference | None = None

    def __post_init__(self) -> None:
        """Raise a ``ValueError`` if these are no scores of good images and their pixels."""
        scores, values, counts = (getattr(self, name) for name in ARRAYS)
        if self.source not in (LEAVE_ONE_OUT, HELD_OUT):
            raise ValueError(f"source is {self.source!r}")
        for name, array in (("image_score", scores), ("pixel_score", values)):
            if array.ndim != 1 or not array.size or not np.isfinite(array[[0, -1]]).all():
                raise ValueError(f"{name} needs to be a list of finite numbers")
            if not (np.diff(array) >= 0).all():
                raise ValueError(f"{name} needs to ascend")
        if counts.shape != values.shape or counts.min() < 0 or not 0 < counts.sum() < 1 << 62:
            raise ValueError("pixel_count needs to say how many pixels have each pixel_score")
        if self.reference is not None and len(self.reference.level_scores) != self.count:
            raise ValueError("the reference needs to have one row for each image_score")

    @property
    def count(self) -> int:
        """Images n."""
        return len(self.image_score)

    @cached_property
    def tail(self) -> Tail | None:
        """The tail of the scores; None when they are too few."""
        if self.count < TAIL_COUNT or self.image_score[0] == self.image_score[-1]:
            return None
        return Tail.of(self.image_score.astype(np.float64))

    @cached_property
    def ranked(self) -> NDArray[np.float32]:
        """The scores that thresholds are ranks of, ascending, shape ``(n,)``.

        Of few images left out in turn, none is above what their spread lets the highest be. Held
        out scores stay as they are: a rank of those keeps its rate by a theorem.
        """
        if self.source != LEAVE_ONE_OUT or not FEW_COUNT <= self.count < TAIL_COUNT:
            return self.image_score
        return np.minimum(self.image_score, np.float32(predict_highest(self.image_score)))

    @property
    def least_p_value(self) -> float:
        """Below which no p-value goes, however high the score."""
        least = 1 / (1 + self.count)
        return least if self.tail is None else min(least, TAIL_REACH / self.count)

    def p_value(self, score: float) -> float:
        """Share of good images that score at least as high.

        The conformal p-value, (1 + k) / (1 + n) where k of n scores are as high; where none is, and
        there are enough for a tail, what the tail says if that is lower, and never below 0.1 / n.

        Args:
            score: An image score.

        Source:
            Vovk, Gammerman & Shafer 2005, Algorithmic Learning in a Random World, chapter 2.
        """
        higher = self.count - int(np.searchsorted(self.image_score, np.float32(score), "left"))
        conformal = (1 + higher) / (1 + self.count)
        if higher or self.tail is None:
            return conformal
        return min(conformal, max(self.tail.rate(score), TAIL_REACH / self.count))

    def threshold(self, rate: float) -> Threshold:
        """The score that a good image exceeds at a rate.

        Args:
            rate: False alarms per good image, above 0 and below 1; else it is a `UsageError`.

        Returns:
            A rank where the rate is at least 1 / (n + 1); a tail fit where n is at least 50 and the
            rate at least 0.1 / n; otherwise that of the nearest rate that n allows, with a warning.
            Of 5 to 49 images left out in turn, none is above what their spread lets the highest be.
        """
        check_rate(rate, "false-alarm rate")
        score, n_higher, least = self.score_at(rate), self._count_higher(rate), self.least_p_value
        used = rate if n_higher else max(rate, least)
        warning = self._describe_reach(rate) if used != rate else ""
        warning = f"{warning} {self._describe_odd(score)}".strip()
        if self.tail is None or n_higher:
            is_rank = score == self.image_score[-max(1, n_higher)]
            return Threshold(used, score, "conformal" if is_rank else "spread", warning=warning)
        low, high = self.tail.interval(used)
        return Threshold(used, score, "tail", (min(low, score), max(high, score)), warning)

    def score_at(self, rate: float) -> float:
        """The score of ``threshold``, alone; the rate is above 0 and below 1."""
        # Where no rank serves, never below what a good image was seen to score, or could.
        score = float(self.ranked[-max(1, self._count_higher(rate))])
        if self.tail is None or self._count_higher(rate):
            return score
        return max(self.tail.quantile(max(rate, self.least_p_value)), score)

    def _count_higher(self, rate: float) -> int:
        """How many good images may score as high as the threshold.

        Rates are compared in float32, so that 0.01 of 100 is 1, as a graph has it as well.
        """
        n_higher = int(rate * (self.count + 1))
        n_higher += bool(np.float32((n_higher + 1) / (self.count + 1)) <= np.float32(rate))
        return min(n_higher, self.count)

    def _describe_reach(self, rate: float) -> str:
        """What so few images promise at best, and how many it takes for a rate below that."""
        takes = str(n_ranked := math.ceil(1 / rate - 1 - 1e-9))
        n_tailed = max(TAIL_COUNT, math.ceil(TAIL_REACH / rate - 1e-9))
        if n_tailed < n_ranked and (self.tail is not None or self.count < TAIL_COUNT):
            takes = f"{n_tailed} by the tail of their scores, {n_ranked} by a rank alone"
        return (
            f"{format_count(self.count, 'good image')} can promise one false alarm in "
            f"{1 / self.least_p_value:.0f} at best, and the threshold is for that. A rate of "
            f"{rate:g} takes {takes}."
        )

    def _describe_odd(self, threshold: float) -> str:
        """What to say of a threshold that one odd good image sets; empty for others."""
        scores = self.image_score
        if self.count < _ODD_COUNT or threshold != scores[-1] or not is_highest_odd(scores):
            return ""
        return (
            f"One good image scores {scores[-1]:.4g} and sets it, the next {scores[-2]:.4g}: look "
            "at that image, for defects below its score are missed."
        )

    @cached_property
    def pixel_rates(self) -> NDArray[np.float32]:
        """Share of the pixels of good images above each ``pixel_score``, shape ``(bins,)``."""
        above = self.pixel_count[::-1].cumsum()[::-1] - self.pixel_count
        return np.asarray(above / self.pixel_count.sum(), np.float32)

    @property
    def pixel_thresholds(self) -> NDArray[np.float64]:
        """What no pixel exceeds that was counted as each ``pixel_score``, shape ``(bins,)``."""
        return self.pixel_score.astype(np.float64) * (1 + _BIN_ERROR)

    def pixel_threshold(self, rate: float) -> float:
        """The score, to a two-thousandth, that a pixel of a good image exceeds at a rate.

        Args:
            rate: False alarms per pixel, above 0 and below 1; else it is a `UsageError`.
        """
        check_rate(rate, "pixel false-alarm rate", DEFAULT_PIXEL_RATE)
        first = int(np.argmax(self.pixel_rates <= np.float32(rate)))
        return float(self.pixel_thresholds[first])

    def without_arrays(self) -> dict[str, object]:
        """What remains where ``ARRAYS`` are kept as tensors."""
        chosen = self.chosen and asdict(self.chosen)
        return {"source": self.source, "chosen": chosen, "stale": self.stale}

    def to_json(self) -> dict[str, object]:
        """The calibration as plain data."""
        data = self.without_arrays() | {name: getattr(self, name).tolist() for name in ARRAYS}
        return data if self.reference is None else data | {"reference": self.reference.to_json()}


def check_rate(rate: float, what: str, usual: float = DEFAULT_RATE) -> None:
    """Make sure that a rate is above 0 and below 1, or raise a `UsageError`."""
    is_number = isinstance(rate, Real)
    if not is_number or not 0 < rate < 1:
        found = f"{rate:g}" if is_number else repr(rate)
        is_percent = is_number and 1 <= rate < 100
        raise UsageError(
            f"The {what} is {found}, but needs to be a fraction, above 0 and below 1. "
            + (f"Did you mean {rate / 100:g}?" if is_percent else f"Try {usual}.")
        )


def _pareto(excesses: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shape and scale of excesses that ascend along the last axis."""
    n = excesses.shape[-1]
    mean = excesses.mean(axis=-1)
    weighted = (excesses * (n - 1 - np.arange(n)) / (n - 1)).mean(axis=-1)
    shape = (2 - mean / np.maximum(mean - 2 * weighted, 1e-12)).clip(*_SHAPES)
    return shape, np.maximum(mean * (1 - shape), 1e-12)


def _excess(rate: Any, shape: Any, scale: Any) -> Any:
    """What a generalised Pareto variable exceeds at a rate."""
    exponential = np.abs(shape) < 1e-9
    safe = np.where(exponential, 1.0, shape)
    return scale * np.where(exponential, -np.log(rate), (np.power(rate, -safe) - 1) / safe)
