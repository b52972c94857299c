import json
import threading
from pathlib import Path

import numpy as np
import onnx
import oracle
import pytest
import torch
from PIL import Image

import padim
from padim import export as exporting
from padim.cli import main
from padim.engines import Engine
from padim.errors import ModelFileError, ParityError, PathMissingError, UsageError
from padim.export import TOLERANCE, export
from padim.state import load_state

SIZE_PX = (64, 96)
FORMATS = {"onnx": "a.onnx", "openvino": "a.xml"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    paths = []
    for i, pixels in enumerate(oracle.random_images(5, SIZE_PX, seed=3)):
        paths.append(folder / f"{i}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    good = list(oracle.random_images(8, SIZE_PX))
    padim.fit(good, size_px=SIZE_PX, device="cpu", store="float32").save(path)
    return path


@pytest.fixture(scope="module", params=[*FORMATS])
def exported(
    request: pytest.FixtureRequest,
    model: Path,
    images: list[Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    path: Path = tmp_path_factory.mktemp("exported") / FORMATS[request.param]
    export(model, path, images, to=request.param)
    return path


def seen(images: list[Path]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in images])


@pytest.mark.parametrize("n_images", [1, 2, 5])
def test_an_exported_graph_scores_as_torch_does(
    exported: Path, model: Path, images: list[Path], n_images: int
) -> None:
    expected = padim.load(model, device="cpu").predict(images[:n_images])
    anomaly_map, image_score, level_scores = Engine(exported)(seen(images[:n_images]))
    for i, prediction in enumerate(expected):
        np.testing.assert_allclose(anomaly_map[i], prediction.anomaly_map, rtol=TOLERANCE)
        np.testing.assert_allclose(image_score[i], prediction.score, rtol=TOLERANCE)
        np.testing.assert_allclose(level_scores[i], prediction.level_scores, rtol=TOLERANCE)


def test_nothing_but_the_graph_is_left(exported: Path) -> None:
    names = {path.name for path in exported.parent.iterdir()}
    assert names == ({"a.onnx"} if exported.suffix == ".onnx" else {"a.xml", "a.bin"})


@pytest.mark.parametrize("n_batch", [1, 4])
def test_a_graph_of_fixed_batch_takes_any_number(
    model: Path, images: list[Path], tmp_path: Path, n_batch: int
) -> None:
    export(model, tmp_path / "a.onnx", images, n_batch=n_batch)
    engine = Engine(tmp_path / "a.onnx")
    assert engine.n_batch == n_batch
    expected = padim.load(model, device="cpu").predict(images)
    np.testing.assert_allclose(engine(seen(images))[1], [p.score for p in expected], rtol=TOLERANCE)


def test_rows_are_stored_in_half_the_bytes(model: Path, images: list[Path], tmp_path: Path) -> None:
    n_bytes = {}
    for store in ("float16", "float32"):
        parity = export(model, tmp_path / "a.onnx", images, store=store)
        assert parity.n_images == len(images)
        assert parity.map_error < TOLERANCE
        n_bytes[store] = (tmp_path / "a.onnx").stat().st_size
    n_entries = load_state(model).pyramid.n_entries
    assert n_bytes["float32"] - n_bytes["float16"] == pytest.approx(2 * n_entries, rel=0.01)


def test_the_graph_describes_itself(model: Path, images: list[Path], tmp_path: Path) -> None:
    export(model, tmp_path / "a.onnx", images)
    stored = {p.key: p.value for p in onnx.load(tmp_path / "a.onnx").metadata_props}
    description = json.loads(stored["padim"])
    state = load_state(model)
    assert description.items() >= json.loads(json.dumps(state.metadata())).items()
    assert len(description["compared_sha256"]) == len(images)
    assert description["store"] == "float16"


def test_a_graph_that_scores_otherwise_is_not_kept(
    model: Path, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = exporting._write_onnx

    def write_another(graph: torch.nn.Module, *arguments: object) -> None:
        graph.get_buffer("rows").mul_(1.002)
        write(graph, *arguments)

    monkeypatch.setattr(exporting, "_write_onnx", write_another)
    (tmp_path / "a.onnx").write_bytes(b"before")
    with pytest.raises(ParityError, match=r"differs from torch by 2\.0e-03 in the map"):
        export(model, tmp_path / "a.onnx", images)
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]
    assert (tmp_path / "a.onnx").read_bytes() == b"before"


def test_threads_share_an_engine(exported: Path, images: list[Path]) -> None:
    engine = Engine(exported, n_threads=1)
    pixels = seen(images)
    expected = engine(pixels)[0]
    found: dict[int, np.ndarray] = {}

    def work(i: int) -> None:
        for _ in range(5):
            found[i] = engine(pixels[i : i + 1])[0]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        np.testing.assert_allclose(found[i][0], expected[i], rtol=1e-4)


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_damaged_graph_is_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(b"no graph")
    with pytest.raises(ModelFileError, match=r"is no graph that .* reads\. Export it anew"):
        Engine(tmp_path / f"a{suffix}")


def test_a_missing_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PathMissingError, match="does not exist"):
        Engine(tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.onnx", {"to": "tensorrt"}, "There is no format 'tensorrt'"),
        ("a.onnx", {"store": "int8"}, "There is no store 'int8'"),
        ("a.onnx", {"to": "openvino"}, r"needs \.xml\. Try .*a\.xml"),
        ("a.onnx", {"n_batch": 0}, "needs to be 1 or more"),
    ],
)
def test_impossible_exports_are_refused(
    model: Path, images: list[Path], tmp_path: Path, name: str, options: dict, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        export(model, tmp_path / name, images, **options)
    assert not list(tmp_path.iterdir())


def test_export_command_says_what_it_wrote(
    model: Path, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.onnx"
    arguments = ["export", str(model), "-o", str(out), "--verify", str(images[0].parent), "--json"]
    assert main(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["file_bytes"] == out.stat().st_size
    assert document["n_images"] == len(images)
    assert 0 < document["map_error"] < TOLERANCE


@pytest.mark.parametrize(
    ("changed", "status"),
    [({"--verify": "nowhere"}, 2), ({"--batch": "many"}, 2), ({"--to": "tensorrt"}, 2)],
)
def test_export_command_refuses_wrong_usage(
    model: Path,
    images: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, str],
    status: int,
) -> None:
    given = {"-o": str(tmp_path / "a.onnx"), "--verify": str(images[0])} | changed
    assert (
        main(["export", str(model), *(word for pair in given.items() for word in pair)]) == status
    )
    assert capsys.readouterr().err.startswith("error: ")
    assert not list(tmp_path.iterdir())
