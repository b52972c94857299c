import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_pixels import CASES, Case, make_case

from padim.errors import PathMissingError, ShapeError, UsageError
from padim.images.regions import label_regions
from padim.metrics.bins import bins_of, scores_of
from padim.metrics.counts import MapCounts
from padim.metrics.pixels import PixelMetrics


def contents(counts: MapCounts) -> dict[str, list[object]]:
    rows = (counts.normal, counts.regions, counts.defects)
    return {
        "bins": [bins.tolist() for part in rows for bins in part.bins],
        "counts": [n_px.tolist() for part in rows for n_px in part.counts],
        "images": [counts.region_image, counts.defect_image, counts.is_anomalous],
        "saturation_px": list(counts.saturation_px),
        "levels": [] if counts.levels is None else counts.levels.tolist(),
    }


@given(values=st.lists(st.floats(width=32, allow_nan=False), min_size=1))
def test_bins_keep_the_order_and_round_as_float16_does(values: list[float]) -> None:
    scores = np.array(values, np.float32)
    bins = bins_of(scores, None)
    order = np.argsort(scores, kind="stable")
    assert (np.diff(bins[order].astype(int)) >= 0).all()
    rounded = scores.clip(-65504, 65504).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(scores_of(bins, None), rounded)
    error = np.abs(scores - rounded)
    inside = np.abs(scores) <= 65504
    assert (error[inside] <= np.maximum(np.abs(scores) * 2.0**-11, 2.0**-25)[inside]).all()


@given(case=CASES, exact=st.booleans())
def test_counts_add_up_to_what_is_seen(case: Case, exact: bool) -> None:
    counts = case.counts(exact=exact)
    seen, mask = ~np.isnan(np.array(case.maps)), np.array(case.masks)
    assert counts.count == len(case.maps)
    assert counts.normal.n_px().tolist() == (seen & ~mask).sum(axis=(1, 2)).tolist()
    per_image = np.bincount(counts.region_image, counts.regions.n_px(), minlength=counts.count)
    assert per_image.tolist() == (seen & mask).sum(axis=(1, 2)).tolist()


@given(case=CASES, cuts=st.tuples(st.integers(0, 6), st.integers(0, 6)))
def test_merging_is_associative_and_equals_one_pass(case: Case, cuts: tuple[int, int]) -> None:
    first, second = sorted(cuts)
    parts = [
        Case(case.maps[cut], case.masks[cut], case.defects[cut]).counts(exact=False, saturated=True)
        for cut in (slice(first), slice(first, second), slice(second, None))
    ]
    a, b, c = parts
    whole = contents(case.counts(exact=False, saturated=True))
    assert contents(a.merge(b).merge(c)) == whole
    assert contents(a.merge(b.merge(c))) == whole


@pytest.mark.parametrize("exact", [True, False])
def test_a_file_brings_everything_back(tmp_path: Path, exact: bool) -> None:
    counts = make_case(6, "spread", 0.8, 3).counts(exact=exact, saturated=True)
    assert counts.defects.bins
    counts.save(tmp_path / "a.npz")
    loaded = MapCounts.load(tmp_path / "a.npz")
    assert contents(loaded) == contents(counts)
    assert PixelMetrics(loaded).metrics() == PixelMetrics(counts).metrics()
    loaded.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    loaded.merge(counts).save(tmp_path / "a.npz")
    assert MapCounts.load(tmp_path / "a.npz").count == 12


def test_empty_counts_can_be_saved(tmp_path: Path) -> None:
    MapCounts().save(tmp_path / "new" / "a.npz")
    assert MapCounts.load(tmp_path / "new" / "a.npz").count == 0


def test_what_is_no_file_of_counts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PathMissingError):
        MapCounts.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no zip")
    np.savez(tmp_path / "other.npz", x=np.ones(2))
    np.savez(tmp_path / "newer.npz", format=np.array(99))
    np.savez(tmp_path / "pickled.npz", format=np.array([None], object))
    np.savez(tmp_path / "half.npz", format=np.array(1))
    for name in ("text", "other", "newer", "pickled", "half"):
        with pytest.raises(UsageError, match="not a file of counts that this version can read"):
            MapCounts.load(tmp_path / f"{name}.npz")


