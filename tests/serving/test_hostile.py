"""Whatever is sent: a declared status, one sentence, and the service lives on."""

import gzip
import io
import json
import select
import socket
import struct
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image
from serving_station import Running, make_station, run_over_http

from padim.serving import bodies, connections

PLACE = "/v1/recipes/part/inspections"
DECLARED = {400, 401, 403, 404, 405, 408, 413, 415, 422, 503}


def png(size_px: tuple[int, int] = (80, 100)) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (*size_px, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    checked = kind + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))


def bomb_png(side_px: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + chunk(b"IEND", b"")


@pytest.fixture(autouse=True)
def lives_on(running: Running) -> Iterator[None]:
    """After each test a picture is inspected as ever, and nothing of it is left behind."""
    yield
    answer = httpx.post(running.url + PLACE, content=png(), timeout=30)
    assert answer.json()["verdict"] in ("OK", "NOK")
    deadline_s = time.monotonic() + 10
    while running.service.room.n_held or running.service.inspector.n_open:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def require_told(answer: httpx.Response, status: int, words: str) -> None:
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]


@contextmanager
def connect(running: Running) -> Iterator[socket.socket]:
    with socket.create_connection(running.address, timeout=20) as connection:
        yield connection


def receive(connection: socket.socket) -> tuple[int, bytes]:
    """All that comes until the other side closes: status and body; 0 when nothing came."""
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    head, _, body = b"".join(parts).partition(b"\r\n\r\n")
    return (int(head.split()[1]) if head else 0), body


