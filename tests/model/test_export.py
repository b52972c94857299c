import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import oracle
import pytest
import torch
from PIL import Image

import padim
from padim.cli import main
from padim.errors import ModelFileError, ModelFileHashError, ParityError, ShapeError, UsageError
from padim.images.preprocess import Preprocess
from padim.model import export as exporting
from padim.model.export import export
from padim.model.file import load_state, save_state
from padim.model.opening import verify
from padim.model.scorer import CameraScorer
from padim.scoring.graph_file import write_description
from padim.scoring.parity import N_SAMPLES, TOLERANCE

SIZE_PX = (64, 96)
CAMERA_PX = (150, 130)
FORMATS = {"onnx": "a.onnx", "openvino": "a.xml"}


def write_images(folder: Path, n_images: int, size_px: tuple[int, int]) -> list[Path]:
    paths = []
    for i, pixels in enumerate(oracle.random_images(n_images, size_px, seed=3)):
        paths.append(folder / f"{i}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("images"), 5, SIZE_PX)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    good = list(oracle.random_images(8, SIZE_PX))
    padim.fit(good, size_px=SIZE_PX, recipe="fast", device="cpu", store="float32").save(path)
    return path


@pytest.fixture(scope="module")
def without_samples(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("private") / "model.safetensors"
    save_state(replace(load_state(model), samples=None), path)
    return path


@pytest.fixture(scope="module", params=[*FORMATS])
def exported(
    request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path: Path = tmp_path_factory.mktemp("exported") / FORMATS[request.param]
    export(model, path, to=request.param)
    return path


@pytest.mark.parametrize("n_images", [1, 2, 5])
def test_an_exported_graph_scores_as_torch_does(
    exported: Path, model: Path, images: list[Path], n_images: int
) -> None:
    expected = padim.load(model, engine="torch").predict(images[:n_images])
    for ours, theirs in zip(padim.load(exported).predict(images[:n_images]), expected, strict=True):
        np.testing.assert_allclose(ours.anomaly_map, theirs.anomaly_map, rtol=1e-3)
        np.testing.assert_allclose(ours.score, theirs.score, rtol=1e-3)
        np.testing.assert_allclose(ours.level_scores, theirs.level_scores, rtol=1e-3)
        assert ours.region() == theirs.region()


def test_other_weights_beside_a_graph_are_refused(model: Path, tmp_path: Path) -> None:
    export(model, tmp_path / "a.xml", to="openvino")
    weights = bytearray((tmp_path / "a.bin").read_bytes())
    weights[len(weights) // 2] ^= 1
    (tmp_path / "a.bin").write_bytes(weights)
    with pytest.raises(ModelFileHashError, match=r"a\.bin is not the one that a\.xml was written"):
        padim.load(tmp_path / "a.xml")


def test_a_graph_is_not_exported_again(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a graph already"):
        export(exported, tmp_path / "a.onnx")


def test_nothing_but_the_graph_is_left(exported: Path) -> None:
    names = {path.name for path in exported.parent.iterdir()}
    assert names == ({"a.onnx"} if exported.suffix == ".onnx" else {"a.xml", "a.bin"})


def test_a_graph_tells_nothing_of_where_it_was_made(exported: Path, model: Path) -> None:
    for path in exported.parent.iterdir():
        content = path.read_bytes()
        for told in (Path(padim.__file__).parent, model.parent, Path.home()):
            assert str(told).encode() not in content


def test_a_graph_is_verified_on_the_samples_that_it_brings(exported: Path) -> None:
    parity = verify(exported)
    assert parity.n_images == N_SAMPLES
    assert 0 < parity.map_error < TOLERANCE["float32"]
    assert parity.score_error < TOLERANCE["float32"]


def test_products_in_bfloat16_stay_close(exported: Path) -> None:
    parity = verify(exported, engine="openvino", precision="bfloat16")
    assert 2e-4 < parity.map_error < TOLERANCE["bfloat16"]
    assert parity.score_error < TOLERANCE["bfloat16"]


def test_a_graph_that_scores_otherwise_here_fails_verification(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TOLERANCE, "float32", 1e-9)
    with pytest.raises(ParityError, match=r"a\.\w+ differs from torch by .* but may by 1e-09"):
        verify(exported)


@pytest.mark.parametrize("picture", ["!", "iVBORw0KGgo=", None])
def test_samples_that_are_damaged_are_said_to_be(
    exported: Path, tmp_path: Path, picture: str | None
) -> None:
    path = shutil.copytree(exported.parent, tmp_path / "copy") / exported.name
    facts = dict(padim.load(path).description.facts)
    facts["samples"] = [facts["samples"][0] | {"image": picture}]
    write_description(path, json.dumps(facts))
    with pytest.raises(ModelFileError, match=r"samples that cannot be read|at samples\[0\]\.image"):
        verify(path)


@pytest.mark.parametrize("to", FORMATS)
def test_a_graph_takes_the_images_of_a_camera(model: Path, tmp_path: Path, to: str) -> None:
    path = tmp_path / FORMATS[to]
    pictures = write_images(tmp_path, 3, CAMERA_PX)
    export(model, path, pictures, to=to, camera_px=CAMERA_PX)
    predictor = padim.load(path)
    expected = padim.load(model, engine="torch").predict(pictures)
    for ours, theirs in zip(predictor.predict(pictures), expected, strict=True):
        np.testing.assert_allclose(ours.score, theirs.score, rtol=1e-3)
        assert ours.source_map().shape == CAMERA_PX
    assert verify(path).n_images == N_SAMPLES
    with pytest.raises(ShapeError, match=r"shape \(8, 8, 3\), .* needs \(150, 130, 3\)"):
        predictor.predict(np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize("source_px", [(150, 130), (40, 300), (64, 96), (80, 80), (33, 47), (1, 1)])
@pytest.mark.parametrize("crop_fraction", [1, 0.875])
@pytest.mark.parametrize("resample", ["bilinear", "lanczos"])
def test_a_camera_resizes_as_pillow_does(
    source_px: tuple[int, int], crop_fraction: float, resample: str
) -> None:
    class Seen(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images

    size_px = SIZE_PX if crop_fraction == 1 else (64, 64)
    preprocess = Preprocess(size_px, crop_fraction, resample, (0.5,) * 3, (0.5,) * 3)
    pixels = oracle.random_images(2, source_px)
    pixels[1] = np.where(pixels[1] > 127, 255, 0)  # edges that overshoot
    ours = CameraScorer(Seen(), preprocess, source_px)(torch.from_numpy(pixels)).numpy()
    theirs = np.stack([preprocess(image) for image in pixels])
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("n_batch", [1, 4])
def test_a_graph_of_fixed_batch_takes_any_number(
    model: Path, images: list[Path], tmp_path: Path, n_batch: int
) -> None:
    export(model, tmp_path / "a.onnx", n_batch=n_batch)
    predictor = padim.load(tmp_path / "a.onnx")
    assert predictor.n_batch == n_batch
    expected = [p.score for p in padim.load(model, engine="torch").predict(images)]
    found = [p.score for p in predictor.predict(images)]
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_rows_are_stored_in_half_the_bytes(exported: Path, model: Path, tmp_path: Path) -> None:
    assert export(model, tmp_path / exported.name, store="float32").map_error < 1e-3
    n_bytes = {
        store: sum(path.stat().st_size for path in folder.iterdir())
        for store, folder in (("float16", exported.parent), ("float32", tmp_path))
    }
    pyramid = load_state(model).pyramid
    finest = [head.levels[-1] for head in pyramid.heads]
    # Above the diagonal
    zeros = sum(one.n_cells * one.n_dims * (one.n_dims - 1) // 2 for one in finest)
    saved = 2 * (pyramid.n_entries - zeros)
    assert n_bytes["float32"] - n_bytes["float16"] == pytest.approx(saved, rel=0.01)


def test_the_graph_describes_itself(model: Path, images: list[Path], tmp_path: Path) -> None:
    export(model, tmp_path / "a.onnx", images)
    stored = {p.key: p.value for p in onnx.load(tmp_path / "a.onnx").metadata_props}
    description = json.loads(stored["padim"])
    state = load_state(model)
    said = json.loads(json.dumps(state.metadata()))
    assert said.pop("calibration").items() <= description["calibration"].items()
    assert description.items() >= said.items()
    assert len(description["compared_sha256"]) == len(images)
    assert description["store"] == "float16"
    assert len(description["samples"]) == N_SAMPLES


def test_a_graph_that_scores_otherwise_is_not_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = exporting.write_onnx

    def write_another(graph: torch.nn.Module, *arguments: object) -> None:
        graph.get_buffer("finish.postprocess.rows").mul_(1.002)
        write(graph, *arguments)

    monkeypatch.setattr(exporting, "write_onnx", write_another)
    (tmp_path / "a.onnx").write_bytes(b"before")
    with pytest.raises(ParityError, match=r"would differ from torch by 2\.\de-03 in the map"):
        export(model, tmp_path / "a.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"a.onnx", ".a.onnx.lock"}
    assert (tmp_path / "a.onnx").read_bytes() == b"before"


def test_weights_beyond_two_gigabytes_go_beside_the_graph(
    model: Path, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("padim.features.onnx._LARGEST_PROTOBUF", 1_000_000)
    export(model, tmp_path / "a.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"a.onnx", "a.onnx.data"}
    assert (tmp_path / "a.onnx").stat().st_size < 1_000_000
    assert padim.load(tmp_path / "a.onnx").predict(images[0]).score > 0


def test_images_that_may_not_travel_do_not(
    without_samples: Path, images: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"holds no samples .* Name images with --verify"):
        export(without_samples, tmp_path / "a.onnx")
    assert export(without_samples, tmp_path / "a.onnx", images).n_images == len(images)
    assert not padim.load(tmp_path / "a.onnx").description.facts["samples"]
    with pytest.raises(UsageError, match="brings no samples"):
        verify(tmp_path / "a.onnx")


def test_a_model_of_another_precision_is_not_exported(model: Path, tmp_path: Path) -> None:
    state = load_state(model)
    encoder = replace(state.encoder, precision="bfloat16")
    save_state(replace(state, encoder=encoder), tmp_path / "m.safetensors")
    with pytest.raises(UsageError, match="was fitted in bfloat16"):
        export(tmp_path / "m.safetensors", tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.onnx", {"to": "tensorrt"}, "There is no format 'tensorrt'"),
        ("a.onnx", {"store": "int8"}, "There is no store 'int8'"),
        ("a.onnx", {"to": "openvino"}, r"needs \.xml\. Try .*a\.xml"),
        ("a.onnx", {"n_batch": 0}, "needs to be 1 or more"),
        ("a.onnx", {"camera_px": (0, 8)}, "The camera is 0x8 px"),
    ],
)
def test_impossible_exports_are_refused(
    model: Path, tmp_path: Path, name: str, options: dict, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        export(model, tmp_path / name, **options)
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
    assert 0 < document["map_error"] < 1e-3
    assert main(["verify", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_images"] == N_SAMPLES
    assert main(["info", str(out), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["runs_on"] == "onnxruntime"
    assert described["n_samples"] == N_SAMPLES
    assert main(["verify", str(out)]) == 0
    assert "On 4 images it differs from torch by at most" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"--verify": "nowhere"}, 2),
        ({"--batch": "many"}, 2),
        ({"--to": "tensorrt"}, 2),
        ({"--camera": "large"}, 2),
    ],
)
def test_export_command_refuses_wrong_usage(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, str],
    status: int,
) -> None:
    given = {"-o": str(tmp_path / "a.onnx")} | changed
    words = [word for pair in given.items() for word in pair]
    assert main(["export", str(model), *words]) == status
    assert capsys.readouterr().err.startswith("error: ")
    assert not list(tmp_path.iterdir())