def test_labels_serve_as_a_mask() -> None:
    case = make_case(5, "spread", 0.8, 4)
    counts = MapCounts()
    for anomaly_map, mask in zip(case.maps, case.masks, strict=True):
        counts.add(anomaly_map, label_regions(mask)[0])
    assert contents(counts) == contents(case.counts(exact=False))


def test_an_image_whose_mask_shrank_to_nothing_is_not_normal() -> None:
    mask = np.zeros((2, 2), np.bool_)
    scores = np.ones((2, 2), np.float32)
    counts = MapCounts()
    counts.add(scores, mask)
    counts.add(scores, mask, is_anomalous=True)
    assert counts.is_anomalous == [False, True]


def test_scores_below_zero_and_beyond_float16_are_ranked() -> None:
    scores = np.array([[-np.inf, -1e6, -1e-9, -0.0, 0.0, 1e-9, 7e4, np.inf]], np.float32)
    counts = MapCounts()
    counts.add(scores)
    values = scores_of(counts.normal.bins[0], None)
    assert values.tolist() == [-65504, 0, 65504]
    assert counts.normal.counts[0].tolist() == [2, 4, 2]


def refused(match: str, error: type[Exception] = UsageError, **given: object) -> None:
    arguments: dict[str, object] = {"anomaly_map": np.ones((2, 3), np.float32), **given}
    counts = MapCounts()
    with pytest.raises(error, match=match):
        counts.add(**arguments)
    assert counts.count == len(counts.normal) == 0


def test_what_does_not_fit_is_refused_and_nothing_added() -> None:
    mask = np.ones((2, 3), np.bool_)
    refused(r"map has shape \(6,\), but needs two axes", ShapeError, anomaly_map=np.ones(6))
    refused(r"mask has shape \(3, 2\), but needs that of", ShapeError, mask=mask.T)
    refused(r"mask has shape \(3, 2\)", ShapeError, defects=[(mask.T, 1)])
    refused("type uint8, but needs bool", mask=mask.astype(np.uint8))
    refused("saturation is 0 pixels, but needs to be above 0", defects=[(mask, 0)])


def test_labels_of_a_defect_count_as_its_mask() -> None:
    scores, mask = np.arange(12, dtype=np.float32).reshape(3, 4), np.zeros((3, 4), np.int32)
    mask[1, 1:3] = 7
    counts, same = MapCounts(), MapCounts()
    counts.add(scores, defects=[(mask, 2.0)])
    same.add(scores, defects=[(mask != 0, 2.0)])
    assert counts.defects.n_px().tolist() == same.defects.n_px().tolist() == [2.0]
    assert counts.region_image == same.region_image == [0]


def test_maps_masks_and_defects_are_as_many() -> None:
    scores = np.ones((2, 2), np.float32)
    with pytest.raises(ShapeError, match="There are 2 maps, 1 masks, but one of each is needed"):
        MapCounts.exact([scores] * 2, [None])
    with pytest.raises(ShapeError, match="1 masks and 2 lists of defects, but one of each"):
        MapCounts.exact([scores], [None], [[], []])


def test_scores_beside_the_levels_are_refused() -> None:
    for levels in ([], [1.0, 2.0]):
        counts = MapCounts(np.array(levels, np.float32))
        counts.add(np.full((1, 2), np.nan, np.float32))
        with pytest.raises(UsageError, match="none of the levels"):
            counts.add(np.array([[1.5]], np.float32))


def test_counts_over_other_levels_are_not_merged() -> None:
    level = MapCounts(np.ones(1, np.float32))
    for other in (MapCounts(), MapCounts(np.zeros(1, np.float32))):
        for a, b in ((level, other), (other, level)):
            with pytest.raises(UsageError, match="other levels cannot be merged"):
                a.merge(b)


def test_an_image_takes_six_bytes_a_bin() -> None:
    generator = np.random.default_rng(0)

    def megapixel() -> NDArray[np.float32]:
        return generator.gamma(8, 1, (1024, 1024)).astype(np.float32)

    counts = MapCounts()
    counts.add(megapixel())
    tracemalloc.start()
    try:
        for _ in range(3):
            counts.add(megapixel())
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    n_bins = sum(bins.size for bins in counts.normal.bins[1:])
    assert held < 6 * n_bins + 20_000
    assert n_bins < 3 * 8_000
