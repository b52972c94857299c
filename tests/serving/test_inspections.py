"""Pictures over HTTP, as other programs send them, to a service that runs."""

import base64
import errno
import io
import os
import shutil
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from serving_station import MODEL, Running, make_station, run_over_http

from padim.errors import PadimError
from padim.line.protocols import Part
from padim.scoring.prediction import Prediction
from padim.serving.service import run_service
from padim.store.inspection import Verdict

URL = "/v1/recipes/part/inspections"


def picture(seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_a_picture_is_answered_with_its_record(running: Running, client: httpx.Client) -> None:
    content = picture()
    answer = client.post(URL, content=content, params={"serial": "A7", "shift": "2"})
    assert answer.status_code == 200
    record = answer.json()
    expected = running.service.recipes.use("part").predictor.predict(content)
    assert record["score"] == pytest.approx(expected.score)
    assert record["p_value"] == expected.p_value
    assert record["label"] == expected.label
    assert record["verdict"] == {"anomalous": "NOK", "normal": "OK"}[str(expected.label)]
    assert (record["serial"], record["tags"]) == ("A7", {"shift": "2"})
    assert client.get(f"/v1/inspections/{record['id']}").json() == record


def test_a_map_and_an_overlay_come_when_asked_for(running: Running, client: httpx.Client) -> None:
    content = picture(1)
    expected = running.service.recipes.use("part").predictor.predict(content).source_map()
    answer = client.post(URL, content=content, params={"map": "npy", "overlay": "jpeg"}).json()
    found = np.load(io.BytesIO(base64.b64decode(answer["map"])))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    drawn = Image.open(io.BytesIO(base64.b64decode(answer["overlay"])))
    assert (drawn.format, drawn.size) == ("JPEG", (60, 40))
    answer = client.post(URL, content=content, params={"map": "png"}).json()
    steps = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["map"]))))
    np.testing.assert_allclose(steps / 256, expected, atol=0.5 / 256 + 1e-6)
    assert answer["overlay"] is None


