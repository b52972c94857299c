import base64
import io
import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from serving_station import Running, make_station, run_over_http

from padim.store.pictures import Retention

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what tritonclient needs
triton = pytest.importorskip("tritonclient.http", reason="Triton's client is not installed")


def pixels(seed: int, size_px: tuple[int, int] = (80, 100)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size_px, 3), np.uint8)


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(seed)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def client_of_triton(running: Running) -> Iterator[Any]:
    client = triton.InferenceServerClient(running.url.removeprefix("http://"))
    yield client
    client.close()


def give_files(files: list[bytes]) -> Any:
    given = triton.InferInput("image", [len(files)], "BYTES")
    given.set_data_from_numpy(np.array(files, np.object_))
    return given


def give_pixels(images: np.ndarray, *, is_binary: bool = True) -> Any:
    given = triton.InferInput("image", list(images.shape), "UINT8")
    given.set_data_from_numpy(images, binary_data=is_binary)
    return given


def wish(*names: str, is_binary: bool) -> list[Any]:
    return [triton.InferRequestedOutput(name, binary_data=is_binary) for name in names]


def test_triton_s_client_finds_a_server_and_its_model(client_of_triton: Any) -> None:
    assert client_of_triton.is_server_live()
    assert client_of_triton.is_server_ready()
    assert client_of_triton.is_model_ready("part")
    assert not client_of_triton.is_model_ready("prat")
    assert client_of_triton.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    metadata = client_of_triton.get_model_metadata("part")
    assert metadata["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    assert [one["name"] for one in metadata["outputs"]] == [
        "anomaly_map",
        "image_score",
        "level_scores",
    ]


def test_the_metadata_say_the_shapes_that_come(client_of_triton: Any) -> None:
    found = client_of_triton.infer("part", [give_files([png(0), png(1)])])
    for output in client_of_triton.get_model_metadata("part")["outputs"]:
        assert [2, *output["shape"][1:]] == list(found.as_numpy(output["name"]).shape)


@pytest.mark.parametrize("is_binary_in", [True, False])
@pytest.mark.parametrize("is_binary_out", [True, False])
@pytest.mark.parametrize("kind", ["BYTES", "UINT8"])
def test_it_scores_as_the_predictor_does(
    running: Running, client_of_triton: Any, kind: str, *, is_binary_in: bool, is_binary_out: bool
) -> None:
    images = np.stack([pixels(0), pixels(1)])
    if kind == "UINT8":
        given = give_pixels(images, is_binary=is_binary_in)
    elif is_binary_in:
        given = give_files([png(0), png(1)])
    else:
        given = triton.InferInput("image", [2], "BYTES")
        encoded = np.array([base64.b64encode(png(n)) for n in (0, 1)], np.object_)
        given.set_data_from_numpy(encoded, binary_data=False)
    names = ("anomaly_map", "image_score", "level_scores")
    found = client_of_triton.infer("part", [given], outputs=wish(*names, is_binary=is_binary_out))
    expected = running.service.recipes.use("part").predictor.predict(list(images))
    for n, prediction in enumerate(expected):
        for name, tensor in zip(
            names, (prediction.anomaly_map, prediction.score, prediction.level_scores), strict=True
        ):  # what is scored together is a little apart from what is scored alone
            np.testing.assert_allclose(found.as_numpy(name)[n], tensor, rtol=1e-5)


def test_each_picture_of_a_request_is_an_inspection(
    running: Running, client_of_triton: Any
) -> None:
    found = client_of_triton.infer(
        "part",
        [give_pixels(np.stack([pixels(0), pixels(1)]))],
        request_id="lot 7",
        outputs=wish("image_score", is_binary=True),
        parameters={"serial": "A1"},
    ).get_response()
    assert found["id"] == "lot 7"
    assert [one["name"] for one in found["outputs"]] == ["image_score"]
    parameters = found["parameters"]
    ids, verdicts = parameters["inspections"].split(","), parameters["verdicts"].split(",")
    assert len(set(ids)) == 2
    for place, (id, verdict) in enumerate(zip(ids, verdicts, strict=True)):
        answer = httpx.get(f"{running.url}/v1/inspections/{id}").json()
        assert answer["verdict"] == verdict
        assert answer["serial"] == "A1"
        assert answer["tags"] == {"request": "lot 7", "image": str(place)}


