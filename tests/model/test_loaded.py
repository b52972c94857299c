"""What is loaded stays as it was, whatever becomes of its file meanwhile; a graph has a seal."""

import json
import pickle
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import oracle
import pytest
import torch
from onnx import TensorProto, helper

import padim
from padim.cli import main
from padim.errors import ModelFileError, ModelFileHashError
from padim.files import sha256
from padim.fitting.settings import FitSettings
from padim.model.file import load_moments, load_state
from padim.model.pair import moments_path
from padim.scoring.graph import Graph
from padim.scoring.graph_file import part_beside, read_graph, write_description, write_seal

SIZE_PX = (64, 64)
FILES = [
    ("m.safetensors", "torch"),
    ("m.safetensors", "onnxruntime"),
    ("m.onnx", "onnxruntime"),
    ("m.onnx", "openvino"),
    ("m.xml", "openvino"),
]
CHANGED = "has changed since it was loaded. Load it again"
V1 = Path(__file__).parents[1] / "kept/v1/model.onnx"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in all kinds of files."""
    folder = tmp_path_factory.mktemp("kept")
    model = padim.fit(list(oracle.random_images(4, SIZE_PX)), size_px=SIZE_PX, keep_moments=True)
    model.save(folder / "m.safetensors", moments=True)
    for suffix in (".onnx", ".xml"):
        padim.export(folder / "m.safetensors", folder / f"m{suffix}")
    return folder


@pytest.fixture
def folder(kept: Path, tmp_path: Path) -> Path:
    return shutil.copytree(kept, tmp_path / "models")


def copy_over(path: Path) -> None:
    """Write other numbers into the same file, as cp does."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 1_000_000] = bytes(1_000_000)
    path.write_bytes(content)


def cut(path: Path) -> None:
    with path.open("rb+") as file:
        file.truncate(5000)


@pytest.mark.parametrize("change", [copy_over, cut])
@pytest.mark.parametrize(("name", "engine"), FILES)
def test_a_loaded_model_does_not_change_with_its_file(
    kept: Path, folder: Path, name: str, engine: str, change: Callable[[Path], None]
) -> None:
    image = oracle.random_images(1, SIZE_PX, seed=9)[0]
    model = padim.load(folder / name, engine=engine)
    expected = padim.load(kept / name, engine=engine).predict(image)
    digest = sha256(folder / name)
    for path in (folder / name, part_beside(folder / name)):
        if path.is_file():
            change(path)
    (found,) = model.stream([image], traced=True)
    np.testing.assert_array_equal(found.anomaly_map, expected.anomaly_map)
    assert found.origin is not None
    assert found.origin.model_sha256 == digest


@pytest.mark.parametrize(("name", "part"), [("m.onnx", "m.onnx"), ("m.xml", "m.bin")])
def test_a_graph_that_changes_while_it_is_loaded_is_noticed(
    folder: Path, name: str, part: str
) -> None:
    file = read_graph(folder / name)
    for path in (folder / name, folder / part):
        path.write_bytes(path.read_bytes())  # what another process writes that does the same
    assert file.check() == sha256(folder / name)
    copy_over(folder / part)
    with pytest.raises(ModelFileError, match="has changed while it was loaded"):
        file.check()


def test_loaded_moments_do_not_change_with_their_file(folder: Path) -> None:
    path = moments_path(folder / "m.safetensors")
    found, expected = load_moments(path), load_moments(path)
    copy = [mean.clone() for mean in expected.mean]
    cut(path)
    for mean, before in zip(found.mean, copy, strict=True):
        assert torch.equal(mean, before)


