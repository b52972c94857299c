"""What a CUDA device computes, held against the CPU; ``make gpu`` runs it."""

import copy
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import oracle
import pytest
import torch
from numpy.typing import NDArray
from trees import make_category

import padim
from padim.features.device import computing
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitSettings, settings_with
from padim.model.export import export
from padim.model.file import load_state
from padim.model.opening import verify
from padim.scoring.parity import TOLERANCE
from padim.tensors.file_tensor import write_tensors

SIZE_PX = (64, 64)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]
ENGINES = [
    pytest.param(
        "onnxruntime",
        marks=pytest.mark.skipif(
            torch.cuda.is_available()
            and "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
            reason="onnxruntime-gpu is not installed",
        ),
    ),
    pytest.param(
        "tensorrt",
        marks=pytest.mark.skipif(
            torch.cuda.is_available() and find_spec("tensorrt_libs") is None,
            reason="tensorrt-cu13-libs is not installed",
        ),
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A category, and a model of it that a CPU fitted, as a file and as a graph."""
    folder = tmp_path_factory.mktemp("gpu")
    make_category(folder / "stripes")
    fit(folder, "cpu", "torch").save(folder / "m.safetensors")
    export(folder / "m.safetensors", folder / "m.onnx")
    return folder


def fit(folder: Path, device: str, engine: str) -> padim.PaDiM:
    return padim.fit(folder / "stripes", size_px=SIZE_PX, device=device, engine=engine)


def assert_alike(found: padim.Predictor, expected: padim.Predictor, folder: Path) -> None:
    paths = sorted((folder / "stripes/test").rglob("*.png"))
    close = {"rtol": TOLERANCE["float32"]}
    for ours, theirs in zip(found.predict(paths), expected.predict(paths), strict=True):
        np.testing.assert_allclose(ours.anomaly_map, theirs.anomaly_map, **close)
        np.testing.assert_allclose(ours.score, theirs.score, **close)
        np.testing.assert_allclose(ours.level_scores, theirs.level_scores, **close)


def assert_same_fit(found: padim.PaDiM, folder: Path) -> None:
    expected = padim.load(folder / "m.safetensors", device="cpu", engine="torch")
    assert isinstance(expected, padim.PaDiM)
    assert_alike(found, expected, folder)
    ours, theirs = found.state.calibration, expected.state.calibration
    assert ours is not None
    assert theirs is not None
    np.testing.assert_allclose(ours.image_score, theirs.image_score, rtol=TOLERANCE["float32"])


def test_a_fit_is_that_of_the_cpu(folder: Path) -> None:
    assert_same_fit(fit(folder, "cuda", "torch"), folder)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_fit_in_a_graph_is_that_of_the_cpu(folder: Path, engine: str) -> None:
    assert_same_fit(fit(folder, "cuda", engine), folder)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["m.onnx", "m.safetensors"])
def test_every_engine_scores_as_the_cpu(folder: Path, name: str, engine: str) -> None:
    expected = padim.load(folder / "m.safetensors", device="cpu", engine="torch")
    assert_alike(padim.load(folder / name, device="cuda", engine=engine), expected, folder)
    if name == "m.onnx":
        assert verify(folder / name, device="cuda", engine=engine).n_images == 4


def test_tiles_are_fitted_as_on_the_cpu(folder: Path) -> None:
    models = [
        padim.fit(
            folder / "stripes",
            size_px=(96, 96),
            tile_px=64,
            tile_overlap_px=32,
            device=device,
            engine="torch",
        )
        for device in ("cuda", "cpu")
    ]
    assert_alike(*models, folder)


@pytest.fixture
def _rounding() -> Iterator[None]:
    """A user who lets torch round."""
    torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.mark.usefixtures("_rounding")
def test_what_others_let_torch_round_is_computed_exactly(folder: Path) -> None:
    assert_same_fit(fit(folder, "cuda", "torch"), folder)
    assert torch.backends.cuda.matmul.allow_tf32


def test_the_same_images_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        fit(folder, "cuda", "torch").save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    pixels = load_state(tmp_path / "one").samples.image
    predictor = padim.load(tmp_path / "one", device="cuda")
    first, *others = (predictor.score(pixels).anomaly_map.tobytes() for _ in range(5))
    assert others == [first] * 4


def test_batches_that_come_again_are_replayed_bit_for_bit(folder: Path) -> None:
    predictor = padim.load(folder / "m.safetensors", device="cuda", engine="torch")
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, 256, (n, *SIZE_PX, 3)).astype(np.uint8) for n in (1, 3, 1, 3, 5)]
    first = [predictor.score(batch) for batch in batches[:2]]
    for _ in range(2):
        with ThreadPoolExecutor(2) as pool:  # a thread that has not computed before
            again = list(pool.map(predictor.score, batches))
        for found, expected in zip(again[:2], first, strict=True):
            for ours, theirs in zip(found, expected, strict=True):
                np.testing.assert_array_equal(ours, theirs)
        kept = [outputs.anomaly_map.copy() for outputs in again]
        predictor.score(batches[-1])
        for outputs, one in zip(again, kept, strict=True):  # nobody else writes there
            np.testing.assert_array_equal(outputs.anomaly_map, one)
    expected = padim.load(folder / "m.safetensors", device="cpu", engine="torch")
    for batch, outputs in zip(batches, again, strict=True):
        theirs = expected.score(batch).anomaly_map
        np.testing.assert_allclose(outputs.anomaly_map, theirs, rtol=TOLERANCE["float32"])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_says_the_same(
    folder: Path, copied: Callable[[padim.Predictor], padim.Predictor]
) -> None:
    predictor = padim.load(folder / "m.safetensors", device="cuda", engine="torch")
    pixels = np.random.default_rng(0).integers(0, 256, (2, *SIZE_PX, 3)).astype(np.uint8)
    expected = [predictor.score(pixels).anomaly_map for _ in range(3)][-1]
    np.testing.assert_array_equal(copied(predictor).score(pixels).anomaly_map, expected)


def test_two_models_may_be_recorded_at_once(folder: Path) -> None:
    predictors = [
        padim.load(folder / "m.safetensors", device="cuda", engine="torch") for _ in range(2)
    ]
    drawn = np.random.default_rng(0)
    batches = [drawn.integers(0, 256, (n, *SIZE_PX, 3)).astype(np.uint8) for n in (1, 2, 3, 4)]
    expected = [predictors[0].score(batch).anomaly_map for batch in batches]

    def score(predictor: padim.Predictor) -> list[NDArray[np.float32]]:
        return [predictor.score(batch).anomaly_map for _ in range(3) for batch in batches]

    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(score, predictors):
            for ours, theirs in zip(found, expected * 3, strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_a_network_with_excitations_gives_the_features_of_the_cpu(tmp_path: Path) -> None:
    name = "efficientnet_b5_ns"
    weights = tmp_path / f"{name}.safetensors"
    write_tensors(dict(oracle.random_trunk(name).network.state_dict()), weights, {})
    images = torch.randint(256, (2, 256, 256, 3), dtype=torch.uint8)
    found = []
    for device in ("cuda", "cpu"):
        asked = settings_with(
            FitSettings(), backbone=name, weights=weights, device=device, engine="torch"
        )
        features = prepare(settings_with(asked, size_px=(256, 256))).features.to(device)
        with computing(torch.device(device)):
            found.append([level.cpu() for level in features(images.to(device))])
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


# A single batch is gone before the moments come.
@pytest.mark.parametrize(("n_images", "most"), [(8, 2.0), (100, 2.5)])
def test_the_memory_of_a_fit_is_forecast(n_images: int, most: float) -> None:
    fitter = prepare(
        settings_with(FitSettings(), size_px=(256, 256), device="cuda", engine="torch")
    )
    drawn = np.random.default_rng(0)
    images = [drawn.integers(0, 256, (256, 256, 3)).astype(np.uint8) for _ in range(n_images)]
    forecast = fitter.forecast((256, 256), n_images).device_bytes
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_reserved()
    fitter.fit(images)
    taken = torch.cuda.max_memory_reserved() - before
    assert taken < forecast < most * taken
