import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import oracle
import pytest
import torch
from trees import make_category

import padim
from padim.cli import main
from padim.errors import (
    MissingExtraError,
    ModelFileError,
    ModelFileVersionError,
    PathMissingError,
    UnknownNameError,
    UsageError,
)
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitSettings
from padim.model.export import export
from padim.scoring import engines
from padim.scoring.engine_onnxruntime import OnnxRuntime
from padim.scoring.engine_openvino import OpenVino
from padim.scoring.engines import EngineFacts, choose_threads, n_cores
from padim.scoring.graph import Graph
from padim.scoring.parity import TOLERANCE

SIZE_PX = (64, 64)
COMBINATIONS = [
    ("m.safetensors", "torch"),
    ("m.safetensors", "onnxruntime"),
    ("m.safetensors", "openvino"),
    ("m.onnx", "onnxruntime"),
    ("m.onnx", "openvino"),
    ("m.xml", "openvino"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A category, and a model of it as a file and as both kinds of graph."""
    folder = tmp_path_factory.mktemp("engines")
    category = make_category(folder / "stripes")
    model = padim.fit(category, size_px=SIZE_PX, engine="torch")
    model.save(folder / "m.safetensors")
    export(folder / "m.safetensors", folder / "m.onnx")
    export(folder / "m.safetensors", folder / "m.xml", to="openvino")
    return folder


@pytest.mark.parametrize(("name", "engine"), COMBINATIONS)
def test_every_engine_says_the_same(folder: Path, name: str, engine: str) -> None:
    paths = sorted((folder / "stripes/test").rglob("*.png"))
    expected = padim.load(folder / "m.safetensors", engine="torch").predict(paths)
    predictor = padim.load(folder / name, engine=engine)
    assert predictor.engine == engine
    for ours, theirs in zip(predictor.predict(paths), expected, strict=True):
        tolerance = TOLERANCE["float32"]
        np.testing.assert_allclose(ours.anomaly_map, theirs.anomaly_map, rtol=tolerance)
        np.testing.assert_allclose(ours.score, theirs.score, rtol=tolerance)
        np.testing.assert_allclose(ours.level_scores, theirs.level_scores, rtol=tolerance)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_what_one_engine_fitted_another_scores(folder: Path, engine: str) -> None:
    other = padim.fit(folder / "stripes", size_px=SIZE_PX, engine=engine)
    assert other.state.encoder.engine.name == engine
    path = folder / "stripes/test/spot/0.png"
    expected = padim.load(folder / "m.safetensors", engine="torch").predict(path)
    found = other.predict(path)
    np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map, rtol=TOLERANCE["float32"])


@pytest.mark.parametrize(
    ("name", "engine"),
    [("m.safetensors", "onnxruntime"), ("m.onnx", "onnxruntime"), ("m.xml", "openvino")],
)
def test_the_engine_follows_from_the_file(folder: Path, name: str, engine: str) -> None:
    assert padim.load(folder / name, device="cpu").engine == engine


@pytest.mark.parametrize(("name", "engine"), COMBINATIONS)
def test_threads_share_a_predictor(folder: Path, name: str, engine: str) -> None:
    paths = sorted((folder / "stripes/test").rglob("*.png"))
    predictor = padim.load(folder / name, engine=engine, n_threads=1)
    expected = [predictor.predict(path).score for path in paths]
    found: dict[int, list[float]] = {}

    def work(i: int) -> None:
        found[i] = [predictor.predict(path).score for path in paths]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for scores in found.values():
        np.testing.assert_allclose(scores, expected, rtol=1e-5)
    torch.set_num_threads(n_cores())


@pytest.mark.parametrize(("name", "engine"), COMBINATIONS)
def test_calls_at_a_time_change_nothing(folder: Path, name: str, engine: str) -> None:
    paths = 3 * sorted((folder / "stripes/test").rglob("*.png"))
    expected = padim.load(folder / name, engine=engine).predict(paths)
    found = padim.load(folder / name, engine=engine, n_threads=1, n_calls=3).predict(paths)
    torch.set_num_threads(n_cores())
    tolerance = 1e-5 if name == "m.safetensors" else 0.0  # torch divides work by its threads
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.path == theirs.path
        assert ours.score == pytest.approx(theirs.score, rel=tolerance, abs=0)
        np.testing.assert_allclose(ours.anomaly_map, theirs.anomaly_map, rtol=tolerance)


def test_openvino_runs_as_many_calls_at_a_time_as_were_asked_for(folder: Path) -> None:
    graph = Graph(folder / "m.xml", n_threads=1, n_calls=n_cores())
    graph(oracle.random_images(1, SIZE_PX))
    assert isinstance(graph.runtime, OpenVino)
    compiled, _ = graph.runtime._compiled[1]
    properties = ("NUM_STREAMS", "INFERENCE_NUM_THREADS")
    assert [compiled.get_property(name) for name in properties] == [n_cores()] * 2


def test_onnxruntime_may_take_memory_for_as_many_calls_as_were_asked_for(folder: Path) -> None:
    bounds = []
    for n_calls in (100, 200):
        runtime = Graph(folder / "m.onnx", n_threads=1, n_calls=n_calls).runtime
        assert isinstance(runtime, OnnxRuntime)
        bounds.append(runtime._most_bytes)
    assert bounds[1] > 1.9 * bounds[0]


@pytest.mark.parametrize("name", ["m.safetensors", "m.onnx", "m.xml"])
def test_commands_take_every_kind_of_model(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    model, test = str(folder / name), str(folder / "stripes/test")
    assert main(["predict", model, test, "-o", str(tmp_path), "--recursive"]) == 0
    said = capsys.readouterr().out
    assert "Engine: " in said
    assert (tmp_path / "predictions.csv").read_text().count("\n") == 7
    assert main(["evaluate", model, str(folder / "stripes"), "-q", "--threads", "1"]) == 0
    assert re.search(r"^image_auroc +1\.000", capsys.readouterr().out, re.MULTILINE)
    assert main(["info", model]) == 0
    assert "4 images with their maps inside" in capsys.readouterr().out
    torch.set_num_threads(n_cores())


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_damaged_graph_is_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(b"no graph")
    with pytest.raises(
        ModelFileError, match=r"(is no graph that .* reads\. Copy it again|lacks its weights)"
    ):
        padim.load(tmp_path / f"a{suffix}")


def test_a_graph_of_others_is_refused(folder: Path, tmp_path: Path) -> None:
    graph = onnx.load(folder / "m.onnx")
    del graph.metadata_props[:]
    onnx.save(graph, tmp_path / "a.onnx")
    for engine in ("onnxruntime", "openvino"):
        with pytest.raises(ModelFileError, match="is a graph, but no model"):
            padim.load(tmp_path / "a.onnx", engine=engine)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_graph_that_takes_no_images_is_refused(tmp_path: Path, engine: str) -> None:
    values = [onnx.helper.make_tensor_value_info(name, 1, [1, 10]) for name in "xy"]
    nodes = [onnx.helper.make_node("Relu", ["x"], ["y"])]
    graph = onnx.helper.make_graph(nodes, "other", values[:1], values[1:])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "a.onnx")
    with pytest.raises(ModelFileError, match="none that takes images"):
        padim.load(tmp_path / "a.onnx", engine=engine)


@pytest.mark.parametrize("operator", ["Relu", "Tan"])
def test_a_newer_graph_is_refused_whatever_it_computes(
    folder: Path, tmp_path: Path, operator: str
) -> None:
    graph = onnx.load(folder / "m.onnx")
    graph.graph.node.append(onnx.helper.make_node(operator, ["image_score"], ["more"]))
    (said,) = (entry for entry in graph.metadata_props if entry.key == "padim")
    text = said.value.replace('"graph_version": 3', '"graph_version": 4')
    del graph.metadata_props[:]
    graph.metadata_props.add(key="padim", value=text)
    onnx.save(graph, tmp_path / "a.onnx")
    with pytest.raises(ModelFileVersionError, match="graph version 4, but this release reads up"):
        padim.load(tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("m.onnx", {"engine": "torch"}, UsageError, "which torch does not run. Use --engine onnx"),
        ("m.xml", {"engine": "onnxruntime"}, UsageError, "does not run. Use --engine openvino"),
        ("m.onnx", {"engine": "onnxrt"}, UnknownNameError, "Did you mean 'onnxruntime'"),
        ("m.onnx", {"precision": "bfloat16"}, UsageError, "runs a graph in float32"),
        ("m.onnx", {"precision": "int8"}, UnknownNameError, "no precision 'int8'"),
        ("m.onnx", {"device": "cpu", "engine": "tensorrt"}, UsageError, "on cuda alone"),
        ("m.onnx", {"device": "gpu"}, UnknownNameError, "no device 'gpu'"),
        ("m.xml", {"device": "cuda"}, UsageError, "on cpu alone. Use --device cpu"),
        ("m.onnx", {"weights": "w.pth"}, UsageError, "brings its weights"),
        ("m.onnx", {"n_threads": 0}, UsageError, "threads is 0"),
        ("m.onnx", {"n_calls": 0}, UsageError, "calls at a time is 0"),
        ("m.xml", {"n_calls": 1.5}, UsageError, "calls at a time is 1.5"),
        ("m.xml", {"n_calls": True}, UsageError, "calls at a time is True"),
        ("m.safetensors", {"n_calls": -1}, UsageError, "calls at a time is -1"),
        ("n.onnx", {}, PathMissingError, "does not exist"),
        ("m.safetensors", {"weights": "w.pth"}, UsageError, "brings its weights"),
        ("m.safetensors", {"engine": "tensorr"}, UnknownNameError, "no engine 'tensorr'"),
        ("m.safetensors", {"precision": "bfloat16"}, UsageError, "was fitted in float32"),
    ],
)
def test_what_cannot_be_is_refused(
    folder: Path, name: str, options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        padim.load(folder / name, **options)


def test_a_trunk_in_bfloat16_is_torchs() -> None:
    with pytest.raises(UsageError, match="onnxruntime runs a trunk in float32"):
        prepare(FitSettings(engine="onnxruntime", precision="bfloat16"))


def test_an_engine_that_is_not_installed_says_how_to_get_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    for refused in (
        lambda: padim.load(folder / "m.xml"),
        lambda: padim.load(folder / "m.safetensors", engine="openvino"),
        lambda: export(folder / "m.safetensors", folder / "n.xml", to="openvino"),
        lambda: prepare(FitSettings(engine="openvino")),
    ):
        with pytest.raises(MissingExtraError, match=r"padim-efficientnet\[openvino\]"):
            refused()


def test_openvino_compiles_two_sizes_of_batch_at_most(folder: Path) -> None:
    graph = Graph(folder / "m.xml")
    pixels = oracle.random_images(9, SIZE_PX)
    whole = graph(pixels)
    for n in (1, 2, 3, 5):
        for ours, expected in zip(graph(pixels[:n]), whole, strict=True):
            np.testing.assert_allclose(ours, expected[:n], rtol=1e-4)
    assert isinstance(graph.runtime, OpenVino)
    assert set(graph.runtime._compiled) == {1, engines.N_BATCH}


def test_threads_are_one_for_each_core_by_default() -> None:
    assert choose_threads(None) == len(os.sched_getaffinity(0))
    assert choose_threads(3) == 3
    assert choose_threads(1024) == 1024
    with pytest.raises(UsageError, match="is 1025, but needs to be between 1 and 1024"):
        choose_threads(1025)


@pytest.mark.parametrize("name", ["m.onnx", "m.xml"])
def test_scoring_a_graph_loads_no_torch(folder: Path, name: str, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from padim.cli import main\n"
        f"images = {str(folder / 'stripes/test/spot')!r}\n"
        f"model, out = {str(folder / name)!r}, {str(tmp_path)!r}\n"
        "assert main(['predict', model, images, '-o', out]) == 0\n"
        "assert main(['info', model]) == 0\n"
        "assert main(['verify', model]) == 0\n"
        "assert main(['evaluate', model, images + '/../..']) == 0\n"
        "heavy = {'torch', 'torchvision', 'timm', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("name", ["m.onnx", "m.xml"])
def test_nobody_is_told_that_an_engine_is_used(folder: Path, tmp_path: Path, name: str) -> None:
    code = f"import padim; padim.load({str(folder / name)!r})"
    asked_not_to = ("CI", "ORT_DISABLE_TELEMETRY")
    environment = {key: value for key, value in os.environ.items() if key not in asked_not_to}
    places = ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "TMPDIR")
    environment |= dict.fromkeys(places, str(tmp_path))
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert list(tmp_path.iterdir()) == []  # the identity that telemetry would send


ENGINE_FILE = """
import onnx
from onnx.reference import ReferenceEvaluator


class Slow:
    any_batch = True

    def __init__(self, path):
        model = onnx.load(path)
        for node in model.graph.node:  # older evaluators know no unsorted TopK
            if node.op_type == "TopK":
                for attribute in node.attribute:
                    attribute.i = 1 if attribute.name == "sorted" else attribute.i
        self._session = ReferenceEvaluator(model)
        self.names = tuple(output.name for output in model.graph.output)
        axes = model.graph.input[0].type.tensor_type.shape.dim
        self.shape = tuple(axis.dim_value or None for axis in axes)
        self.description = {p.key: p.value for p in model.metadata_props}.get("padim")

    def run(self, images, _rates):
        return tuple(self._session.run(None, {"image": images}))


def open_graph(file, setup):
    return Slow(file.path)
"""


def test_a_third_engine_is_a_file_and_a_row(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "engine_slow.py").write_text(ENGINE_FILE)
    monkeypatch.syspath_prepend(tmp_path)
    row = EngineFacts(
        "Slow", module="engine_slow", package="onnx", extra="fit", suffixes=(".onnx",)
    )
    monkeypatch.setitem(engines.ENGINES, "slow", row)
    path = str(folder / "stripes/test/spot/0.png")
    expected = padim.load(folder / "m.onnx").predict(path)
    for name in ("m.onnx", "m.safetensors"):
        predictor = padim.load(folder / name, engine="slow")
        assert predictor.engine == "slow"
        found = predictor.predict(path)
        np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map, rtol=1e-3)
    arguments = ["predict", str(folder / "m.onnx"), path, "-o", str(tmp_path), "--engine", "slow"]
    assert main(arguments) == 0
    assert f"slow {onnx.__version__}" in (tmp_path / "predictions.csv").read_text()
    with pytest.raises(UsageError, match=r"Slow runs a graph in float32\. Use --engine openvino"):
        padim.load(folder / "m.onnx", engine="slow", precision="bfloat16")
    with pytest.raises(UsageError, match=r"slow does not run\. Use --engine openvino"):
        padim.load(folder / "m.xml", engine="slow")