def receive_head(connection: socket.socket) -> int:
    """The status of an answer to whom may send more."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(1)
    return int(answer.split()[1])


def send_slowly(connection: socket.socket, parts: Iterable[bytes]) -> None:
    """Send parts until the other side has answered."""
    connection.setblocking(False)
    for part in parts:
        if select.select([connection], [], [], 0.01)[0] and not connection.recv(1, socket.MSG_PEEK):
            break
        connection.send(part)
    connection.settimeout(20)


def send(running: Running, content: bytes) -> tuple[int, bytes]:
    with connect(running) as connection:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        return receive(connection)


def head(running: Running, *lines: str, method: str = "POST", place: str = PLACE) -> bytes:
    first = (f"{method} {place} HTTP/1.1", f"Host: 127.0.0.1:{running.address[1]}")
    return "\r\n".join((*first, *lines, "", "")).encode("latin-1")


@pytest.mark.parametrize("n_sent", [0, 40])
def test_a_head_that_stops_is_answered_and_closed(
    running: Running, monkeypatch: pytest.MonkeyPatch, n_sent: int
) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.3)
    with connect(running) as connection:
        connection.sendall(head(running)[:n_sent])
        status, body = receive(connection)
    assert status == 408
    assert "did not come whole" in json.loads(body)["error"]


def test_a_head_of_single_bytes_is_answered_and_closed(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.3)
    started_s = time.monotonic()
    with connect(running) as connection:
        send_slowly(connection, (bytes([byte]) for byte in head(running, "X: " + "a" * 10_000)))
        assert receive(connection)[0] == 408
    assert time.monotonic() - started_s < 5


def test_a_connection_that_was_used_waits_no_longer(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.3)
    with connect(running) as connection:
        connection.sendall(head(running, method="GET", place="/livez"))
        assert receive_head(connection) == 200
        assert connection.recv(3, socket.MSG_WAITALL) == b"ok\n"
        time.sleep(0.1)
        connection.sendall(b"GET /livez")  # ends uvicorn's own patience
        status, _ = receive(connection)
    assert status == 408


def test_a_body_of_single_bytes_is_taken_if_it_comes_in_time(running: Running) -> None:
    content = png((4, 4))
    with connect(running) as connection:
        connection.sendall(head(running, f"Content-Length: {len(content)}", "Connection: close"))
        for byte in content:
            connection.sendall(bytes([byte]))
        status, body = receive(connection)
    assert status == 200
    assert json.loads(body)["verdict"] in ("OK", "NOK")


def test_a_body_that_stops_is_408(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "_UPLOAD_S", 0.3)
    monkeypatch.setattr(connections, "HEAD_S", 0.3)
    with connect(running) as connection:
        connection.sendall(head(running, "Content-Length: 1000") + b"begin")
        status, body = receive(connection)
    assert status == 408
    assert "did not come whole" in json.loads(body)["error"]


def test_a_body_that_is_refused_is_not_taken_for_ever(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.3)
    started_s = time.monotonic()
    with connect(running) as connection:
        connection.sendall(head(running, "Content-Type: text/html", f"Content-Length: {1 << 40}"))
        assert receive_head(connection) == 415
        with pytest.raises(OSError, match=r"."):
            send_slowly(connection, repeat(bytes(1000)))
    assert time.monotonic() - started_s < 5


def test_a_cut_upload_is_no_inspection(running: Running) -> None:
    before = len(running.service.store.find(limit=1000))
    for _ in range(20):
        with connect(running) as connection:
            connection.sendall(head(running, "Content-Length: 100000") + bytes(50_000))
    status, _ = send(running, head(running, "Transfer-Encoding: chunked") + b"10\r\nhalf")
    assert status in (0, 400)
    assert len(running.service.store.find(limit=1000)) == before


def test_a_client_that_leaves_before_its_answer_has_its_inspection_written(
    running: Running,
) -> None:
    content = png()
    with connect(running) as connection:
        serial = PLACE + "?serial=left"
        announced = head(running, f"Content-Length: {len(content)}", place=serial)
        connection.sendall(announced + content)
    deadline_s = time.monotonic() + 10
    while not any(one.arrival.serial == "left" for one in running.service.store.find(limit=10)):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data; boundary=x",
        "application/json",
        "application/x-www-form-urlencoded",
        "text/html",
    ],
)
def test_bodies_of_another_kind_are_415(client: httpx.Client, kind: str) -> None:
    answer = client.post(PLACE, content=png(), headers={"Content-Type": kind})
    require_told(answer, 415, "needs to be the bytes of an image file")


def test_a_compressed_body_is_415(client: httpx.Client) -> None:
    content = gzip.compress(bytes(1 << 24))
    answer = client.post(PLACE, content=content, headers={"Content-Encoding": "gzip"})
    require_told(answer, 415, "needs to come as it is")


def test_what_is_announced_too_large_is_refused_before_it_is_read(running: Running) -> None:
    with connect(running) as connection:
        announced = head(running, f"Content-Length: {1 << 30}", "Expect: 100-continue")
        connection.sendall(announced)
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")


def test_what_grows_too_large_is_refused(tmp_path: Path) -> None:
    station = make_station(tmp_path)
    station = replace(station, limits=replace(station.limits, picture_bytes=100_000))
    with run_over_http(station) as running:

        def grow() -> Iterator[bytes]:
            for _ in range(200):
                yield bytes(1000)

        require_told(httpx.post(running.url + PLACE, content=grow()), 413, "larger than")


def test_a_chunked_body_is_taken(client: httpx.Client) -> None:
    content = png()
    parts = (content[place : place + 7] for place in range(0, len(content), 7))
    assert client.post(PLACE, content=parts).json()["verdict"] in ("OK", "NOK")


def test_an_empty_body_is_400(client: httpx.Client) -> None:
    require_told(client.post(PLACE, content=b""), 400, "has no body")


BOMBS = {
    "PNG": bomb_png(60_000),
    "PNG of 2**31": bomb_png(2**31 - 1),
    "PNG text": bomb_png(
        8, *(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 26))) for _ in range(4))
    ),
    "PNG profile": bomb_png(8, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 27)))),
    "GIF": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b"," + bytes(20),
    "BMP": b"BM"
    + struct.pack("<IHHI", 100, 0, 0, 54)
    + struct.pack("<IiiHHIIiiII", 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
    "PPM": b"P6 60000 60000 255\n" + bytes(100),
    "PPM of many digits": b"P6 " + b"9" * 5000 + b" 1 255\n",
    "TIFF": b"II*\0\x08\0\0\0\x04\0"
    + b"".join(
        struct.pack("<HHII", tag, 4, 1, value)
        for tag, value in ((256, 60_000), (257, 60_000), (258, 8), (262, 1))
    )
    + bytes(4),
    "JPEG": b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03\x01\x22\0\x02\x11\1\x03\x11\1"
    + b"\xff\xda\x00\x0c\x03\x01\0\x02\x11\x03\x11\0?\0"
    + bytes(100),
    "WebP": b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0/\xff\xff\xff\x0f" + bytes(8),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_not_inspected(client: httpx.Client, kind: str) -> None:
    answer = client.post(PLACE, content=BOMBS[kind])
    require_told(answer, 422, ".")
    found = client.get(f"/v1/inspections/{answer.json()['id']}").json()
    assert found["verdict"] == "NOT INSPECTED"
    assert found["reason"] == answer.json()["error"]


def test_pixels_are_limited_before_they_are_decoded(tmp_path: Path) -> None:
    before = Image.MAX_IMAGE_PIXELS
    station = make_station(tmp_path)
    station = replace(station, limits=replace(station.limits, picture_px=8000))
    with run_over_http(station) as running:
        taken, refused = (
            httpx.post(running.url + PLACE, content=png(size), timeout=30)
            for size in ((80, 100), (80, 101))
        )
    assert taken.status_code == 200
    require_told(refused, 422, "The picture has more than 8000 pixels, the most that is taken.")
    assert before == Image.MAX_IMAGE_PIXELS


def test_bombs_do_not_let_memory_grow(client: httpx.Client) -> None:
    def bother() -> None:
        for content in BOMBS.values():
            client.post(PLACE, content=content)
        client.post(PLACE, content=png())

    for _ in range(3):
        bother()
    before = psutil.Process().memory_info().rss
    for _ in range(8):
        bother()
    assert psutil.Process().memory_info().rss - before < 64 << 20


@pytest.mark.parametrize(
    "query", ["serial=%FF%FE", "%C3=%28", "serial=%00", "a=%ED%A0%80", "=", "&;"]
)
def test_text_that_is_none_is_kept_as_far_as_it_is(client: httpx.Client, query: str) -> None:
    answer = client.post(f"{PLACE}?{query}", content=png())
    assert answer.status_code == 200
    found = client.get(f"/v1/inspections/{answer.json()['id']}").json()
    assert (found["serial"], found["tags"]) == (answer.json()["serial"], answer.json()["tags"])


@pytest.mark.parametrize(
    "query",
    [
        "deadline_ms=nan",
        "deadline_ms=-1",
        "deadline_ms=1e999",
        "map=exe",
        "overlay=..",
        f"serial={'a' * 201}",
        f"k={'a' * 201}",
        "&".join(f"k{n}=1" for n in range(40)),
    ],
)
def test_queries_that_cannot_be_used_are_400(client: httpx.Client, query: str) -> None:
    require_told(client.post(f"{PLACE}?{query}", content=png()), 400, ".")


@pytest.mark.parametrize(
    "lines",
    [
        ("X-Huge: " + "a" * 200_000,),
        tuple(f"X-{n}: {'a' * 100}" for n in range(2000)),
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: -5",),
        ("Content-Length: " + "9" * 5000,),
        ("Content-Length: x",),
        ("Transfer-Encoding: gzip",),
        ("Transfer-Encoding: chunked, chunked",),
        ("X\x00: a",),
    ],
)
def test_heads_that_are_none_are_400(running: Running, lines: tuple[str, ...]) -> None:
    with connect(running) as connection:
        connection.sendall(head(running, *lines))
        status, body = receive(connection)
    assert status == 400
    assert "is no HTTP/1.1" in json.loads(body)["error"]


@pytest.mark.parametrize(
    "content",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\r\n" * 1000 + b"\0" * 1000,
        b"GET\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: [\r\n\r\n",
        bytes(range(256)) * 100,
    ],
)
def test_what_is_no_request_is_refused(running: Running, content: bytes) -> None:
    assert send(running, content)[0] in DECLARED | {0}


@pytest.mark.parametrize("host", ["[", "evil.example", "", "]", "127.0.0.1:x", "127.0.0.1@evil"])
def test_a_host_that_is_another_is_403(running: Running, host: str) -> None:
    content = f"GET /v1/recipes HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    status, body = send(running, content.encode())
    if host == "127.0.0.1:x":  # whose name is that of this machine
        assert status in (200, 403)
        return
    assert status == 403
    assert json.loads(body)["error"]


@pytest.mark.parametrize("origin", ["http://[", "null", "http://evil.example", "\xff"])
def test_an_origin_that_is_another_is_403(running: Running, origin: str) -> None:
    sent = head(running, f"Origin: {origin}", "Content-Length: 0", "Connection: close")
    status, body = send(running, sent)
    assert status == 403
    assert json.loads(body)["error"]


@pytest.mark.parametrize(
    "place",
    [
        "/v1/inspections/../../../etc/passwd",
        "/v1/inspections/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/v1/inspections/%00",
        "/v1/inspections/%ff",
        "/v1/inspections/%ED%A0%80",
        "/v1/inspections/" + "a" * 60_000,
        "/v1/recipes/..%2f..%2fpart",
        "/v1/recipes/%00/",
        "/v2/models/..%5c..",
        "/v2/models/%ff/ready",
        "//evil.example/v1/recipes/x",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/v1//recipes//part",
        "/static/..%2f..%2fapp.py",
        "*",
    ],
)
def test_tricks_with_paths_find_nothing(running: Running, place: str) -> None:
    sent = head(running, "Connection: close", method="GET", place=place)
    with connect(running) as connection:
        connection.sendall(sent)
        status, body = receive(connection)
    assert status in (307, 400, 404), body
    assert b"root:" not in body


@pytest.mark.parametrize("method", ["DELETE", "TRACE", "CONNECT", "BREW", "PATCH"])
def test_other_methods_are_refused(running: Running, method: str) -> None:
    sent = head(running, "Content-Length: 0", "Connection: close", method=method)
    assert send(running, sent)[0] in (400, 403, 405)


def test_many_idle_connections_keep_nobody_out(running: Running, client: httpx.Client) -> None:
    idle = [socket.create_connection(running.address) for _ in range(200)]
    try:
        assert client.get("/livez").status_code == 200
        assert client.post(PLACE, content=png()).status_code == 200
    finally:
        for one in idle:
            one.close()


def test_a_listener_that_reads_nothing_keeps_nobody_out(
    running: Running, client: httpx.Client
) -> None:
    with connect(running) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        content = png()
        place = PLACE + "?map=npy&overlay=jpeg"
        for _ in range(20):  # answers pile up on a connection that is not read
            announced = head(running, f"Content-Length: {len(content)}", place=place)
            connection.sendall(announced + content)
        assert client.post(PLACE, content=png()).status_code == 200


def test_json_that_is_deep_or_long_is_refused(running: Running) -> None:
    place = f"{running.url}/v2/models/part/infer"
    for content in (
        b"[" * 100_000,
        b'{"inputs":' + b"[" * 100_000,
        b'{"inputs":[{"name":"image","datatype":"UINT8","shape":[1],"data":' + b"[" * 100_000,
        b'{"inputs":' + b"9" * 100_000 + b"}",
        b'{"inputs":[{"name":"\\ud800"}]}',
        b'{"inputs":[{"name":"image\xff"}]}',
        b'{"a":"' + b"a" * (17 << 20) + b'"}',
        b"",
        b"null",
    ):
        answer = httpx.post(place, content=content, timeout=30)
        assert answer.status_code == 400, answer.text
        assert len(answer.json()["error"]) < 600
