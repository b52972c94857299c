"""The public door: a model and a category, or where they are, give metrics and intervals."""

from pathlib import Path

import pytest
from trees import make_two_categories

import padim
from padim.datasets import read_category
from padim.errors import DatasetError, PathMissingError
from padim.evaluation.category import evaluate


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_two_categories(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(root: Path) -> padim.PaDiM:
    return padim.fit(root / "carpet", size_px=(64, 64))


def test_paths_and_what_they_hold_give_the_same(
    root: Path, model: padim.PaDiM, tmp_path: Path
) -> None:
    model.save(tmp_path / "carpet.safetensors")
    found = evaluate(model, read_category(root / "carpet"))
    assert found.metrics["image_auroc"] == 1
    assert found.metrics["pixel_auroc"] == pytest.approx(0.997, abs=0.003)
    low, high = found.intervals["pixel_auroc"] or (0, 0)
    assert 0.9 < low < found.metrics["pixel_auroc"] < high <= 1
    for data, more in ((root / "carpet", {}), (str(root), {"category": "carpet"})):
        again = evaluate(tmp_path / "carpet.safetensors", data, **more)
        assert again.metrics == found.metrics
        assert again.intervals == found.intervals
    shown = "image_auroc 1.000, pixel_auroc 0.99"
    assert repr(found).startswith(f"<Evaluation of carpet: 6 images, {shown}")


def test_a_category_without_masks_has_no_metric_of_pixels(root: Path, model: padim.PaDiM) -> None:
    found = evaluate(model, root / "bottle")
    assert found.metrics["pixel_auroc"] is found.intervals["pixel_auroc"] is None
    assert found.metrics["image_auroc"] is not None


def test_what_is_not_there_is_said(root: Path, model: padim.PaDiM, tmp_path: Path) -> None:
    for name in ("train/good", "test"):
        (tmp_path / "empty" / name).mkdir(parents=True)
    with pytest.raises(PathMissingError):
        evaluate(model, tmp_path / "none")
    with pytest.raises(PathMissingError):
        evaluate(tmp_path / "none.safetensors", root / "carpet")
    with pytest.raises(DatasetError):
        evaluate(model, tmp_path / "empty")
