from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from scipy.integrate import trapezoid
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from test_images import brute_f1_max

from padim.errors import ShapeError, UnknownNameError, UsageError
from padim.metrics.bins import Block, Rows
from padim.metrics.counts import MapCounts
from padim.metrics.curves import Order
from padim.metrics.images import ImageMetrics
from padim.metrics.pixels import PixelMetrics
from padim.metrics.resamples import bootstrap_weights
from padim.metrics.table import AUPIMO_FPR, OF_PIXELS

Maps = list[NDArray[np.float32]]
Masks = list[NDArray[np.bool_]]
Defects = list[list[tuple[NDArray[np.bool_], float]]]
WIDE = (0.02, 0.6)  # limits that few pixels reach


@dataclass
class Case:
    """Images, the first normal, the second anomalous, the others either."""

    maps: Maps
    masks: Masks
    defects: Defects

    def counts(self, *, exact: bool = True, saturated: bool = False) -> MapCounts:
        masks = [
            None if saturated and d else m for m, d in zip(self.masks, self.defects, strict=True)
        ]
        defects = self.defects if saturated else None
        if exact:
            return MapCounts.exact(self.maps, masks, defects)
        counts = MapCounts()
        for i, (anomaly_map, mask) in enumerate(zip(self.maps, masks, strict=True)):
            counts.add(anomaly_map, mask, defects=defects[i] if defects else ())
        return counts


def make_case(n: int, kind: str, seen: float, seed: int) -> Case:
    generator = np.random.default_rng(seed)
    shape = (n, 8, 9)
    mask = ndimage.uniform_filter(generator.random(shape), (0, 3, 3)) > 0.55
    mask[0] = False
    mask[1, 2, 3] = True
    mask[2:] &= generator.random((n - 2, 1, 1)) < 0.7
    maps = generator.gamma(4, 1, shape) + 2 * mask * generator.random(shape)
    if kind == "ties":
        maps = maps.round() - 4
    if kind == "crowded":  # a few float16 values, each of several scores
        maps = 1 + maps / 2000
    maps[generator.random(shape) > seen] = np.nan
    maps[0, 0, 0], maps[1, 2, 3] = 1.5, 1.25
    defects: Defects = []
    for one in mask:
        other = one & (generator.random(one.shape) < 0.5)
        parts = [part for part in (one, other) if part.any()]
        defects.append([(part, float(generator.uniform(0.5, part.sum()))) for part in parts])
    return Case(list(maps.astype(np.float32)), list(mask), defects)


CASES = st.builds(
    make_case,
    n=st.integers(2, 6),
    kind=st.sampled_from(["ties", "crowded", "spread"]),
    seen=st.sampled_from([1.0, 0.8]),
    seed=st.integers(0, 2**32 - 1),
)


def rounded(case: Case) -> Case:
    return Case([one.astype(np.float16) for one in case.maps], case.masks, case.defects)


def thresholds(maps: Maps) -> NDArray[np.float32]:
    scores = np.unique(np.array(maps))
    return scores[~np.isnan(scores)][::-1]


def pixels(case: Case) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    seen = ~np.isnan(np.array(case.maps))
    return np.array(case.masks)[seen], np.array(case.maps)[seen]


def rate(anomaly_map: NDArray[np.float32], where: NDArray[np.bool_], threshold: float) -> float:
    seen = where & ~np.isnan(anomaly_map)
    return float((anomaly_map[seen] >= threshold).sum() / seen.sum())


def fpr(case: Case, threshold: float) -> float:
    return rate(np.array(case.maps), ~np.array(case.masks), threshold)


def area_to(limit: float, x: list[float], y: list[float]) -> float:
    x, y = [0.0, *x], [0.0, *y]
    first = next(i for i, rate in enumerate(x) if rate >= limit)  # beyond, or just there
    part = (limit - x[first - 1]) / (x[first] - x[first - 1])
    end = y[first - 1] + part * (y[first] - y[first - 1])
    return float(trapezoid([*y[:first], end], [*x[:first], limit]) / limit)


def brute_pro(case: Case) -> tuple[list[float], list[float]]:
    """False positive rate, and mean share of a region that is found, at each threshold."""
    regions = []
    for anomaly_map, mask in zip(case.maps, case.masks, strict=True):
        labels, n_regions = ndimage.label(mask, np.ones((3, 3)))
        for label in range(1, n_regions + 1):
            if (~np.isnan(anomaly_map[labels == label])).any():
                regions.append((anomaly_map, labels == label))
    x, y = [], []
    for threshold in thresholds(case.maps):
        x.append(fpr(case, threshold))
        y.append(float(np.mean([rate(*region, threshold) for region in regions])))
    return x, y


