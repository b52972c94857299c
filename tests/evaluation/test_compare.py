"""What a comparison of two benchmarks says, of folders that are made up."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from trees import make_record, make_settings

from padim.cli import main
from padim.evaluation.compare import Difference, Pair, compare
from padim.evaluation.record import write_record
from padim.evaluation.run_folder import Results, write_results

N_DRAWN = 1000


def write_run(
    out: Path, drawn: Mapping[str, Mapping[str, NDArray[np.float64]]], size_px: int = 16
) -> Path:
    """Write a benchmark: of each category, the resamples of each metric, whose mean it is."""
    records = []
    for category, of_one in drawn.items():
        metrics = {name: float(values.mean()) for name, values in of_one.items()}
        record = make_record(category, metrics=metrics)
        records.append(replace(record, resampled=dict(of_one)))
        write_record(records[-1], out)
    settings = make_settings() | {"size_px": [size_px, size_px]}
    write_results(Results.of(settings, records, ()), records, out)
    return out


def around(mean: float, spread: float = 1e-3, seed: int = 0) -> NDArray[np.float64]:
    return mean + spread * np.random.default_rng(seed).normal(size=N_DRAWN)


def test_of_many_differences_fewer_hold_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # One that is there, at 12 standard deviations, one at 2.5, and four of nothing but noise.
    means = {"real": 0.012, "lucky": 0.0025} | {f"none{i}": 0.0002 * i for i in range(4)}
    noise = {name: around(0, seed=i) for i, name in enumerate(means)}
    one = {name: {"image_auroc": 0.9 + means[name] + noise[name]} for name in means}
    other = {name: {"image_auroc": np.full(N_DRAWN, 0.9)} for name in means}
    first, second = write_run(tmp_path / "a", one), write_run(tmp_path / "b", other)

    found = compare(first, second)
    assert list(found.categories) == list(means)
    holds = {name: found.categories[name]["image_auroc"].holds for name in means}
    assert holds == {name: name in ("real", "lucky") for name in means}
    together = {name: found.categories[name]["image_auroc"].holds_among_all for name in means}
    assert together == {name: name == "real" for name in means}
    lucky = found.categories["lucky"]["image_auroc"]
    # All but the certain two, real and the mean, are tested beside it: of 7, 5 are left.
    assert lucky.adjusted_p_value == pytest.approx(5 * lucky.p_value)
    assert found.all["image_auroc"].difference == pytest.approx(
        np.mean([found.categories[name]["image_auroc"].difference for name in means])
    )

    assert main(["compare", str(first), str(second)]) == 0
    said = capsys.readouterr().out
    assert "3 of 7 differences hold, each for itself; about 0 of 7 would by chance alone." in said
    assert "2 hold among all 7: by Holm's correction," in said
    assert main(["compare", str(first), str(second), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [document[f"n_{what}"] for what in ("compared", "hold", "hold_among_all")] == [7, 3, 2]
    assert document["categories"]["lucky"]["image_auroc"]["holds"] is True
    assert document["all"]["image_auroc"]["holds_among_all"] is True


def test_what_holds_shows_on_which_side_of_nothing_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"carpet": {"image_auroc": around(0.90002, 1e-6), "aupro_30": around(0.5, 1e-9)}}
    none = {
        "carpet": {
            name: np.full(N_DRAWN, mean)
            for name, mean in (("image_auroc", 0.9), ("aupro_30", 0.5 - 1e-8))
        }
    }
    first, second = write_run(tmp_path / "a", small), write_run(tmp_path / "b", none)
    assert main(["compare", str(first), str(second)]) == 0
    of_images, of_pixels = (
        line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("carpet")
    )
    assert of_images[4:] == ["+0.00002", "[+0.00002,", "+0.00002]", "yes", "yes"]
    # A difference of 1e-8 is that of rounding.
    assert of_pixels[4:] == ["+0.000", "[+0.000,", "+0.000]", "no", "no"]


def test_one_category_is_compared_once(tmp_path: Path) -> None:
    drawn = {"carpet": {"image_auroc": around(0.9), "pixel_auroc": around(0.8)}}
    first, second = write_run(tmp_path / "a", drawn), write_run(tmp_path / "b", drawn, 32)
    found = compare(first, second)
    # The means would be its own again; and pixels of another size are not compared.
    assert [(name, metric) for name, metric, _ in found.lines()] == [("carpet", "image_auroc")]
    assert found.all == found.categories["carpet"]
    assert not found.same_pixels


def test_a_metric_that_one_of_them_lacks_is_left_out(tmp_path: Path) -> None:
    one = {"a": {"image_auroc": around(0.9), "aupro_30": around(0.7)}, "b": {}}
    other = {"a": {"image_auroc": around(0.9)}, "b": {}, "c": {}}
    found = compare(write_run(tmp_path / "a", one), write_run(tmp_path / "b", other))
    assert {name: list(metrics) for name, metrics in found.categories.items()} == {
        "a": ["image_auroc"],
        "b": [],
    }
    assert list(found.all) == ["image_auroc"]
    assert found.in_one == ("c",)


def test_a_difference_alone_is_judged_alone() -> None:
    found = Difference.of(Pair(0.9, 0.8, around(0.1)))
    assert found.holds
    assert found.holds_among_all
    assert found.interval == pytest.approx((0.098, 0.102), abs=3e-4)
    # Resamples on the other side than the difference itself say nothing.
    assert not Difference.of(Pair(0.8, 0.9, around(0.1))).holds
