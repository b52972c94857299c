"""The threshold of least cost on good images and known defects; without torch."""

import math

import numpy as np
from numpy.typing import NDArray

from padim.errors import UsageError, format_count
from padim.scoring.calibration import Threshold, check_rate


def least_cost(
    normal: NDArray[np.float32],
    anomalous: NDArray[np.float32],
    miss_cost: float,
    false_alarm_cost: float,
    defect_rate: float | None = None,
) -> Threshold:
    """The threshold that costs least on images of both kinds; of equal ones, the widest gap's.

    The scores of the normal ones ascend, and there is one at least of either kind. With a
    ``defect_rate``, both kinds count as if that share of all were anomalous.
    """
    anomalous = np.sort(anomalous)
    both = np.unique(np.concatenate((normal, anomalous)).astype(np.float64))
    low, high = both[:-1], both[1:]
    candidates = np.concatenate((both[:1] / 2, low + (high - low) / 2, both[-1:]))
    gaps = np.concatenate(([0], high - low, [0]))
    n_missed = np.searchsorted(anomalous, candidates, "right")
    n_alarms = len(normal) - np.searchsorted(normal, candidates, "right")
    weights = 1.0, 1.0
    if defect_rate is not None:
        weights = defect_rate / len(anomalous), (1 - defect_rate) / len(normal)
    dearest = max(miss_cost, false_alarm_cost)  # so that no product is infinite
    cost = weights[0] * (miss_cost / dearest) * n_missed
    cost += weights[1] * (false_alarm_cost / dearest) * n_alarms
    best = np.flatnonzero(np.isclose(cost, cost.min(), rtol=1e-12, atol=0))
    chosen = best[gaps[best].argmax()]
    expected = "" if defect_rate is None else f", and {defect_rate:.3g} of all parts are defective"
    warning = ""
    if 2 * n_alarms[chosen] > len(normal):
        warning = (
            f"It calls {n_alarms[chosen]} of {format_count(len(normal), 'good image')} anomalous. "
            "Give costs, or a share of defects, that the line has, or fit a model that tells them "
            "apart."
        )
    elif defect_rate is not None and miss_cost * defect_rate < weights[1] * false_alarm_cost:
        n_needed = math.ceil((1 - defect_rate) * false_alarm_cost / (miss_cost * defect_rate))
        warning = (
            f"With {defect_rate:.3g} of all parts defective, one of "
            f"{format_count(len(normal), 'good image')} that is called anomalous weighs more than "
            f"all known defects missed, so these have no say. Give {n_needed} good images or more."
        )
    elif n_missed[chosen] == len(anomalous):
        warning = (
            "It misses every known defect, since false alarms would cost more. Give costs, or a "
            "share of defects, that the line has, or fit a model that tells them apart."
        )
    return Threshold(
        rate=float(n_alarms[chosen] / len(normal)),
        score=float(candidates[chosen]),
        kind="cost",
        warning=warning,
        basis=f"the least cost on {format_count(len(normal), 'good image')}, {n_alarms[chosen]} of "
        f"which it calls anomalous, and {format_count(len(anomalous), 'anomalous one')}, "
        f"{n_missed[chosen]} of which it misses (a miss costs {miss_cost:g}, a false alarm "
        f"{false_alarm_cost:g}{expected})",
    )


def check_weights(
    miss_cost: float, false_alarm_cost: float, defect_rate: float | None = None
) -> None:
    """Make sure that costs and a share of defects are possible, or raise a `UsageError`."""
    if not (min(miss_cost, false_alarm_cost) > 0 and max(miss_cost, false_alarm_cost) < math.inf):
        raise UsageError("A cost needs to be a number above 0. Leave it out for 1.")
    if defect_rate is not None:
        check_rate(defect_rate, "defect rate")
