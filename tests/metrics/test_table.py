"""One row for each metric: what is said of it, and that the page of metrics has it."""

from pathlib import Path

from padim.evaluation.run_folder import COLUMNS
from padim.metrics.table import METRICS, OF_IMAGES, OF_PIXELS

PAGE = Path(__file__).parents[2] / "docs/metrics.md"


def test_each_metric_is_defined_on_its_page() -> None:
    definitions, *_ = PAGE.read_text(encoding="utf-8").partition("## Two ways of counting")
    for name, row in METRICS.items():
        assert f"`{name}`" in definitions
        assert row.name == name
        assert row.source


def test_each_metric_is_of_images_or_of_pixels() -> None:
    assert {row.name for row in (*OF_IMAGES, *OF_PIXELS)} == set(METRICS)
    assert not any(row.is_of_pixels for row in OF_IMAGES)
    assert all(row.is_of_pixels for row in OF_PIXELS)


def test_an_oracle_says_so_by_name_and_title() -> None:
    oracles = {name for name, row in METRICS.items() if row.is_oracle}
    assert oracles == {f"image_recall_at_{k}" for k in (0, 1)} | {"image_f1_max", "pixel_f1_max"}
    assert METRICS["image_f1_max"].label == "image_f1_max (oracle)"
    assert METRICS["image_f1_max"].heading == "Image F1-max (oracle)"
    assert METRICS["aupro_30"].label == "aupro_30"


def test_the_columns_of_a_table_are_those_of_before() -> None:
    assert COLUMNS == (
        "category",
        "n_train",
        "n_test",
        "image_auroc",
        "pixel_auroc",
        "image_f1_max",
        "pixel_f1_max",
        "image_average_precision",
        "image_recall_at_0",
        "image_recall_at_1",
        "pixel_average_precision",
        "aupro_30",
        "aupro_05",
        "aupimo",
        "spro_05",
        "fit_s",
        "score_s",
        "fit_peak_bytes",
        "model_bytes",
    )