def brute_saturated(case: Case) -> tuple[list[float], list[float]]:
    """False positive rate, and mean over defects of min(pixels found / saturation, 1)."""
    x, y = [], []
    for threshold in thresholds(case.maps):
        overlaps = []
        for anomaly_map, defects in zip(case.maps, case.defects, strict=True):
            for mask, saturation_px in defects:
                n_seen = int((mask & ~np.isnan(anomaly_map)).sum())
                if n_seen:
                    n_found = (anomaly_map[mask] >= threshold).sum()
                    overlaps.append(min(n_found / min(saturation_px, n_seen), 1))
        x.append(fpr(case, threshold))
        y.append(float(np.mean(overlaps)))
    return x, y


def brute_aupro(case: Case, limit: float) -> float:
    """Bergmann et al. 2021, threshold by threshold and region by region."""
    return area_to(limit, *brute_pro(case))


def brute_spro(case: Case, limit: float) -> float:
    """Bergmann et al. 2022, threshold by threshold and defect by defect."""
    return area_to(limit, *brute_saturated(case))


def brute_aupimo(case: Case, limits: tuple[float, float]) -> list[float]:
    """Bertoldo et al. 2024: each image's TPR over the logarithm of the shared FPR, averaged."""
    images = list(zip(case.maps, case.masks, strict=True))
    normal = [image for image in images if not image[1].any() and not np.isnan(image[0]).all()]
    scores = thresholds(case.maps)
    shared = np.array([np.mean([rate(m, ~mask, t) for m, mask in normal]) for t in scores])
    low, high = np.log(limits)
    log_shared = np.log(shared[shared > 0])
    inside = log_shared[(low < log_shared) & (log_shared < high)]
    borders = np.unique([low, high, *inside])
    values = []
    for anomaly_map, mask in images:
        if not (mask & ~np.isnan(anomaly_map)).any():
            values.append(np.nan)
            continue
        tpr = np.array([rate(anomaly_map, mask, threshold) for threshold in scores])
        at_zero = tpr[shared == 0].max(initial=0)
        middles = (borders[:-1] + borders[1:]) / 2  # a line's mean is that of its middle
        heights = np.interp(middles, log_shared, tpr[shared > 0])
        heights[middles < log_shared[0]] = at_zero
        values.append(float((np.diff(borders) * heights).sum() / (high - low)))
    return values


def aupro(metrics: PixelMetrics, limit: float, order: Order = "tied") -> NDArray[np.float64]:
    return metrics.measure(lambda sums, order: sums.aupro(limit, order), order=order)


def spro(metrics: PixelMetrics, limit: float = 0.05) -> NDArray[np.float64]:
    return metrics.measure(lambda sums, order: sums.spro(limit, order))


def aupimo(
    metrics: PixelMetrics, limits: tuple[float, float], order: Order = "tied"
) -> NDArray[np.float64]:
    return metrics.measure(lambda sums, order: sums.aupimo(limits, order), order=order)


def aupimo_images(
    metrics: PixelMetrics,
    limits: tuple[float, float],
    weights: NDArray[np.integer] | None = None,
    order: Order = "tied",
) -> NDArray[np.float64]:
    return metrics.measure(lambda sums, order: sums.aupimo_images(limits, order), weights, order)


def every(metrics: PixelMetrics, order: Order) -> dict[str, NDArray[np.float64]]:
    some = metrics.resampled(None, order)
    return some | {
        "aupimo_wide": aupimo(metrics, WIDE, order),
        "aupimo_images": aupimo_images(metrics, WIDE, order=order),
        "aupro_100": aupro(metrics, 1.0, order),
    }


@given(case=CASES)
def test_pixel_metrics_equal_scikit_learn(case: Case) -> None:
    labels, scores = pixels(case)
    metrics = PixelMetrics(case.counts())
    f1, threshold = brute_f1_max(labels, scores)
    found = metrics.metrics()
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert found["pixel_average_precision"] == pytest.approx(
        average_precision_score(labels, scores), abs=1e-12
    )
    assert found["pixel_f1_max"] == pytest.approx(f1, abs=1e-12)
    assert metrics.f1_threshold() == threshold == ImageMetrics.of(labels, scores).f1_threshold()


