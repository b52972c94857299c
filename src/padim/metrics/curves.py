"""What a row of thresholds says: areas under curves, precision, recall; many resamples at once.

A curve is given at K thresholds that descend, along the last axis; the axes before it are free. At
a threshold, all scores at or above it are called anomalous: ``tp`` of the anomalous ones and ``fp``
of the normal ones, both of shape ``(..., K)``. Scores that were rounded to one value are tied, as
equal ones are. ``Order`` says in which order those that are tied are met:

- ``tied``: together, which is the metric of the scores as they are held;
- ``worst``, ``best``: the normal ones first, or the anomalous ones. Whatever the scores were before
  they were rounded, their metric lies between the two.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from padim.errors import UsageError

Floats = NDArray[np.float64]
Order = Literal["tied", "worst", "best"]


def worth(
    fpr: Floats, limits: tuple[float, float], *, log: bool = False, order: Order = "tied"
) -> Floats:
    """What a rise of a curve at each threshold adds to the area under it.

    The curve starts at (0, 0), goes straight from threshold to threshold, and is cut at the limits,
    where it is interpolated. An area is linear in the rises, so one set of worths serves every
    curve over the same rates.

    Args:
        fpr: False positive rate at each threshold, 0 to 1, shape ``(..., K)``.
        limits: Lowest and highest rate; the area is divided by their distance.
        log: Whether rates are laid out by their logarithm, for which the lowest has to be above 0.
            Out of a rate of 0 a curve jumps: it keeps its height there up to the next rate.
        order: Of what is tied.

    Returns:
        Shape ``(..., K)``, 0 to 1. Best and worst differ by what the rate, or its logarithm, grows
        from the threshold before, inside the limits and divided by their distance.

    Raises:
        UsageError: The limits are no part of 0 to 1.

    Source:
        Fawcett 2006, An introduction to ROC analysis: trapezoids, those of one score together. Up
        to a limit: Bergmann et al. 2021 (MVTec AD), section 5.1. By the logarithm: Bertoldo et al.
        2024 (AUPIMO), equations 3 to 5.
    """
    low, high = limits
    if not (0 <= low < high <= 1 and (low > 0 or not log)):
        raise UsageError(
            f"The area is from a false positive rate of {low:g} to {high:g}, but needs to be of a "
            f"part of 0 to 1{', above 0' if log else ''}."
        )
    nothing = 0.0
    if log:
        # Rates below the lowest limit matter only as where a straight line comes from.
        tiny = np.finfo(np.float64).tiny
        fpr = np.log(np.maximum(fpr, tiny))
        nothing, low, high = (float(np.log(x)) for x in (tiny, low, high))
    before = _shift(fpr, nothing)
    end = fpr.clip(low, high)
    start = before.clip(low, high)
    if order == "tied":
        run = fpr - before
        middle = (start + end) / 2 - before
        climbed = np.divide(middle, run, out=np.zeros_like(run), where=run > 0)
        if log:
            climbed[before <= nothing] = 0
    else:
        climbed = np.full_like(fpr, order == "best")
    worths: Floats = ((end - start) * climbed + high - end) / (high - low)
    return worths


def area(rise: Floats, worth: Floats) -> Floats:
    """Area under a curve, 0 to 1, shape ``(...)``, divided by the distance of its limits.

    ``rise`` is of the curve at each threshold, and ``worth`` what it adds there, ``(..., K)`` both.
    """
    # Sums of rises that should end at 1 end beside it by the last bits.
    whole: Floats = np.einsum("...k,...k->...", rise, worth)
    return np.clip(whole, 0, 1)


def roc_area(tp: Floats, fp: Floats, order: Order = "tied") -> Floats:
    """Area under the ROC curve, NaN where a class is missing.

    Source:
        Fawcett 2006, An introduction to ROC analysis. It is the chance that an anomalous score is
        above a normal one, ties counting half (Hanley and McNeil 1982).
    """
    fpr, tpr = over(fp, fp[..., -1:]), over(tp, tp[..., -1:])
    return area(np.diff(tpr, axis=-1, prepend=0), worth(fpr, (0.0, 1.0), order=order))


def average_precision(tp: Floats, fp: Floats, order: Order = "tied") -> Floats:
    """Sum over the thresholds of precision times gain in recall; NaN where a class is missing.

    The best has the precision of a threshold without the normal ones that are tied there, the worst
    that with them but without the anomalous ones.

    Source:
        ``sklearn.metrics.average_precision_score``. The trapezoids that others lay under the curve
        are optimistic (Davis and Goadrich 2006).
    """
    n_anomalous = _count_where_both(tp, fp)
    before = _shift(tp)
    gain = tp - before
    if order == "worst":
        tp = before
    if order == "best":
        fp = _shift(fp)
    precision = np.divide(tp, tp + fp, out=np.zeros_like(tp), where=tp > 0)
    return over(np.einsum("...k,...k->...", gain, precision), n_anomalous)


def f1(tp: Floats, fp: Floats, order: Order = "tied") -> Floats:
    """Harmonic mean of precision and recall at each threshold; NaN where a class is missing.

    The worst is the tied one: thresholds between tied scores add to the choice and take nothing
    from it. The best leaves out the normal ones tied there.

    Source:
        van Rijsbergen 1979, Information Retrieval, chapter 7: 1 - E, precision and recall alike.
    """
    n_anomalous = _count_where_both(tp, fp)[..., None]
    if order == "best":
        fp = _shift(fp)
    return over(2 * tp, (tp + fp + n_anomalous) * (n_anomalous > 0))


def f1_max(tp: Floats, fp: Floats, order: Order = "tied") -> Floats:
    """The best ``f1`` of any one threshold, shape ``(...)``; the labels choose it."""
    return np.asarray(f1(tp, fp, order).max(axis=-1))


def recall(tp: Floats, fp: Floats, n_false_alarms: float) -> Floats:
    """Highest share of the anomalous ones that is found with at most so many normal ones, or NaN.

    Source:
        Fawcett 2006, An introduction to ROC analysis: the true positive rate, here of thresholds
        alone, without interpolation.
    """
    found = (tp * (fp <= n_false_alarms)).max(axis=-1, initial=0)
    return over(found, _count_where_both(tp, fp))


def over(part: Any, whole: Any) -> Floats:
    """A quotient, NaN where the divisor is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, np.float64), whole)
    quotient: Floats = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return quotient


def _count_where_both(tp: Floats, fp: Floats) -> Floats:
    """How many anomalous ones there are, shape ``(...)``; 0 where there are no normal ones."""
    return np.where(fp[..., -1] > 0, tp[..., -1], 0)


def _shift(values: Floats, first: float = 0.0) -> Floats:
    """What stood one threshold before; ``first`` at first."""
    shifted = np.empty_like(values)
    shifted[..., :1] = first
    shifted[..., 1:] = values[..., :-1]
    return shifted