def test_the_picture_of_a_tensor_is_an_image_file(tmp_path: Path) -> None:
    station = replace(make_station(tmp_path), retention=Retention(ok_every=1))
    with run_over_http(station) as running:
        client = triton.InferenceServerClient(running.url.removeprefix("http://"))
        found = client.infer("part", [give_pixels(pixels(3)[None])]).get_response()
        client.close()
        id = found["parameters"]["inspections"]
        record = httpx.get(f"{running.url}/v1/inspections/{id}").json()
        assert record["verdict"] == found["parameters"]["verdicts"]
        sha256 = record["image_sha256"]
    kept = next((tmp_path / "pictures").rglob(f"{sha256}*"))
    np.testing.assert_array_equal(np.asarray(Image.open(kept)), pixels(3))


def test_a_picture_that_cannot_be_read_is_named_and_written(
    running: Running, client_of_triton: Any
) -> None:
    given = give_files([png(0), b"no picture"])
    with pytest.raises(triton.InferenceServerException, match=r"Image 2 of 2: .*cannot be read"):
        client_of_triton.infer("part", [given])
    answer = send(running, request([b"no picture"]))
    assert answer.status_code == 422
    found = httpx.get(f"{running.url}/v1/inspections/{answer.json()['id']}").json()
    assert found["verdict"] == answer.json()["verdict"] == "NOT INSPECTED"


def test_a_timeout_is_a_deadline(client_of_triton: Any) -> None:
    with pytest.raises(triton.InferenceServerException, match="deadline"):
        client_of_triton.infer("part", [give_files([png(0)])], timeout=1)
    assert client_of_triton.infer("part", [give_files([png(0)])], timeout=20_000_000)


def test_requests_at_a_time_are_all_answered(client_of_triton: Any) -> None:
    asked = [client_of_triton.async_infer("part", [give_files([png(n)])]) for n in range(12)]
    scores = {float(one.get_result().as_numpy("image_score")[0]) for one in asked}
    assert len(scores) == 12


def request(files: list[bytes], **more: object) -> dict[str, object]:
    data = [base64.b64encode(one).decode() for one in files]
    image = {"name": "image", "datatype": "BYTES", "shape": [len(files)], "data": data}
    return {"inputs": [image], **more}


def send(running: Running, said: object, model: str = "part") -> httpx.Response:
    return httpx.post(f"{running.url}/v2/models/{model}/infer", json=said, timeout=30)


def test_nested_data_are_what_flat_ones_are(running: Running) -> None:
    images = pixels(0, (4, 5))[None]
    image = {"name": "image", "datatype": "UINT8", "shape": list(images.shape)}
    flat = send(running, {"inputs": [image | {"data": images.ravel().tolist()}]}).json()
    nested = send(running, {"inputs": [image | {"data": images.tolist()}]}).json()
    assert nested["outputs"] == flat["outputs"]


