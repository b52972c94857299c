"""Figures that a page repeats are those of the benchmarks."""

import json
from typing import Any

import numpy as np
from pages import ROOT


def text_of(page: str) -> str:
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


def result(name: str) -> dict[str, Any]:
    path = ROOT / f"benchmarks/results/{name}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def median(value: Any) -> float:
    return float(value["median"] if isinstance(value, dict) else value)


def of_poly_cells(split: str) -> list[dict[str, Any]]:
    rows = result("false_alarms")["rows"]
    (row,) = (r for r in rows if (r["set"], r["n"], r["split"]) == ("poly cells", 300, split))
    rates: list[dict[str, Any]] = row["ways"]["leave-one-out"]["rates"]
    return rates


def test_how_well_thresholds_hold() -> None:
    page = text_of("howto/threshold.md")
    random, neighbours = of_poly_cells("random"), of_poly_cells("consecutive")
    actual = " | ".join(f"{rate['actual']:.1%}" for rate in random)
    errors = " | ".join(f"{100 * rate['standard_error']:.1f}" for rate in random)
    assert f"| false alarms, mean of fifty random splits | {actual} |" in page
    assert f"| standard error | {errors} |" in page
    first, last = ([f"{100 * end:.1f}" for end in random[i]["splits_5_95"]] for i in (0, 3))
    assert f"| {first[0]} to {first[1]}% | | | {last[0]} to {last[1]}% |" in page
    others = [round(100 * rate["actual"], 1) for rate in neighbours]
    said = [64, 39, 25, 13]
    assert f"| fitted on neighbours in the set | {' | '.join(f'{s}%' for s in said)} |" in page
    assert all(abs(a - b) <= 0.55 for a, b in zip(others, said, strict=True))


def test_what_few_images_find() -> None:
    rows = [row for row in result("few_images_report")["rows"] if row["rate"] == 0]

    def mean(rule: str, key: str) -> float:
        own = [list(row[key].values()) for row in rows if row["rule"] == rule]
        return float(np.mean(own))

    page = text_of("explanation/p-value.md")
    (tail,) = (
        np.mean(list(row["alarms"].values()))
        for row in result("few_images_report")["rows"]
        if (row["rule"], row["rate"], row["n"]) == ("Pareto", 0.01, 50)
    )
    assert f"at 50 images, 1% asked for became [{tail:.1f}%]" in page
    alarms, found, odd = (
        [mean(rule, key) for rule in ("rank, capped", "rank")]
        for key in ("alarms", "found", "found_odd")
    )
    assert f"were {alarms[0]:.2f} of the promise ({alarms[1]:.2f} by ranks alone)" in page
    assert f"{found[0]:.0%} of the defects were found ({found[1]:.0%} by ranks)" in page
    assert f"{odd[0]:.0%} were found ({odd[1]:.0%} by ranks)" in page


def test_what_a_region_saves() -> None:
    page = text_of("howto/region.md")
    for row, words in zip(result("roi")["rows"][1:], ("half", "a quarter"), strict=True):
        figures = " | ".join(f"{median(row[f'{of}_ratio']):.2f}" for of in ("file", "fit", "score"))
        assert f"| {words} | {figures} |" in page


def test_what_tiles_take() -> None:
    found = result("large_images")
    tiles = found["tiles_512"]
    page = text_of("howto/large-images.md")
    assert (
        f"the fit took {tiles['fit_s']:.0f} s and {tiles['fit_peak_bytes'] / 1e9:.1f} GB of "
        f"memory, and the file has {tiles['file_bytes'] / 1e9:.1f} GB. The whole at once would "
        f"take {found['whole_peak_bytes_computed'] / 1e9:.0f} GB" in page
    )


def test_what_the_list_of_outliers_finds() -> None:
    page = text_of("howto/good-folder.md")
    rows = result("good_folder")["rows"]
    for words, category in (
        ("monocrystalline cells", "solar_mono"),
        ("polycrystalline cells", "solar_poly"),
        ("magnetic tiles", "magnetic_tile"),
    ):
        none, *planted = (row for row in rows if row["category"] == category)
        shares = [
            sum(draw["n_planted_listed"] for draw in row["draws"])
            / (row["n_planted"] * len(row["draws"]))
            for row in planted
        ]
        listed = none["draws"][0]["n_listed"]
        figures = " | ".join(f"{share:.0%}" for share in shares)
        assert f"| {words} | {listed} of {none['n_good']} | {figures} |" in page


def test_what_a_line_needs() -> None:
    page = text_of("howto/line.md")
    cold, scoring = result("cold_start"), result("scoring")["seconds"]
    together = median(result("processes")["rows"][0]["together_over_alone"])
    for words in (
        f"{cold['installed_bytes']['all'] / 1e6:.0f} MB |",
        f"{median(cold['seconds']['graph']):.1f} s, "
        f"{median(cold['peak_bytes']['graph']) / 1e6:.0f} MB of memory",
        f"{median(scoring['onnxruntime']) * 1e3:.1f} ms (ONNX Runtime)",
        f"{median(scoring['openvino float32']) * 1e3:.1f} ms (OpenVINO)",
        f"{together:.2f} of what one alone does",
    ):
        assert words in page


def test_what_the_hierarchy_saves() -> None:
    page = text_of("explanation/hierarchy.md")
    for row in result("head")["rows"]:
        if row["n_images"] == 1:
            stored = row["stored_bytes"]
            figures = " | ".join(
                f"{stored[name] / 1e6:,.0f} MB"
                for name in ("dense_float32", "shared_float32", "shared_float16")
            )
            times = median(row["dense_over_shared"])
            assert f"{row['n_dims']} dimensions | {figures} | {times:.1f} |" in page
