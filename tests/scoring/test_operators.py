import os
import re
import sys
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from padim.errors import MemoryLimitError, ModelFileError, ModelFileHashError, PadimError
from padim.scoring.engine_openvino import convert
from padim.scoring.engines import ENGINES
from padim.scoring.graph import Graph
from padim.scoring.graph_file import part_beside, read_graph, write_description, write_seal
from padim.scoring.operators import ONNX_OPERATORS, check_onnx, check_openvino
from padim.scoring.protobuf import read_fields

KEPT = Path(__file__).parents[1] / "kept/v1/model.onnx"


def tensor(name: str, array: NDArray[np.generic]) -> onnx.TensorProto:
    return numpy_helper.from_array(array, name)


def write(path: Path, *nodes: onnx.NodeProto, constants: tuple[onnx.TensorProto, ...] = ()) -> Path:
    """A graph from 4x4 images to one output."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 4, 4, 3])
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, None)
    graph = helper.make_graph(list(nodes), "a", [image], [score], list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


CAST = helper.make_node("Cast", ["image"], ["score"], to=TensorProto.FLOAT)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_graph_of_a_kilobyte_cannot_ask_for_gigabytes(tmp_path: Path, engine: str) -> None:
    path = write(
        tmp_path / "a.onnx",
        helper.make_node("ConstantOfShape", ["asked"], ["large"]),
        helper.make_node("ReduceMax", ["large"], ["most"], keepdims=0),
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["pixels", "most"], ["score"]),
        constants=(tensor("asked", np.array([60_000, 60_000])),),
    )
    assert path.stat().st_size < 1000
    with pytest.raises(ModelFileError, match=r"export: its ConstantOfShape makes something"):
        Graph(path, engine)


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (helper.make_node("Expand", ["image", "asked"], ["x"]), "Expand makes something else"),
        (helper.make_node("Cast", ["image"], ["x"], to=1, domain="com.x"), "operators of others"),
        (helper.make_node("Range", ["zero", "asked", "one"], ["x"]), "Range counts something else"),
        (
            helper.make_node("MaxPool", ["image"], ["x"], kernel_shape=[1, 1], pads=[1 << 20] * 4),
            "its MaxPool has a window or a padding of more than 64",
        ),
        (helper.make_node("Pad", ["image", "asked"], ["x"]), "its Pad makes edges"),
        (helper.make_node("Resize", ["image", "", "scales"], ["x"]), "its Resize is by something"),
        (helper.make_node("Resize", ["image", "", "", "asked"], ["x"]), "its Resize is by someth"),
    ],
)
def test_what_our_export_does_not_write_is_refused(
    tmp_path: Path, node: onnx.NodeProto, reason: str
) -> None:
    numbers: dict[str, np.generic] = {
        "asked": np.int64(1 << 40),
        "zero": np.int64(0),
        "one": np.int64(1),
        "scales": np.float32(100),
    }
    constants = tuple(tensor(name, np.array(value)) for name, value in numbers.items())
    with pytest.raises(ModelFileError, match=rf"no graph of padim export: .*{reason}"):
        Graph(write(tmp_path / "a.onnx", node, CAST, constants=constants))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_sparse_tensor_is_refused(tmp_path: Path, engine: str) -> None:
    path = write(tmp_path / "a.onnx", CAST)
    graph = onnx.load(path)
    value, place = tensor("sparse", np.ones(1, np.float32)), tensor("place", np.array([5]))
    sparse = helper.make_sparse_tensor(value, place, [30_000, 10_000])
    graph.graph.sparse_initializer.append(sparse)
    onnx.save(graph, path)
    with pytest.raises(ModelFileError, match="no graph of padim export: it has sparse tensors"):
        Graph(path, engine)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", [b"score", b"other"])
def test_names_that_are_no_text_are_refused_and_an_engine_says_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: bytes, engine: str
) -> None:
    more = helper.make_node("Floor", ["other"], ["more"])
    path = write(tmp_path / "a.onnx", CAST, *[more] * (name == b"other"))
    path.write_bytes(path.read_bytes().replace(name, name[:-1] + b"\xff"))
    refused = f"is no graph that {ENGINES[engine].title} reads"
    reads_no_inner_names = engine == "openvino" and version("openvino") < "2026"
    is_taken = reads_no_inner_names and name == b"other"
    with nullcontext() if is_taken else pytest.raises(ModelFileError, match=refused):
        Graph(path, engine)
    assert not capfd.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no name that is no text")
def test_a_graph_may_lie_in_a_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    graph = Graph(write(folder / "a.onnx", CAST), "onnxruntime")
    assert graph(np.full((1, 4, 4, 3), 7, np.uint8))[0].max() == 7


@pytest.mark.parametrize("content", [b"\xff" * 20, b"\x3a\xff\xff\xff\x7f", b"\x3b", b"\x08"])
def test_what_is_no_protobuf_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"ends nowhere|no known kind"):
        list(read_fields(memoryview(content)))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_engine_that_fails_is_refused_with_a_sentence(tmp_path: Path, engine: str) -> None:
    path = write(
        tmp_path / "a.onnx",
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["pixels", "shape"], ["score"]),
        constants=(tensor("shape", np.array([7, 11])),),
    )
    with pytest.raises(PadimError, match=r"a\.onnx (cannot be run|is no graph that)"):
        Graph(path, engine)(np.zeros((2, 4, 4, 3), np.uint8))


def test_a_tensor_that_grows_is_refused_where_its_size_is_known(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.onnx",
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["pixels", "tall"], ["taller"]),
        helper.make_node("Add", ["taller", "wide"], ["score"]),
        constants=(
            tensor("tall", np.zeros((1, 4096, 1, 1, 1, 1), np.float32)),
            tensor("wide", np.zeros((1, 1, 4096, 1, 1, 1), np.float32)),
        ),
    )
    with pytest.raises(ModelFileError, match=r"a tensor of it takes 3\.22 GB"):
        Graph(path, "openvino")(np.zeros((1, 4, 4, 3), np.uint8))


def test_what_grows_while_it_runs_is_bounded(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.onnx",
        helper.make_node("Add", ["tall", "wide"], ["large"]),
        helper.make_node("ReduceMax", ["large"], ["most"], keepdims=0),
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["pixels", "most"], ["score"]),
        constants=(
            tensor("tall", np.zeros((20_000, 1), np.float32)),
            tensor("wide", np.zeros((1, 20_000), np.float32)),
        ),
    )
    with pytest.raises(MemoryLimitError, match=r"a\.onnx needs more than 1\.07 GB to run"):
        Graph(path, "onnxruntime")(np.zeros((1, 4, 4, 3), np.uint8))


def test_what_a_graph_gave_takes_nothing_from_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("padim.scoring.engine_onnxruntime._bound_bytes", lambda *_: 1 << 20)
    graph = Graph(write(tmp_path / "a.onnx", CAST), "onnxruntime")
    image = np.zeros((4, 4, 4, 3), np.uint8)
    kept = [graph(image) for _ in range(10_000)]  # 7.7 MB
    assert len(kept) == 10_000


def test_biases_of_a_large_head_are_taken(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.onnx",
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Expand", ["zero", "rows"], ["biases"]),
        helper.make_node("Conv", ["pixels", "kernels", "biases"], ["score"]),
        constants=(
            tensor("zero", np.array(0, np.float32)),
            tensor("rows", np.array([300_000])),
            tensor("kernels", np.ones((300_000, 4, 1, 1), np.float32)),
        ),
    )
    assert Graph(path)(np.ones((1, 4, 4, 3), np.uint8))[0].max() == 4


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("place", ["a.onnx.data", "b.bin"])
def test_weights_that_a_seal_does_not_cover_are_refused(
    tmp_path: Path, engine: str, place: str
) -> None:
    path = write(
        tmp_path / "a.onnx",
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["pixels", "more"], ["score"]),
        constants=(tensor("more", np.full(3, 2, np.float32)),),
    )
    image = np.zeros((1, 4, 4, 3), np.uint8)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location=place, size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    model.metadata_props.add(key="padim", value="before")
    onnx.save(model, path)
    if place == "a.onnx.data":
        part_beside(path).rename(tmp_path / "other")
        write_seal(path)
        (tmp_path / "other").rename(part_beside(path))
    with pytest.raises(ModelFileError, match="weights in a file that it says no sha256 of"):
        Graph(path, engine)
    onnx.save(model, path)
    if place == "a.onnx.data":  # without any seal
        assert Graph(path, engine)(image)[0].min() == 2
        write_description(path, "after")
        assert read_graph(path).is_sealed
        assert Graph(path, engine)(image)[0].min() == 2


def test_a_sealed_pair_that_does_not_say_what_its_weights_are_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    convert(write(tmp_path / "a.onnx", CAST), path, "said")
    path.write_text(re.sub(r"<padim_bin_sha256 .*?/>", "", path.read_text()))
    part_beside(path).rename(tmp_path / "other")
    write_seal(path)
    (tmp_path / "other").rename(part_beside(path))
    with pytest.raises(ModelFileHashError, match=r"is sealed, but does not say what a\.bin is"):
        Graph(path)


def test_outputs_of_another_type_are_refused(tmp_path: Path) -> None:
    node = helper.make_node("Cast", ["image"], ["score"], to=TensorProto.DOUBLE)
    path = write(tmp_path / "a.onnx", node)
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    onnx.save(model, path)
    with pytest.raises(ModelFileError, match="gives something else than scores"):
        Graph(path)(np.zeros((1, 4, 4, 3), np.uint8))


LAYER = (
    b'<net><layers><layer id="2" name="a" type="Add" version="opset1"></layer></layers><edges>'
    b'<edge from-layer="0" from-port="0" to-layer="2" to-port="0" />'
    b'<edge from-layer="1" from-port="0" to-layer="2" to-port="1" /></edges></net>'
)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (LAYER.replace(b"Add", b"Loop"), "it has the operator 'Loop'"),
        (LAYER.replace(b"Add", b"Slice"), "its Slice lacks inputs"),
        (LAYER.replace(b'to-port="1"', b'to-port="0"'), "its Add lacks inputs"),
        (LAYER.replace(b'"Add"', b"'Loop'"), "another form"),
        (LAYER.replace(b'"Add"', b'"&#76;oop"'), "another form"),
        (LAYER.replace(b'type="Add" version', b'version="" type'), "another form"),
        (LAYER.replace(b"<layer ", b"<layer\n"), "another form"),
        (b"<!--" + LAYER + b"-->" + LAYER, "another form"),
        (LAYER.decode().replace("Add", "Loop").encode("utf-16"), "another form"),
    ],
)
def test_a_layer_is_known_however_it_is_written(content: bytes, reason: str) -> None:
    check_openvino(LAYER)
    with pytest.raises(ValueError, match=reason):
        check_openvino(content)


def test_a_graph_of_our_export_is_taken() -> None:
    check_onnx(KEPT.read_bytes())
    used = {node.op_type for node in onnx.load(KEPT).graph.node}
    assert used <= ONNX_OPERATORS