@given(case=CASES, limit=st.sampled_from([0.05, 0.3, 1.0]))
def test_aupro_and_spro_are_those_of_the_papers(case: Case, limit: float) -> None:
    metrics = PixelMetrics(case.counts(saturated=True))
    assert aupro(metrics, limit) == pytest.approx(brute_aupro(case, limit), abs=1e-12)
    assert spro(metrics, limit) == pytest.approx(brute_spro(case, limit), abs=1e-12)


@given(case=CASES, limits=st.sampled_from([(1e-5, 1e-4), (0.001, 0.2), WIDE, (0.3, 1.0)]))
def test_aupimo_is_that_of_the_paper(case: Case, limits: tuple[float, float]) -> None:
    metrics = PixelMetrics(case.counts())
    expected = brute_aupimo(case, limits)
    np.testing.assert_allclose(aupimo_images(metrics, limits), expected, atol=1e-12)
    assert aupimo(metrics, limits) == pytest.approx(np.nanmean(expected), abs=1e-12)


@given(case=CASES)
def test_streaming_is_exact_on_rounded_scores_and_bounds_the_others(case: Case) -> None:
    streaming = PixelMetrics(case.counts(exact=False, saturated=True))
    exact = every(PixelMetrics(case.counts(saturated=True)), "tied")
    of_rounded = every(PixelMetrics(rounded(case).counts(saturated=True)), "tied")
    tied, worst, best = (every(streaming, order) for order in ("tied", "worst", "best"))
    for name, value in exact.items():
        np.testing.assert_allclose(tied[name], of_rounded[name], atol=1e-12, err_msg=name)
        assert not (worst[name] > value + 1e-12).any(), name
        assert not (best[name] < value - 1e-12).any(), name
    for name, pair in streaming.bounds().items():
        assert pair == (worst[name], best[name])


@given(case=CASES)
def test_auroc_is_off_by_half_the_chance_to_share_a_bin(case: Case) -> None:
    labels, scores = pixels(case)
    metrics = PixelMetrics(case.counts(exact=False))
    bins = scores.astype(np.float16)
    shared = np.equal.outer(bins[labels], bins[~labels]).mean()
    tied = metrics.metrics()["pixel_auroc"]
    worst, best = metrics.bounds()["pixel_auroc"]
    assert best - tied == pytest.approx(shared / 2, abs=1e-12)
    assert tied - worst == pytest.approx(shared / 2, abs=1e-12)


@given(case=CASES, exact=st.booleans())
def test_f1_threshold_is_within_a_2048th(case: Case, exact: bool) -> None:
    _, scores = pixels(case)
    threshold = PixelMetrics(case.counts(exact=exact)).f1_threshold()
    assert np.abs(scores - threshold).min() <= abs(threshold) * 2.0**-11 * (not exact)


