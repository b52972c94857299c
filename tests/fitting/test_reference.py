"""What a fit keeps of its good images for the drift alarm, through files, graphs and changes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle
import pytest
from PIL import Image
from safetensors import safe_open

import padim
from padim.images.camera import MeanImage, Snapshot
from padim.model.file import load_state, save_state
from padim.monitor.order import LIMIT
from padim.scoring.calibration import HELD_OUT
from padim.scoring.reference import Reference, shrink_map

SIZE_PX = (64, 64)


def write(folder: Path, n: int, seed: int) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for i, pixels in enumerate(oracle.random_images(n, SIZE_PX, seed)):
        Image.fromarray(pixels).save(folder / f"{seed}-{i:02d}.png")
    return sorted(folder.glob(f"{seed}-*.png"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write(tmp_path_factory.mktemp("images"), 9, 0)


@pytest.fixture(scope="module")
def model(images: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    settings = {"size_px": SIZE_PX, "device": "cpu", "keep_moments": True}
    padim.fit(images, **settings).save(path, moments=True)
    return path


def copy(model: Path, folder: Path) -> Path:
    for path in model.parent.glob("m.*"):
        shutil.copy(path, folder / path.name)
    return folder / model.name


def reference_of(path: Path) -> Reference:
    calibration = padim.load(path).description.calibration
    assert calibration is not None
    assert calibration.reference is not None
    return calibration.reference


def require_same(one: Reference, other: Reference) -> None:
    for name in ("level_scores", "camera", "coarse_map"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.mean_image is not None
    assert other.mean_image is not None
    np.testing.assert_array_equal(one.mean_image.small, other.mean_image.small)


def test_a_fit_keeps_what_its_images_say_of_the_camera(images: list[Path], model: Path) -> None:
    found = reference_of(model)
    pixels = [np.array(Image.open(path).convert("RGB")) for path in images]
    camera = MeanImage.compare_each([Snapshot.of(one) for one in pixels])
    expected = [[one.grey, one.contrast, one.sharpness, one.shift_px] for one in camera]
    by_grey = np.argsort(found.camera[:, 0])
    expected.sort()
    np.testing.assert_allclose(found.camera[by_grey], expected, rtol=1e-6)
    # Rows go with image scores: those of the first level with those of the whole, image by image.
    state = load_state(model)
    assert state.calibration is not None
    assert len(found.level_scores) == state.calibration.count == 9


def test_the_order_of_the_images_does_not_matter(images: list[Path], model: Path) -> None:
    state = padim.fit(images[::-1], size_px=SIZE_PX, device="cpu").state
    assert state.calibration is not None
    assert state.calibration.reference is not None
    found, expected = state.calibration.reference, reference_of(model)
    np.testing.assert_array_equal(found.camera, expected.camera)
    np.testing.assert_allclose(found.level_scores, expected.level_scores, rtol=1e-5)
    np.testing.assert_allclose(found.coarse_map, expected.coarse_map, rtol=1e-3, atol=1e-3)


def test_a_prediction_says_the_same_as_a_fit(images: list[Path], model: Path) -> None:
    prediction = padim.load(model).predict(images[0])
    pixels = np.array(Image.open(images[0]).convert("RGB"))
    assert prediction.camera == Snapshot.of(pixels).compare(reference_of(model).mean_image)
    row = prediction.to_dict()
    assert json.loads(json.dumps(row)) == row
    expected = prediction.anomaly_map.reshape(8, 8, 8, 8).mean(axis=(1, 3))
    np.testing.assert_allclose(row["coarse_map"], expected, rtol=1e-3)


def test_a_coarse_map_is_0_where_it_does_not_look() -> None:
    whole = np.full((256, 128), 3, np.float32)
    whole[:32] = np.nan
    found = shrink_map(whole)
    assert found[0].tolist() == [0] * 8
    assert found[1:].tolist() == [[3] * 8] * 7


def test_files_and_graphs_bring_it_along(model: Path, tmp_path: Path) -> None:
    save_state(load_state(model), tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == model.read_bytes()
    padim.export(model, tmp_path / "m.onnx")
    require_same(reference_of(tmp_path / "m.onnx"), reference_of(model))


def test_no_picture_travels_where_samples_may_not(images: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    padim.fit(images, size_px=SIZE_PX, device="cpu", keep_samples=False).save(path)
    reference = reference_of(path)
    assert reference.mean_image is None
    assert reference.camera.shape == (9, 3)
    with safe_open(path, framework="np") as file:
        assert "reference/mean_image" not in file.keys()  # noqa: SIM118  # it is no dictionary
    camera = padim.load(path).predict(images[0]).camera
    assert camera is not None
    assert camera.shift_px is None


def test_held_out_images_take_its_place(model: Path, tmp_path: Path) -> None:
    path = copy(model, tmp_path)
    others = write(tmp_path / "more", 12, 1)
    calibrated = padim.calibrate(path, others)
    assert calibrated.decision is not None
    assert calibrated.decision.calibration.source == HELD_OUT
    found = reference_of(path)
    predictions = sorted(calibrated.predict(others), key=lambda one: one.score)
    np.testing.assert_allclose(
        found.level_scores, [one.level_scores for one in predictions], rtol=1e-6
    )
    before = reference_of(model).mean_image
    assert before is not None
    assert found.mean_image is not None
    np.testing.assert_array_equal(found.mean_image.small, before.small)
    monitor = padim.Monitor(calibrated.decision)
    assert monitor.update(predictions[0]).basis == "held-out"


def test_what_changes_a_model_makes_it_stale_or_new(
    images: list[Path], model: Path, tmp_path: Path
) -> None:
    path = copy(model, tmp_path)
    more = write(tmp_path / "more", 3, 2)
    changed = padim.update(path, more)
    assert changed.decision is not None
    assert changed.decision.calibration.stale
    assert padim.Monitor(changed.decision).update(changed.predict(more[0])).basis == "parts"
    changed = padim.forget(path, more[:1], [*images, *more[1:]])
    assert changed.decision is not None
    assert not changed.decision.calibration.stale
    whole = padim.fit([*images, *more[1:]], size_px=SIZE_PX, device="cpu").state.calibration
    assert whole is not None
    assert whole.reference is not None
    found = reference_of(path)
    np.testing.assert_array_equal(found.camera, whole.reference.camera)
    np.testing.assert_allclose(found.level_scores, whole.reference.level_scores, rtol=1e-4)


def test_a_model_of_before_starts_a_monitor_with_nothing(model: Path) -> None:
    decision = padim.load(model).decision
    assert decision is not None
    old = replace(decision, calibration=replace(decision.calibration, reference=None))
    prediction = padim.load(model).predict(np.zeros((64, 64, 3), np.uint8))
    prediction = replace(prediction, decision=None)
    assert padim.Monitor(old).update(prediction).basis == "parts"


def test_a_reference_that_does_not_fit_is_refused(model: Path) -> None:
    state, reference = load_state(model), reference_of(model)
    assert state.calibration is not None
    with pytest.raises(ValueError, match="one row for each image_score"):
        replace(state.calibration, reference=reference.in_order(np.arange(3)))
    for changes in (
        {"mean_image": None},
        {"coarse_map": np.zeros((4, 4), np.float32)},
        {"level_scores": np.array(1, np.float32)},
        {"camera": np.full((9, 4), np.nan, np.float32)},
    ):
        with pytest.raises(ValueError, match="of the reference needs to be finite"):
            replace(reference, **changes)


def test_good_images_that_change_in_their_order_are_told() -> None:
    images = oracle.random_images(60, SIZE_PX)
    images[30:] //= 2
    order = oracle.small_fitter().fit(list(images)).order
    assert order is not None
    assert order.capital > LIMIT
    assert order.since in range(20, 40)
