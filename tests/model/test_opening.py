"""A model in the user's hands: opened, saved, copied, and what cannot be any of that."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import oracle
import pytest
from PIL import Image

import padim
from padim.errors import PathMissingError, UsageError

SIZE_PX = (64, 64)
TILED = {"size_px": (64, 128), "tile_px": 64, "tile_overlap_px": 0}
LONG = "long" * 100


@pytest.fixture(scope="module")
def model() -> padim.PaDiM:
    return padim.fit(list(oracle.random_images(4, SIZE_PX)), size_px=SIZE_PX, recipe="fast")


@pytest.fixture(scope="module")
def graph(model: padim.PaDiM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graph")
    model.save(folder / "m.safetensors")
    padim.export(folder / "m.safetensors", folder / "m.onnx")
    return folder / "m.onnx"


WAYS: list[Callable[[object], object]] = [
    lambda path: padim.load(path),  # type: ignore[arg-type]  # what is no path is what is tested
    lambda path: padim.export(path, "a.onnx"),  # type: ignore[arg-type]  # no path
    lambda path: padim.export("a.safetensors", path),  # type: ignore[arg-type]  # no path
    lambda path: padim.update(path, "good"),  # type: ignore[arg-type]  # no path
    lambda path: padim.forget(path, "good"),  # type: ignore[arg-type]  # no path
    lambda path: padim.merge("a.safetensors", path, "b.safetensors"),  # type: ignore[arg-type]  # no path
    lambda path: padim.calibrate(path, "good"),  # type: ignore[arg-type]  # no path
]


@pytest.mark.parametrize("use", WAYS, ids=range(len(WAYS)))
@pytest.mark.parametrize("given", [None, 3, "", b"m.safetensors", "a\0b", LONG, f"{LONG}.onnx"])
def test_what_is_no_path_is_said_to_be_none(
    use: Callable[[object], object],
    given: object,
    model: padim.PaDiM,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    model.save("a.safetensors", moments=False)
    with pytest.raises(UsageError, match=r"needs to be the path of a file|no file can be called"):
        use(given)


@pytest.mark.parametrize("use", WAYS[:-1], ids=range(len(WAYS) - 1))
def test_a_model_is_no_path(use: Callable[[object], object], model: padim.PaDiM) -> None:
    with pytest.raises(UsageError, match=r" is PaDiM\(.*, but needs to be the path of a file\."):
        use(model)


@pytest.mark.parametrize("given", [None, 3, "", "a\0b", LONG])
def test_a_model_is_saved_to_a_path_alone(model: padim.PaDiM, given: object) -> None:
    words = r"^The model file is .*(needs to be the path of a file|no file can be called)"
    for moments in (False, True):
        with pytest.raises(UsageError, match=words):
            model.save(given, moments=moments)  # type: ignore[arg-type]  # no path


def test_a_model_without_moments_says_so(model: padim.PaDiM, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^The model has no moments to save.*keep_moments=True"):
        model.save(tmp_path / "m.safetensors", moments=True)
    assert not list(tmp_path.iterdir())


def test_a_picture_is_no_model(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.JPG", "JPEG")
    with pytest.raises(UsageError, match=r"photo\.JPG is an image, not a model\. Load a model"):
        padim.load(tmp_path / "photo.JPG")
    with pytest.raises(PathMissingError):
        padim.load(tmp_path / "other.jpg")


@pytest.mark.parametrize("n_threads", [2.5, "two"])
def test_threads_are_whole(graph: Path, n_threads: object) -> None:
    for path in (graph, graph.with_suffix(".safetensors")):
        with pytest.raises(UsageError, match=r"^The number of threads is .* a whole number"):
            padim.load(path, n_threads=n_threads)  # type: ignore[arg-type]  # no number


def test_a_graph_is_not_saved(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^A graph is a copy of a model, and is not saved\."):
        padim.load(graph).save(tmp_path / "m.safetensors")
    padim.load(graph.with_suffix(".safetensors")).save(tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").is_file()


def in_pieces(one: padim.Predictor) -> padim.Predictor:
    found = pickle.loads(pickle.dumps(one))
    assert isinstance(found, padim.Predictor)
    return found


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, in_pieces])
@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "graph"])
def test_a_copy_says_the_same(
    graph: Path, engine: str, copied: Callable[[padim.Predictor], padim.Predictor]
) -> None:
    if engine == "graph":
        model = padim.load(graph)
    else:
        model = padim.load(graph.with_suffix(".safetensors"), engine=engine)
    images = list(oracle.random_images(2, SIZE_PX, seed=5))
    strict = model.at(0.4)
    found = copied(strict)
    assert type(found) is type(model)
    assert found.decision is not None
    assert strict.decision is not None
    assert found.decision.threshold == strict.decision.threshold
    for ours, theirs in zip(found.predict(images), model.predict(images), strict=True):
        np.testing.assert_array_equal(ours.anomaly_map, theirs.anomaly_map)


def test_a_model_of_tiles_travels_once_it_is_saved(tmp_path: Path) -> None:
    images = list(oracle.random_images(3, (64, 128)))
    model = padim.fit(images, padim.FitSettings(**TILED))  # type: ignore[arg-type]  # a dict of several types
    expected = model.predict(images[0]).anomaly_map
    np.testing.assert_array_equal(copy.deepcopy(model).predict(images[0]).anomaly_map, expected)
    with pytest.raises(UsageError, match=r"still in temporary files.*Save it, and load its file"):
        pickle.dumps(model)
    model.save(tmp_path / "m.safetensors")
    loaded = in_pieces(padim.load(tmp_path / "m.safetensors"))
    np.testing.assert_array_equal(loaded.predict(images[0]).anomaly_map, expected)