@given(case=CASES, exact=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_weights_are_repeated_images(case: Case, exact: bool, seed: int) -> None:
    weights = np.random.default_rng(seed).integers(0, 3, (3, len(case.maps)))
    weights[0, :2] = 1
    metrics = PixelMetrics(case.counts(exact=exact, saturated=True))
    resampled = metrics.resampled(weights)
    images = aupimo_images(metrics, WIDE, weights)
    for row, times in enumerate(weights):
        places = np.repeat(np.arange(times.size), times).tolist()
        repeated = Case(*([part[i] for i in places] for part in vars(case).values()))
        alone = PixelMetrics(repeated.counts(exact=exact, saturated=True))
        for name, value in alone.resampled(None).items():
            np.testing.assert_allclose(resampled[name][row], value, atol=1e-12, err_msg=name)
            one = metrics.resampled(times)[name]
            np.testing.assert_allclose(one, value, atol=1e-12, err_msg=name)
        of_images = aupimo_images(alone, WIDE)
        np.testing.assert_allclose(images[row][places], of_images, atol=1e-12)


@pytest.mark.parametrize("wide", [0, 1 << 16])
def test_resamples_in_chunks_are_those_at_once(monkeypatch: pytest.MonkeyPatch, wide: int) -> None:
    case = make_case(6, "spread", 0.8, 1)
    weights = bootstrap_weights([mask.any() for mask in case.masks], 20)
    counts = case.counts(exact=False, saturated=True)
    at_once = PixelMetrics(counts).resampled(weights)
    monkeypatch.setattr("padim.metrics.pixels.LARGE_BYTES", 1)
    monkeypatch.setattr("padim.metrics.resamples._FEW", 1)
    monkeypatch.setattr("padim.metrics.bins._BLOCK_BYTES", 1)
    monkeypatch.setattr("padim.metrics.bins._WIDE", wide)
    for name, values in PixelMetrics(counts).resampled(weights).items():
        assert values.shape == (20,)
        np.testing.assert_allclose(values, at_once[name], atol=1e-12)


def test_counts_that_no_block_holds_are_written_out_once_for_many_resamples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = make_case(6, "spread", 0.8, 1)
    counts = case.counts(exact=False, saturated=True)
    monkeypatch.setattr("padim.metrics.bins._BLOCK_BYTES", 1)
    monkeypatch.setattr("padim.metrics.pixels.SMALL_BYTES", 1)
    written: list[Rows] = []

    def write_out(rows: Rows, column: NDArray[np.intp], n_columns: int) -> Iterator[Block]:
        written.append(rows)
        return blocks(rows, column, n_columns)

    blocks = Rows.blocks
    monkeypatch.setattr(Rows, "blocks", write_out)
    metrics = PixelMetrics(counts)
    n_written = []
    for n_resamples in (1, 200):
        metrics.resampled(bootstrap_weights(counts.is_anomalous, n_resamples))
        n_written.append(len(written))
        written.clear()
    assert n_written[0] == n_written[1] > 0


def test_what_is_no_weight_order_or_area_is_refused() -> None:
    metrics = PixelMetrics(make_case(6, "spread", 0.8, 1).counts(exact=False, saturated=True))
    for weight in (-1.0, np.nan, np.inf):
        with pytest.raises(UsageError, match="A weight is negative or no number"):
            metrics.resampled(np.full(6, weight))
    with pytest.raises(UnknownNameError, match=r"no order 'wrst'\. Did you mean 'worst'\?"):
        metrics.resampled(None, "wrst")
    for limit in (0.0, 2.0):
        with pytest.raises(UsageError, match=r"needs to be of a part of 0 to 1\."):
            metrics.measure(lambda sums, order, limit=limit: sums.aupro(limit, order))
    with pytest.raises(UsageError, match="A curve has 2 points at least, but 1 are asked for"):
        metrics.curves(1)
    assert {len(values) for values in metrics.resampled(np.empty((0, 6))).values()} == {0}


def one_defect() -> Case:
    """Ten pixels, two of them a defect; one normal pixel is between, one is above."""
    scores = np.array([[9.0, 8, 7, 5, 4, 3, 2, 1, 0.5, 0.25]], np.float32)
    mask = np.zeros((1, 10), np.bool_)
    mask[0, [1, 2]] = True
    normal = np.arange(10, dtype=np.float32)[None] / 1.1
    return Case([normal, scores], [np.zeros((1, 10), np.bool_), mask], [[], [(mask, 1.0)]])


def test_a_case_by_hand() -> None:
    metrics = PixelMetrics(one_defect().counts(saturated=True))
    # Normal, descending: 9, 8.18 | 8 | 7.27 | 7 | 15 more. 18 normal pixels.
    found = metrics.metrics()
    assert found["pixel_auroc"] == pytest.approx((16 + 15) / 36)
    assert found["pixel_average_precision"] == pytest.approx((1 / 3 + 2 / 5) / 2)
    assert found["pixel_f1_max"] == pytest.approx(4 / 7)
    assert metrics.f1_threshold() == 7
    # Heights 0, 0, 0.5, 1 at 1, 2, 3, 4 eighteenths and on: up at 2/18 by half, at 3/18 by half.
    limit = 6 / 18
    assert aupro(metrics, limit) == pytest.approx((0.5 * 1 + 1.0 * 3) / 6)
    # Saturated by one pixel: up at 2/18 by all.
    assert spro(metrics, limit) == pytest.approx(4 / 6)
    # Shared rates 0.1 at 8.18, 0.2 at 7.27; found are 0 of 2, then 1 of 2 at 8, then 2 at 7.
    assert aupimo(metrics, (0.1, 0.2)) == pytest.approx(0.5)
    assert aupimo(metrics, (0.2, 0.4)) == pytest.approx(1)
    assert aupimo(metrics, (1e-5, 1e-4)) == 0
    images = aupimo_images(metrics, (0.1, 0.2))
    assert np.isnan(images[0])
    assert images[1] == pytest.approx(0.5)


def test_a_curve_is_interpolated_at_the_limit() -> None:
    # The defect ties with half of the normal pixels: a straight line from (0, 0) to (0.5, 1).
    scores = np.array([[1.0, 1, 1, 0, 0]], np.float32)
    mask = np.array([[True, False, False, False, False]])
    metrics = PixelMetrics(MapCounts.exact([scores], [mask]))
    assert aupro(metrics, 0.25) == pytest.approx(0.25)
    assert aupro(metrics, 0.25, order="worst") == 0
    assert aupro(metrics, 0.25, order="best") == 1
    assert aupro(metrics, 1.0) == pytest.approx(0.75)


def test_perfect_maps_reach_one_and_never_more() -> None:
    generator = np.random.default_rng(0)
    maps, masks = [], []
    for i in range(7):
        mask = np.zeros((13, 17), np.bool_)
        mask[: i % 3 * 5 : 5, ::3] = True
        maps.append((generator.random(mask.shape) + 1.5 * mask).astype(np.float32))
        masks.append(mask)
    metrics = PixelMetrics(MapCounts.exact(maps, masks))
    assert set(metrics.metrics().values()) == {1.0}
    weights = generator.integers(1, 4, (50, 7)) / 3
    for values in metrics.resampled(weights).values():
        assert (values <= 1).all()
        np.testing.assert_allclose(values, 1)


def test_constant_maps_are_chance() -> None:
    mask = np.zeros((4, 5), np.bool_)
    mask[0, 0] = True
    maps = [np.full((4, 5), 3, np.float32)] * 2
    found = PixelMetrics(MapCounts.exact(maps, [None, mask])).metrics()
    assert found["pixel_auroc"] == 0.5
    assert found["pixel_average_precision"] == 1 / 40
    assert found["pixel_f1_max"] == 2 / 41
    assert found["aupro_30"] == pytest.approx(0.15)
    assert found["aupimo"] == 0


@pytest.mark.parametrize("exact", [True, False])
def test_a_missing_class_gives_none(exact: bool) -> None:
    scores = np.ones((3, 3), np.float32)
    everywhere = np.ones((3, 3), np.bool_)
    for maps, masks in (([], []), ([scores], [None]), ([scores], [everywhere])):
        counts = MapCounts.exact(maps, masks) if exact else MapCounts()
        if not exact:
            for anomaly_map, mask in zip(maps, masks, strict=True):
                counts.add(anomaly_map, mask)
        metrics = PixelMetrics(counts)
        assert set(metrics.metrics().values()) == {None}
        assert set(metrics.bounds().values()) == {None}
        assert np.isnan(metrics.f1_threshold())
        assert np.isnan(spro(metrics))


@given(case=CASES, is_anomalous=st.booleans())
def test_an_image_of_nan_alone_matters_to_no_metric(case: Case, is_anomalous: bool) -> None:
    counts = case.counts(exact=False, saturated=True)
    before = PixelMetrics(counts).metrics()
    counts.add(np.full((8, 9), np.nan, np.float32), is_anomalous=is_anomalous)
    assert PixelMetrics(counts).metrics() == pytest.approx(before, abs=1e-12)


def test_what_hangs_on_normal_images_is_none_without_any() -> None:
    mask = np.eye(3, dtype=np.bool_)
    found = PixelMetrics(MapCounts.exact([np.ones((3, 3), np.float32)], [mask])).metrics()
    assert found["aupimo"] is None
    assert found["aupro_30"] == pytest.approx(0.15)


def test_a_class_that_no_draw_has_gives_nan_there_alone() -> None:
    case = one_defect()
    values = PixelMetrics(case.counts()).resampled(np.array([[1, 1], [1, 0]]))
    for value in values.values():
        assert np.isnan(value).tolist() == [False, True]


def test_weights_of_other_images_are_refused() -> None:
    metrics = PixelMetrics(one_defect().counts())
    with pytest.raises(ShapeError, match=r"shape \(3,\), but need \(2,\) or \(B, 2\)"):
        metrics.resampled(np.ones(3))


@given(case=CASES)
def test_curves_are_those_of_scikit_learn_and_of_the_paper(case: Case) -> None:
    found = PixelMetrics(case.counts()).curves(2000)
    fpr, tpr, _ = roc_curve(*pixels(case), drop_intermediate=False)
    np.testing.assert_allclose(found["pixel"], [fpr, tpr], atol=1e-12)
    x, y = brute_pro(case)
    np.testing.assert_allclose(found["pro"], [[0, *x], [0, *y]], atol=1e-12)


@given(case=CASES, n_points=st.integers(3, 30))
def test_a_thinned_curve_is_part_of_the_whole_one(case: Case, n_points: int) -> None:
    metrics = PixelMetrics(case.counts())
    whole, thinned = metrics.curves(2000), metrics.curves(n_points)
    for name, axes in thinned.items():
        points = list(zip(*(axis.tolist() for axis in axes), strict=True))
        assert set(points) <= set(zip(*(axis.tolist() for axis in whole[name]), strict=True))
        assert len(points) == min(n_points, len(whole[name][0]))
        assert points[0] == (0, 0)
        assert points[-1] == pytest.approx((1, 1))


def apart(metrics: PixelMetrics) -> dict[str, NDArray[np.float64]]:
    """How far the best lies above the worst, of every metric."""
    worst, best = every(metrics, "worst"), every(metrics, "best")
    return {name: best[name] - worst[name] for name in best}


@given(case=CASES)
def test_bounds_of_average_precision_and_f1_are_what_a_bin_can_do(case: Case) -> None:
    labels, scores = pixels(rounded(case))
    n_anomalous = labels.sum()
    lost, most = 0.0, 0.0
    for threshold in np.unique(scores):
        tp_before, fp_before = (part[scores > threshold].sum() for part in (labels, ~labels))
        tp, fp = (part[scores >= threshold].sum() for part in (labels, ~labels))
        if tp > tp_before:
            lowest = tp_before / (tp_before + fp) if tp_before else 0
            lost += (tp - tp_before) / n_anomalous * (tp / (tp + fp_before) - lowest)
        most = max(most, (fp - fp_before) / (tp + fp + n_anomalous))
    found = apart(PixelMetrics(case.counts(exact=False)))
    assert found["pixel_average_precision"] == pytest.approx(lost, abs=1e-12)
    assert 0 <= found["pixel_f1_max"] <= most + 1e-12


@given(case=CASES)
def test_bounds_of_areas_are_what_rises_times_what_the_rate_grows(case: Case) -> None:
    found = apart(PixelMetrics(case.counts(exact=False, saturated=True)))
    of_rounded = rounded(case)
    x, y = brute_pro(of_rounded)
    for name, limit in (("aupro_05", 0.05), ("aupro_30", 0.3), ("aupro_100", 1.0)):
        expected = np.diff([0, *y]) @ np.diff([0, *np.minimum(x, limit)]) / limit
        assert found[name] == pytest.approx(expected, abs=1e-12)
    x, y = brute_saturated(of_rounded)
    expected = np.diff([0, *y]) @ np.diff([0, *np.minimum(x, 0.05)]) / 0.05
    assert found["spro_05"] == pytest.approx(expected, abs=1e-12)


@given(case=CASES)
def test_bounds_of_aupimo_are_on_the_logarithm_of_the_rate(case: Case) -> None:
    found = apart(PixelMetrics(case.counts(exact=False)))
    of_rounded = rounded(case)
    images = list(zip(of_rounded.maps, of_rounded.masks, strict=True))
    normal = [image for image in images if not image[1].any() and not np.isnan(image[0]).all()]
    scores = thresholds(of_rounded.maps)
    shared = [np.mean([rate(m, ~mask, t) for m, mask in normal]) for t in scores]
    expected: dict[str, list[float]] = {"aupimo_wide": [], "aupimo": []}
    for anomaly_map, mask in images:
        if (mask & ~np.isnan(anomaly_map)).any():
            rises = np.diff([0, *(rate(anomaly_map, mask, t) for t in scores)])
            for name, (low, high) in (("aupimo_wide", WIDE), ("aupimo", AUPIMO_FPR)):
                grows = np.diff(np.log(np.clip([0, *shared], low, high))) / np.log(high / low)
                expected[name].append(float(rises @ grows))
    for name, values in expected.items():
        assert found[name] == pytest.approx(np.mean(values), abs=1e-12)
    of_images = found["aupimo_images"]
    np.testing.assert_allclose(of_images[~np.isnan(of_images)], expected["aupimo_wide"], atol=1e-12)


def test_each_metric_has_its_bounds_tested() -> None:
    # Above: inside the bounds are the exact values; and how far apart the bounds are.
    metrics = PixelMetrics(one_defect().counts(exact=False, saturated=True))
    areas, others = ("aupro_05", "aupro_30", "aupimo", "spro_05"), ("average_precision", "f1_max")
    assert set(metrics.bounds()) == {*areas, "pixel_auroc", *(f"pixel_{name}" for name in others)}
    assert list(metrics.bounds()) == [row.name for row in OF_PIXELS]
