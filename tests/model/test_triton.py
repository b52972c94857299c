from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import padim
from padim.errors import UnknownNameError, UsageError
from padim.model.export import export

MODEL = Path(__file__).parents[1] / "kept/v1/model.safetensors"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton") / "models"
    export(MODEL, folder, to="triton")
    return folder


def parse(text: str) -> Any:
    """A configuration, by Triton's own definition of it."""
    grpc = pytest.importorskip("tritonclient.grpc", reason="Triton's protobuf is not installed")
    text_format = pytest.importorskip(
        "google.protobuf.text_format", reason="protobuf is not installed"
    )
    return text_format.Parse(text, grpc.model_config_pb2.ModelConfig())


def test_a_repository_has_what_triton_looks_for(repository: Path) -> None:
    files = {path.relative_to(repository).as_posix() for path in repository.rglob("*.*")}
    assert files == {"model/config.pbtxt", "model/1/model.onnx"}
    assert (repository / "model/config.pbtxt").read_text() == (
        'name: "model"\n'
        'platform: "onnxruntime_onnx"\n'
        "max_batch_size: 16\n"
        "input [\n"
        "  {\n"
        '    name: "image"\n'
        "    data_type: TYPE_UINT8\n"
        "    dims: [ 64, 64, 3 ]\n"
        "  }\n"
        "]\n"
        "output [\n"
        "  {\n"
        '    name: "anomaly_map"\n'
        "    data_type: TYPE_FP32\n"
        "    dims: [ 64, 64 ]\n"
        "  },\n"
        "  {\n"
        '    name: "image_score"\n'
        "    data_type: TYPE_FP32\n"
        "    dims: [ 1 ]\n"
        "    reshape { shape: [ ] }\n"
        "  },\n"
        "  {\n"
        '    name: "level_scores"\n'
        "    data_type: TYPE_FP32\n"
        "    dims: [ 2 ]\n"
        "  }\n"
        "]\n"
        "dynamic_batching { }\n"
    )


@pytest.mark.parametrize(
    ("n_batch", "verdict"), [(None, False), (2, False), (None, True)], ids=["any", "two", "verdict"]
)
def test_the_configuration_says_what_the_graph_takes_and_gives(
    tmp_path: Path, n_batch: int | None, *, verdict: bool
) -> None:
    export(MODEL, tmp_path, to="triton", n_batch=n_batch, verdict=verdict)
    config = parse((tmp_path / "model/config.pbtxt").read_text())
    session = onnxruntime.InferenceSession(tmp_path / "model/1/model.onnx")
    is_batched = config.max_batch_size > 0
    assert is_batched == (n_batch is None and not verdict)
    assert config.HasField("dynamic_batching") == is_batched
    tensors = [*zip(config.input, session.get_inputs(), strict=True)]
    tensors += zip(config.output, session.get_outputs(), strict=True)
    for said, found in tensors:
        assert said.name == found.name
        kinds = {"tensor(uint8)": "TYPE_UINT8", "tensor(float)": "TYPE_FP32"}
        field = said.DESCRIPTOR.fields_by_name["data_type"].enum_type
        assert field.values_by_number[said.data_type].name == kinds[found.type]
        sides = [side if isinstance(side, int) else -1 for side in found.shape]
        shape = list(said.reshape.shape if said.HasField("reshape") else said.dims)
        assert ([-1, *shape] if is_batched else shape) == sides


def test_the_graph_of_a_repository_scores_as_others(repository: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    found = padim.load(repository / "model/1/model.onnx").predict(image)
    assert found.score == pytest.approx(padim.load(MODEL).predict(image).score, rel=1e-3)


def test_nothing_is_left_of_what_cannot_be_exported(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    with pytest.raises(UsageError, match="camera is 0x9"):
        export(MODEL, folder, to="triton", camera_px=(0, 9))
    assert list(folder.iterdir()) == []
    with pytest.raises(UnknownNameError, match="triton"):
        export(MODEL, folder, to="tritn")
