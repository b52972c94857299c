"""Shapes of a report as paths of SVG: outlines of masks, curves, histograms."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

_N_BINS = 32
Tick = tuple[float, str]  # where on the axis, and its label
_X0, _X1, _Y0, _Y1 = 40, 308, 12, 200  # edges of a chart's plot


class Histogram(TypedDict):
    """What a chart of scores is drawn from."""

    normal: str  # the bars as the path of an SVG
    anomalous: str
    n_normal: int
    n_anomalous: int
    tallest: int
    ticks: list[Tick]
    threshold: Tick | None


def outline_path(mask: NDArray[np.bool_]) -> str:
    """The rim of a mask, shape ``(H, W)``, as the path of an SVG, in pixels of the mask.

    It is closed loops along the edges of pixels; empty for an empty mask.
    """
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    # Each edge has the mask on its right, so that edges join to loops.
    sides = (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),
        (padded[1:-1, 2:], (1, 0), (1, 1)),
        (padded[2:, 1:-1], (1, 1), (0, 1)),
        (padded[1:-1, :-2], (0, 1), (0, 0)),
    )
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for beyond, (x0, y0), (x1, y1) in sides:
        for y, x in np.argwhere(inside & ~beyond).tolist():
            following.setdefault((x + x0, y + y0), []).append((x + x1, y + y1))
    loops = []
    for start in sorted(following, key=lambda corner: corner[::-1]):
        while following[start]:
            corners = [start]
            while following[corners[-1]]:
                corners.append(following[corners[-1]].pop())
            loops.append(_loop(corners))
    return "".join(loops)


def _loop(corners: Sequence[tuple[int, int]]) -> str:
    """Steps between neighbouring corners as straight lines, as few as there can be."""
    lines: list[list[int]] = []
    for (x0, y0), (x1, y1) in pairwise(corners):
        dx, dy = x1 - x0, y1 - y0
        if lines and (lines[-1][0] * dx > 0 or lines[-1][1] * dy > 0):
            lines[-1] = [lines[-1][0] + dx, lines[-1][1] + dy]
        else:
            lines.append([dx, dy])
    x, y = corners[0]
    return f"M{x} {y}" + "".join(f"h{dx}" if dx else f"v{dy}" for dx, dy in lines) + "z"


def curve(axes: Sequence[Sequence[float]], limit: float) -> str:
    """A curve, of ascending rates and what rises with them, as the path of a chart up to a rate.

    It is empty where there is none.
    """
    if len(axes[0]) < 2:
        return ""
    x, y = (np.asarray(axis, np.float64) for axis in axes)
    at_limit = float(np.interp(limit, x, y))
    inside = x <= limit  # a curve may rise at the limit itself
    x, y = np.append(x[inside], limit), np.append(y[inside], at_limit)
    points: list[str] = []
    for left, top in zip(_X0 + (_X1 - _X0) * x / limit, _Y1 - (_Y1 - _Y0) * y, strict=True):
        point = f"{left:.1f} {top:.1f}"
        if not points or points[-1] != point:
            points.append(point)
    return "M" + "L".join(points)


def histogram(
    scores: NDArray[np.float64], is_anomalous: NDArray[np.bool_], threshold: float | None
) -> Histogram | None:
    """Scores of normal images upwards, of anomalous ones downwards, over one axis.

    Scores and kinds have shape ``(N,)``. Gives paths, ticks and counts; None without a score.
    """
    if not len(scores):
        return None
    marked = scores if threshold is None else np.append(scores, threshold)
    low, high = float(marked.min()), float(marked.max())
    pad, least = (high - low) * 0.02, 1e-6 * max(abs(low), abs(high))
    pad = pad if pad > least else max(1.0, least)
    low, high = low - pad, high + pad
    edges = np.linspace(low, high, _N_BINS + 1)
    both = [np.histogram(scores[chosen], edges)[0] for chosen in (~is_anomalous, is_anomalous)]
    tallest = [max(int(counts.max()), 1) for counts in both]
    middle = (_Y0 + _Y1) / 2
    # Both share one scale, so that heights can be compared across the axis.
    unit = (middle - _Y0) / max(tallest)
    step = (_X1 - _X0) / _N_BINS
    bars = [
        "".join(
            f"M{_X0 + i * step + 0.5:.1f} {middle:.1f}h{step - 1:.1f}"
            f"v{sign * unit * count:.1f}h{1 - step:.1f}z"
            for i, count in enumerate(counts.tolist())
            if count
        )
        for counts, sign in zip(both, (-1, 1), strict=True)
    ]

    def across(score: float) -> float:
        return round(_X0 + (_X1 - _X0) * (score - low) / (high - low), 1)

    return {
        "normal": bars[0],
        "anomalous": bars[1],
        "n_normal": int((~is_anomalous).sum()),
        "n_anomalous": int(is_anomalous.sum()),
        "tallest": max(tallest),
        "ticks": [(across(tick), f"{tick:g}") for tick in _ticks(low, high)],
        "threshold": None if threshold is None else (across(threshold), f"{threshold:.1f}"),
    }


def _ticks(low: float, high: float) -> list[float]:
    """A few round numbers in a range."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = min(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [round(i * step, 10) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