def test_a_verdict_does_not_wait_for_its_picture(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(_one: Prediction) -> Image.Image:
        gate.wait(30)
        return Image.new("RGB", (8, 8))

    gate = threading.Event()
    monkeypatch.setattr(Prediction, "draw", draw)
    words = {"overlay": "jpeg", "deadline_ms": "1500"}
    answer = client.post(URL, content=picture(1), params=words)
    gate.set()
    assert answer.status_code == 200
    assert answer.json()["verdict"] in ("OK", "NOK")
    assert answer.json().get("overlay") is None


def test_keys_of_a_part_are_searched_for(client: httpx.Client) -> None:
    ids = []
    for number, line in enumerate(("left", "right", "left")):
        headers = {"X-Tag-Line": line}
        answer = client.post(URL, content=picture(number), headers=headers, params={"serial": "S"})
        ids.append(answer.json()["id"])

    def find(**params: str) -> list[str]:
        return [one["id"] for one in client.get("/v1/inspections", params=params).json()]

    assert find(serial="S") == ids[::-1]
    assert find(line="left") == [ids[2], ids[0]]
    assert find(serial="S", before=ids[2], limit="1") == [ids[1]]
    assert find(serial="S", recipe="other") == []
    assert find(serial="S", until="2020-01-01T00:00:00Z") == []
    assert find(serial="S", since="2020-01-01T00:00:00Z") == ids[::-1]


def test_the_picture_is_given_again_where_it_was_kept(client: httpx.Client) -> None:
    answer = client.post(URL, content=b"\x89PNG no picture").json()
    assert answer["verdict"] == Verdict.NOT_INSPECTED
    found = client.get(f"/v1/inspections/{answer['id']}/picture")
    assert found.content == b"\x89PNG no picture"
    assert found.headers["content-type"] == "image/png"
    assert client.get("/v1/inspections/none/picture").status_code == 404


@pytest.mark.parametrize(
    ("method", "url", "content", "headers", "status", "words"),
    [
        ("POST", "/v1/recipes/prat/inspections", b"x", {}, 404, "Did you mean 'part'?"),
        ("POST", URL, b"", {}, 400, "has no body"),
        ("POST", URL, b"x", {"Content-Type": "application/json"}, 415, "--data-binary"),
        ("POST", f"{URL}?map=gif", b"x", {}, 400, "map cannot be used"),
        ("POST", f"{URL}?deadline_ms=0", b"x", {}, 400, "deadline_ms cannot be used"),
        ("POST", URL, b"no picture", {}, 422, "The picture cannot be read as an image: "),
        ("POST", URL, b"x", {"Origin": "http://evil.example"}, 403, "may change nothing"),
        ("POST", URL, b"x", {"Host": "evil.example"}, 403, "answers to localhost alone"),
        ("GET", "/v1/inspections/none", b"", {}, 404, "no inspection 'none'"),
        ("GET", "/v1/inspections?since=yesterday", b"", {}, 400, "since cannot be used"),
        ("GET", "/nothing", b"", {}, 404, "no such path"),
        ("PATCH", "/v1/recipes", b"", {}, 405, "no such method"),
        ("GET", "/v1/inspections?since=0001-01-01T00:00", b"", {}, 400, "is no time"),
        (
            "PUT",
            "/v1/recipes/part/model",
            b"no model",
            {},
            422,
            "The model that was sent is no graph",
        ),
        ("POST", "/v1/recipes/part/rollback", b"", {}, 409, "There is no way back"),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(
    client: httpx.Client,
    method: str,
    url: str,
    content: bytes,
    headers: dict[str, str],
    status: int,
    words: str,
) -> None:
    answer = client.request(method, url, content=content, headers=headers)
    assert answer.status_code == status
    assert words in answer.json()["error"]


def test_a_model_is_changed_and_comes_back(running: Running, client: httpx.Client) -> None:
    url = "/v1/recipes/part"
    before = client.get(url).json()
    path = running.service.recipes["part"].settings.model
    answer = client.put(f"{url}/model", content=path.read_bytes())
    assert answer.status_code == 200
    assert answer.json()["previous"] == before["current"]
    assert client.post(URL, content=picture()).status_code == 200
    assert client.post(f"{url}/rollback").json()["current"] == before["current"]
    assert client.get("/readyz").text == "ok\n"


def test_prometheus_reads_what_was_inspected(client: httpx.Client) -> None:
    client.post(URL, content=b"no picture")
    text = client.get("/metrics").text
    counts = [
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith('padim_inspections_total{recipe="part",verdict="NOT INSPECTED"}')
    ]
    assert len(counts) == 1
    assert counts[0] >= 1
    assert "padim_drift_evidence" in text


def test_a_recipe_that_is_not_there_is_no_series_of_its_own(running: Running) -> None:
    service = running.service
    for name in ("no-such-1", "no-such-2"):
        part = Part(b"", name, time.time(), name)
        service.inspector.inspect_part(part, "test").result(30)
    text = service.metrics.write().decode()
    assert 'recipe="unknown",verdict="NOT INSPECTED"' in text
    assert "no-such" not in text


def test_a_database_that_cannot_be_written_is_not_ready(
    running: Running, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running.service.writer, "_trouble", "The database cannot be used.")
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["error"]) == (503, "The database cannot be used.")


def test_a_shadow_that_fails_takes_no_station_from_its_pictures(
    running: Running, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = running.service.recipes["part"]
    monkeypatch.setattr(recipe, "shadow_trouble", "The shadow scores nothing: it is damaged.")
    assert client.get("/readyz").status_code == 200
    assert "shadow scores nothing" in client.get("/v1/recipes/part").json()["trouble"]


def test_a_station_that_another_may_be_is_not_ready(running: Running, client: httpx.Client) -> None:
    running.service.is_lost.set()
    answer = client.get("/readyz")
    running.service.is_lost.clear()
    assert answer.status_code == 503
    assert "another service may take its name" in answer.json()["error"]


def test_files_of_a_model_that_cannot_be_had_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "part.onnx")

    recipe, content = "/v1/recipes/part", MODEL.read_bytes()
    with (
        run_over_http(make_station(tmp_path)) as running,
        httpx.Client(base_url=running.url, timeout=60) as client,
    ):
        assert client.put(f"{recipe}/model", content=content).status_code == 200
        shutil.rmtree(tmp_path / "models")
        gone = client.post(f"{recipe}/rollback")
        monkeypatch.setattr(Path, "write_bytes", fill)
        full = client.put(f"{recipe}/model", content=content)
        assert client.get(recipe).json()["current"]
    for answer, words in ((gone, "No such file"), (full, "Free the disk")):
        assert answer.status_code == 409
        assert words in answer.json()["error"]


def test_two_services_do_not_serve_from_one_folder(tmp_path: Path) -> None:
    station = make_station(tmp_path)
    with run_over_http(station), pytest.raises(PadimError, match="Name another folder"):
        run_service(station).__enter__()
    with run_over_http(station) as running:
        assert httpx.get(f"{running.url}/readyz").status_code == 200
