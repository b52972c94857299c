import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import make_category, striped

import padim
from padim.errors import DatasetError, ImageReadError, UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A category with its model, as a file and as a graph, and more good images."""
    root = tmp_path_factory.mktemp("calibrate")
    category = make_category(root / "stripes")
    padim.fit(category, size_px=(64, 64), device="cpu").save(root / "m.safetensors")
    padim.export(root / "m.safetensors", root / "m.onnx")
    (root / "more").mkdir()
    for i in range(20):
        striped(1000 + i).save(root / f"more/{i}.png")
    return root


@pytest.mark.parametrize("name", ["m.safetensors", "m.onnx"])
def test_a_file_is_changed_and_a_loaded_model_is_not(
    folder: Path, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    shutil.copy(folder / name, path)
    before = path.read_bytes()
    loaded = padim.load(path)
    in_memory = padim.calibrate(loaded, folder / "more")
    assert path.read_bytes() == before
    assert type(in_memory) is type(loaded)
    assert loaded.decision is not None
    assert loaded.decision.calibration.source == "leave-one-out"
    in_file = padim.calibrate(path, str(folder / "more"))
    again = padim.load(path)
    for found in (in_memory, in_file, again):
        assert found.decision is not None
        assert found.decision.calibration.source == "held-out"
        assert found.decision.calibration.count == 20
        assert again.decision is not None
        assert found.decision.threshold == again.decision.threshold


def test_a_calibrated_model_is_saved_with_its_thresholds(folder: Path, tmp_path: Path) -> None:
    model = padim.load(folder / "m.safetensors")
    calibrated = padim.calibrate(model, folder / "more", folder / "stripes/test/spot", miss_cost=10)
    assert isinstance(calibrated, padim.PaDiM)
    calibrated.save(tmp_path / "m.safetensors")
    found = padim.load(tmp_path / "m.safetensors").decision
    assert found is not None
    assert calibrated.decision is not None
    assert found.threshold == calibrated.decision.threshold
    assert found.threshold.kind == "cost"
    assert padim.load(folder / "m.safetensors").decision.threshold.kind != "cost"


def test_images_in_memory_calibrate_as_their_files_do(folder: Path) -> None:
    model = padim.load(folder / "m.onnx")
    paths = sorted((folder / "more").iterdir())
    of_files = padim.calibrate(model, paths)
    of_pixels = padim.calibrate(model, [np.asarray(Image.open(path)) for path in paths])
    of_bytes = padim.calibrate(model, [path.read_bytes() for path in paths])
    for found in (of_pixels, of_bytes):
        assert found.decision is not None
        assert of_files.decision is not None
        np.testing.assert_array_equal(
            found.decision.calibration.image_score, of_files.decision.calibration.image_score
        )


def test_what_says_nothing_of_good_images_is_refused(folder: Path, tmp_path: Path) -> None:
    model = padim.load(folder / "m.onnx")
    seen = sorted((folder / "stripes/train/good").iterdir())
    spots = sorted((folder / "stripes/test/spot").iterdir())
    for good in (seen, [path.read_bytes() for path in seen]):
        with pytest.raises(DatasetError, match="The model was fitted on 6 of the 6 images"):
            padim.calibrate(model, good)
    with pytest.raises(DatasetError, match="cannot be good ones as well"):
        padim.calibrate(model, spots, [spots[0]])
    with pytest.raises(DatasetError, match="No image could be read"):
        padim.calibrate(model, [])
    with pytest.raises(UsageError, match="A cost needs to be a number above 0"):
        padim.calibrate(model, spots, miss_cost=float("nan"))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(ImageReadError, match=r"broken\.png"):
        padim.calibrate(model, [*spots, broken])
    left_out: list[ImageReadError] = []
    found = padim.calibrate(
        model, [*spots, broken, tmp_path / "none.png"], unreadable=left_out.append
    )
    assert [error.path for error in left_out] == [broken, tmp_path / "none.png"]
    assert found.decision is not None
    assert found.decision.calibration.count == 3
