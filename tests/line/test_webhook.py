import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from inspections import make_inspection

from padim.line.errors import LineError, SinkError
from padim.line.settings import WebhookSettings
from padim.line.webhook import Webhook
from padim.store.record import Record


class Receiver(ThreadingHTTPServer):
    """A server that answers as it is told, and remembers what it was posted."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = 204
        self.stalls_s = 0.0
        self.trickles = False
        self.posts: list[tuple[dict[str, str], bytes]] = []
        self.n_connections = 0
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/verdicts?line=1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Receiver

    def setup(self) -> None:
        super().setup()
        self.server.n_connections += 1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posts.append((dict(self.headers), body))
        assert self.path == "/verdicts?line=1"
        if self.server.stalls_s:
            self.server.released.wait(self.server.stalls_s)
        if self.server.trickles:
            while not self.server.released.wait(0.02):
                self.wfile.write(b"H")
        self.send_response(self.server.status)
        if self.server.status == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


def make(url: str, **more: object) -> Webhook:
    sink = Webhook(WebhookSettings(name="mes", url=url, **more))  # type: ignore[arg-type]  # of a test
    sink.open()
    return sink


def test_each_record_is_posted_with_its_id_on_one_connection(receiver: Receiver) -> None:
    found = [make_inspection() for _ in range(3)]
    sink = make(receiver.url)
    sink.deliver(found)
    for (headers, body), one in zip(receiver.posts, found, strict=True):
        assert headers["Idempotency-Key"] == one.arrival.id
        assert headers["Content-Type"] == "application/json"
        assert json.loads(body) == json.loads(json.dumps(Record.of(one).to_dict()))
    assert receiver.n_connections == 1
    sink.close()


def test_a_secret_signs_and_a_token_shows_who_posts(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "key")
    monkeypatch.setenv("TOKEN", "word")
    sink = make(receiver.url, secret_variable="SECRET", token_variable="TOKEN")
    sink.deliver([make_inspection()])
    headers, body = receiver.posts[0]
    expected = hmac.new(b"key", body, hashlib.sha256).hexdigest()
    assert headers["X-Padim-Signature"] == f"sha256={expected}"
    assert headers["Authorization"] == "Bearer word"
    sink.close()


def test_a_secret_that_is_not_set_is_said_before_anything_is_posted() -> None:
    sink = Webhook(WebhookSettings(name="mes", url="http://x", secret_variable="NOT_SET"))
    with pytest.raises(LineError, match="NOT_SET, which is not set") as caught:
        sink.open()
    assert caught.value.is_lasting


@pytest.mark.parametrize(
    ("status", "is_lasting"),
    [
        (500, False),
        (503, False),
        (429, False),
        (408, False),
        (302, True),
        (400, True),
        (404, True),
        (422, True),
    ],
)
def test_what_will_not_go_away_by_itself_is_told_apart(
    receiver: Receiver, status: int, is_lasting: bool
) -> None:
    receiver.status = status
    sink = make(receiver.url)
    one = make_inspection()
    with pytest.raises(SinkError, match=f"answers {status} .* {one.arrival.id}") as caught:
        sink.deliver([one])
    assert caught.value.is_lasting is is_lasting
    assert len(receiver.posts) == 1
    sink.close()


def test_one_that_fails_gets_it_again_when_it_comes_back(receiver: Receiver) -> None:
    receiver.status = 500
    sink = make(receiver.url)
    found = [make_inspection()]
    with pytest.raises(SinkError, match="sent again later"):
        sink.deliver(found)
    receiver.status = 200
    sink.deliver(found)
    keys = {headers["Idempotency-Key"] for headers, _ in receiver.posts}
    assert keys == {found[0].arrival.id}
    sink.close()


@pytest.mark.parametrize("how", ["stalls", "trickles"])
def test_one_that_takes_too_long_is_cut_off(receiver: Receiver, how: str) -> None:
    receiver.stalls_s = 20.0 if how == "stalls" else 0.0
    receiver.trickles = how == "trickles"
    sink = make(receiver.url, timeout_s=0.3)
    began_s = time.monotonic()
    with pytest.raises(SinkError, match=r"has not answered within 0.3 s"):
        sink.deliver([make_inspection()])
    assert time.monotonic() - began_s < 5
    receiver.released.set()
    receiver.stalls_s, receiver.trickles = 0.0, False
    sink.deliver([make_inspection()])
    sink.close()


def test_a_connection_that_the_receiver_has_ended_is_made_anew(receiver: Receiver) -> None:
    sink = make(receiver.url)
    sink.deliver([make_inspection()])
    assert sink._connection is not None
    sink._connection.sock.shutdown(socket.SHUT_RDWR)
    sink.deliver([make_inspection()])
    assert receiver.n_connections == 2
    sink.check()
    assert sink._connection is None


def test_one_that_is_not_there_is_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    sink = make(f"http://127.0.0.1:{port}/")
    with pytest.raises(SinkError, match="cannot be reached: Connection refused") as caught:
        sink.deliver([make_inspection()])
    assert not caught.value.is_lasting


def test_what_is_no_http_is_a_sentence() -> None:
    def answer(held: socket.socket) -> None:
        connection, _ = held.accept()
        connection.recv(1 << 16)
        connection.sendall(b"220 mail.example\r\n\r\n")
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as held:
        thread = threading.Thread(target=answer, args=(held,))
        thread.start()
        sink = make(f"http://127.0.0.1:{held.getsockname()[1]}/")
        with pytest.raises(SinkError, match="cannot be reached"):
            sink.deliver([make_inspection()])
        thread.join()