@pytest.mark.parametrize("change", [copy_over, cut])
def test_a_model_of_tiles_says_that_its_file_has_changed(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    images = list(oracle.random_images(3, (64, 128)))
    settings = FitSettings(size_px=(64, 128), tile_px=64, tile_overlap_px=0)
    path = tmp_path / "t.safetensors"
    padim.fit(images, settings).save(path)
    model = padim.load(path)
    model.predict(images[0])
    change(path)
    with pytest.raises(ModelFileError, match=CHANGED):
        model.predict(images[0])


def test_a_tensor_of_tiles_that_is_cut_is_no_short_tensor(tmp_path: Path) -> None:
    images = list(oracle.random_images(2, (64, 128)))
    settings = FitSettings(size_px=(64, 128), tile_px=64, tile_overlap_px=0, calibrate=False)
    padim.fit(images, settings).save(tmp_path / "t.safetensors")
    rows = load_state(tmp_path / "t.safetensors").whitening[-1]
    cut(tmp_path / "t.safetensors")
    with pytest.raises(ModelFileError, match=CHANGED):
        rows[len(rows) - 1 :]


def test_a_graph_travels_to_the_same_file_alone(folder: Path) -> None:
    for name in ("m.onnx", "m.xml"):
        model = padim.load(folder / name)
        packed = pickle.dumps(model)
        pickle.loads(packed)
        write_description(folder / name, json.dumps(dict(model.description.facts) | {"count": 5}))
        with pytest.raises(ModelFileError, match=CHANGED):
            pickle.loads(packed)


# Seals


def write_small_graph(path: Path) -> None:
    """A sealed graph of a few hundred bytes that takes images."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 2, 2, 3])
    output = helper.make_tensor_value_info("level_0", TensorProto.FLOAT, ["n", 2, 2, 3])
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [3], [1.5, 2.5, 3.5])
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "scale"], ["level_0"]),
    ]
    graph = helper.make_graph(nodes, "small", [image], [output], [scale])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    model.metadata_props.add(key="padim", value='{"graph_version": 2}')
    onnx.save(model, path)
    if path.suffix == ".xml":
        from padim.scoring.engine_openvino import convert

        convert(path.rename(path.with_name("from.onnx")), path, '{"graph_version": 2}')
    else:
        write_seal(path)


def flip_bit(path: Path, place: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".bin"])
def test_a_single_flipped_bit_is_noticed(tmp_path: Path, suffix: str) -> None:
    graph = tmp_path / ("a.onnx" if suffix == ".onnx" else "a.xml")
    write_small_graph(graph)
    path = graph.with_suffix(suffix)
    whole = path.read_bytes()
    assert read_graph(graph).is_sealed
    for place in random.Random(0).sample(range(len(whole)), min(len(whole), 150)):
        bit = random.Random(place).randrange(8)
        flip_bit(path, place, bit)
        with suppress(ModelFileError):
            # In the seal itself it takes the seal away, and without a graph is refused.
            assert not read_graph(graph).is_sealed
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["m.onnx", "m.xml"])
def test_a_model_with_a_flipped_bit_is_refused_or_the_same(folder: Path, name: str) -> None:
    path = folder / name
    whole = path.read_bytes()
    generator = random.Random(0)
    places = [generator.randrange(len(whole)) for _ in range(20)]
    seal = whole.index(b"padim_sha256")
    for place in (*places, *range(seal - 4, min(seal + 84, len(whole)))):
        flip_bit(path, place, generator.randrange(8))
        with pytest.raises(
            ModelFileError, match=f"{name} (is not what was|lacks the seal|is no g)"
        ):
            padim.load(path)
        path.write_bytes(whole)
    padim.load(path)


def test_calibrating_renews_the_seal(folder: Path) -> None:
    good = list(oracle.random_images(3, SIZE_PX, seed=7))
    for name in ("m.onnx", "m.xml"):
        before = padim.load(folder / name).decision
        after = padim.calibrate(folder / name, good).decision
        assert before is not None
        assert after is not None
        assert after.calibration.count == 3 != before.calibration.count
        assert read_graph(folder / name).is_sealed


def test_damage_is_not_sealed_by_calibrating(folder: Path) -> None:
    for name in ("m.onnx", "m.xml"):
        flip_bit(folder / name, 3000, 1)
        with pytest.raises(ModelFileHashError, match="is not what was written"):
            write_description(folder / name, "{}")


def test_a_graph_without_its_seal_opens_if_it_is_of_version_1(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = shutil.copy(V1, tmp_path / "v1.onnx")
    for path, sealed in ((first, "not sealed"), (folder / "m.onnx", "graph 3, sealed")):
        assert main(["info", str(path)]) == 0
        assert sealed in capsys.readouterr().out
    graph = onnx.load(folder / "m.onnx")
    (seal,) = (entry for entry in graph.metadata_props if entry.key == "padim_sha256")
    graph.metadata_props.remove(seal)
    onnx.save(graph, folder / "m.onnx")
    for engine in ("onnxruntime", "openvino"):
        assert padim.load(first, engine=engine).decision is not None
        with pytest.raises(ModelFileHashError, match="lacks the seal that it was written with"):
            padim.load(folder / "m.onnx", engine=engine)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 30, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a", b"\x0a\x7f", b"\x08", b"\x0d"],
)
def test_damaged_protobuf_is_no_graph(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"a\.onnx is (no graph that|a graph, but no)"):
        write_description(tmp_path / "a.onnx", "{}")
    with pytest.raises(ModelFileError, match=r"a\.onnx is (no graph that|a graph, but no)"):
        Graph(tmp_path / "a.onnx")
