import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import make_category, striped

import padim
from padim.errors import DatasetError, MemoryLimitError, ShapeError, UnknownNameError

ERRORS = (
    *("DatasetError", "DeviceError", "ImageReadError", "MemoryLimitError", "MissingExtraError"),
    *("ModelFileError", "PadimError", "ParityError", "ShapeError", "UnreachableError"),
    *("UsageError", "WeightsError"),
)


@pytest.fixture(scope="module")
def category(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_category(tmp_path_factory.mktemp("data") / "stripes")


@pytest.fixture(scope="module")
def model(category: Path) -> padim.PaDiM:
    return padim.fit(category, size_px=(64, 64))


def test_public_names_are_these() -> None:
    classes = "FitSettings MapCounts Monitor PaDiM PixelMetrics Prediction Predictor Region"
    functions = (
        "calibrate evaluate export fit forget load merge read_dataset read_map update write_parquet"
    )
    names = {*ERRORS, *classes.split(), *functions.split(), "__version__"}
    assert padim.__all__ == sorted(names)
    assert dir(padim) == padim.__all__
    for name in padim.__all__:
        assert name == "__version__" or getattr(padim, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'fitt'"):
        padim.fitt  # noqa: B018  # the access is what is tested


def test_a_model_file_without_torch_names_the_extra(model: padim.PaDiM, tmp_path: Path) -> None:
    model.save(tmp_path / "m.safetensors")
    # An import that is blocked stands in for a package that is not installed.
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import padim\n"
        "load = lambda: padim.load('m.safetensors')\n"
        "for use in (load, lambda: padim.fit, lambda: padim.PaDiM):\n"
        "    try:\n"
        "        use()\n"
        "    except padim.MissingExtraError as error:\n"
        "        assert 'padim-efficientnet[fit]' in str(error), error\n"
        "    else:\n"
        "        raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="torch's OpenMP is another one there")
@pytest.mark.parametrize(("policy", "spins"), [(None, False), ("ACTIVE", True)])
def test_threads_of_torch_do_not_spin_unless_asked_to(policy: str | None, spins: bool) -> None:
    own = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
    asked = {} if policy is None else {"OMP_WAIT_POLICY": policy}
    code = "import padim, torch"
    said = subprocess.run(
        [sys.executable, "-c", code],
        env={**own, **asked, "OMP_DISPLAY_ENV": "VERBOSE"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert ("GOMP_SPINCOUNT = '0'" not in said.stderr) == spins, said.stderr


@pytest.mark.parametrize(
    ("code", "asked", "found"),
    [("import padim", None, "4"), ("import padim", "20", "20"), ("import numpy, padim", None, "")],
)
def test_threads_of_numpy_do_not_spin_unless_asked_to(
    code: str, asked: str | None, found: str
) -> None:
    own = {key: value for key, value in os.environ.items() if not key.startswith("OPENBLAS_")}
    said = subprocess.run(
        [sys.executable, "-c", f"{code}, os; print(os.getenv('OPENBLAS_THREAD_TIMEOUT', ''))"],
        env={**own, **({} if asked is None else {"OPENBLAS_THREAD_TIMEOUT": asked})},
        check=True,
        capture_output=True,
        text=True,
    )
    assert said.stdout.strip() == found


def test_what_fit_and_load_give_is_one_class(
    model: padim.PaDiM, category: Path, tmp_path: Path
) -> None:
    strict = model.at(0.5)
    assert isinstance(strict, padim.PaDiM)
    strict.save(tmp_path / "m.safetensors")
    loaded = padim.load(tmp_path / "m.safetensors")
    assert isinstance(loaded, padim.PaDiM)
    loaded.at(0.5).save(tmp_path / "again.safetensors")
    first, second = (tmp_path / f"{name}.safetensors" for name in ("m", "again"))
    assert first.read_bytes() == second.read_bytes()
    path = category / "test/spot/0.png"
    found = [next(one.stream([path], traced=True)) for one in (strict, loaded.at(0.5))]
    assert found[0].decision.threshold == found[1].decision.threshold
    assert found[0].origin.model_sha256 is None
    assert found[1].origin.model_sha256 == hashlib.sha256(first.read_bytes()).hexdigest()
    assert repr(loaded) == (
        "PaDiM(efficientnet_lite0, standard recipe, 64x64 px, fitted on 6 images; threshold "
        f"{loaded.decision.threshold.score:.4g} at a false-alarm rate of 0.143; onnxruntime)"
    )


def test_one_image_gives_one_prediction_and_a_list_gives_a_list(
    model: padim.PaDiM, category: Path
) -> None:
    path = category / "test/spot/0.png"
    one = model.predict(path)
    assert isinstance(one, padim.Prediction)
    assert one.anomaly_map.shape == (64, 64)
    assert one.source_px == (72, 72)
    assert one.label == "anomalous"
    assert one.p_value == pytest.approx(1 / 7)
    regions, predicted_mask = one.defects(min_region_px=4)
    assert predicted_mask.shape == (64, 64)
    assert predicted_mask[one.anomaly_map.argmax() // 64, one.anomaly_map.argmax() % 64]
    assert regions[0].peak == one.anomaly_map.max()
    assert one.defects(min_region_px=10_000) == ([], pytest.approx(np.zeros((64, 64), np.bool_)))
    image = Image.open(path)
    several = model.predict([path, str(path), image, np.asarray(image)])
    assert [round(p.score / one.score, 5) for p in several] == [1, 1, 1, 1]
    assert [p.path for p in several] == [path, path, None, None]
    assert model.predict([]) == []


def test_the_defect_is_found_and_placed(model: padim.PaDiM, category: Path) -> None:
    good = model.predict(category / "test/good/0.png")
    spot = model.predict(category / "test/spot/0.png")
    assert spot.score > good.score
    ys, xs = np.nonzero(np.asarray(Image.open(category / "ground_truth/spot/0_mask.png")))
    region = spot.region()
    assert abs(region.peak_x - xs.mean()) < 10
    assert abs(region.peak_y - ys.mean()) < 10
    assert spot.source_map().shape == (72, 72)


def test_a_saved_model_says_the_same(model: padim.PaDiM, category: Path, tmp_path: Path) -> None:
    model.save(tmp_path / "m.safetensors")
    loaded = padim.load(tmp_path / "m.safetensors")
    path = category / "test/spot/1.png"
    np.testing.assert_array_equal(loaded.predict(path).anomaly_map, model.predict(path).anomaly_map)


def test_threads_share_a_model(model: padim.PaDiM, category: Path) -> None:
    paths = sorted((category / "test/spot").iterdir()) * 4
    alone = [model.predict(path).score for path in paths]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda path: model.predict(path).score, paths))
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_fit_takes_paths_and_pixels_alike(category: Path) -> None:
    paths = sorted((category / "train/good").iterdir())
    of_paths = padim.fit(paths, size_px=(64, 64))
    of_pixels = padim.fit([np.asarray(Image.open(path)) for path in paths], size_px=(64, 64))
    for a, b in zip(of_paths.state.whitening, of_pixels.state.whitening, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize("n_images", [1, 2])
def test_one_or_two_good_images_are_enough(n_images: int) -> None:
    model = padim.fit([striped(i) for i in range(n_images)], size_px=(64, 64))
    assert model.state.count == n_images
    assert np.isfinite(model.predict(striped(9, spot=True)).anomaly_map).all()


def test_reference_recipe_looks_at_the_centre_only(category: Path) -> None:
    model = padim.fit(category, recipe="reference", size_px=(64, 64))
    source_map = model.predict(category / "test/good/0.png").source_map()
    assert np.isnan(source_map[0]).all()
    assert np.isfinite(source_map[36, 36])


def test_bfloat16_scores_stay_close(category: Path) -> None:
    path = category / "test/spot/0.png"
    exact = padim.fit(category, size_px=(64, 64)).predict(path)
    rough = padim.fit(category, size_px=(64, 64), precision="bfloat16").predict(path)
    assert rough.score == pytest.approx(exact.score, rel=0.2)
    assert rough.score != exact.score


def test_wrong_input_is_refused_with_a_reason(model: padim.PaDiM, category: Path) -> None:
    with pytest.raises(ShapeError, match=r"needs \(height, width\), \(height, width, 3\)"):
        model.predict(np.zeros((8, 8), np.float32))
    with pytest.raises(DatasetError, match="no image to fit on"):
        padim.fit([])
    with pytest.raises(UnknownNameError, match="Did you mean 'resnet18'"):
        padim.fit(category, backbone="resnet")
    with pytest.raises(MemoryLimitError, match=r"may have 1\.00 MB"):
        padim.fit(category, max_memory="1MB")