IMAGE = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [1, 2, 3]}


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({}, "missing required field `inputs`"),
        ({"inputs": []}, "The inputs are none"),
        ({"inputs": [IMAGE, IMAGE]}, "one alone, 'image'"),
        ({"inputs": [IMAGE | {"name": "x"}]}, "The inputs are 'x'"),
        ({"inputs": [IMAGE | {"datatype": "FP32"}]}, "needs to be BYTES"),
        ({"inputs": [IMAGE | {"shape": [1, 1, 3]}]}, "needs to be BYTES"),
        ({"inputs": [IMAGE | {"shape": [1, 2, 1, 3]}]}, "there are 3 levels"),
        ({"inputs": [IMAGE | {"shape": [0, 1, 1, 3], "data": []}]}, "has 0 pictures"),
        ({"inputs": [IMAGE | {"shape": [1, 0, 1, 3], "data": []}]}, "needs a pixel"),
        ({"inputs": [IMAGE | {"data": [1, 2, 256]}]}, "levels from 0 to 255"),
        ({"inputs": [IMAGE | {"data": [1, 2, 2.5]}]}, "levels from 0 to 255"),
        ({"inputs": [IMAGE | {"data": ["a", "[", "]"]}]}, "levels from 0 to 255"),
        ({"inputs": [IMAGE | {"data": {"a": 1}}]}, "levels from 0 to 255"),
        ({"inputs": [IMAGE | {"parameters": {"binary_data_size": 3}}]}, "0 bytes follow"),
        ({"inputs": [IMAGE | {"shape": [-1, 1, 1, 3]}]}, "not understood"),
        ({"inputs": [IMAGE], "outputs": [{"name": "mask"}]}, "no output 'mask'"),
        ({"inputs": [IMAGE], "id": "a" * 201}, "201 characters"),
        ({"inputs": [IMAGE], "parameters": {"serial": 7}}, "serial needs to be text"),
        ({"inputs": [IMAGE], "parameters": {"timeout": -1}}, "needs to be microseconds"),
        ({"inputs": [IMAGE], "parameters": {"timeout": "soon"}}, "needs to be microseconds"),
        (request([b""] * 17), "has 17 pictures, but needs 1 to 16"),
        (request([]), "has 0 pictures"),
        ({"inputs": [IMAGE | {"datatype": "BYTES", "shape": [1], "data": ["?"]}]}, "in base64"),
        ({"inputs": [IMAGE | {"datatype": "BYTES", "shape": [2], "data": [""]}]}, "1 pictures"),
        ([], "Expected `object`"),
    ],
)
def test_what_is_not_understood_is_told(running: Running, said: object, sentence: str) -> None:
    answer = send(running, said)
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]


def test_outputs_to_shared_memory_are_refused(running: Running) -> None:
    output = {"name": "image_score", "parameters": {"shared_memory_region": "here"}}
    answer = send(running, {"inputs": [IMAGE], "outputs": [output]})
    assert (answer.status_code, "shared memory" in answer.text) == (400, True)


def test_an_unknown_model_is_404_in_the_protocol_s_words(running: Running) -> None:
    answer = send(running, request([png(0)]), "prat")
    assert answer.status_code == 404
    assert answer.json() == {
        "error": "There is no recipe 'prat'. Did you mean 'part'? Known: part."
    }


@pytest.mark.parametrize(
    ("length", "tail", "sentence"),
    [
        (-1, b"", "needs to be a number"),
        ("x", b"", "needs to be a number"),
        ("9" * 30, b"", "needs to be a number"),
        (0, b"", "but the body has"),
        (10**6, b"", "but the body has"),
        (None, struct.pack("<I", 5) + b"12", "cut short"),
        (None, b"123", "cut short"),
    ],
)
def test_binary_that_does_not_add_up_is_told(
    running: Running, length: object, tail: bytes, sentence: str
) -> None:
    parameters = {"binary_data_size": len(tail)}
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": parameters}
    head = json.dumps({"inputs": [image]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head) if length is None else length)}
    answer = httpx.post(
        f"{running.url}/v2/models/part/infer", content=head + tail, headers=headers, timeout=30
    )
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]


def test_a_compressed_body_is_refused(client_of_triton: Any) -> None:
    with pytest.raises(triton.InferenceServerException, match="compressed by 'gzip'"):
        client_of_triton.infer("part", [give_files([png(0)])], request_compression_algorithm="gzip")


def test_a_picture_may_not_be_larger_than_one_alone_may(tmp_path: Path) -> None:
    station = make_station(tmp_path)
    station = replace(station, limits=replace(station.limits, picture_bytes=1000))
    with run_over_http(station) as running:
        answer = send(running, request([b"x" * 1001]))
        assert answer.status_code == 413
        assert "larger than" in answer.json()["error"]
