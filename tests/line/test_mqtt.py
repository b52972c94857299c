import base64
import gc
import ipaddress
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import Empty, SimpleQueue

import pytest
from inspections import end, make_arrival, make_inspection

mqtt = pytest.importorskip("paho.mqtt.client", reason="the extra mqtt is not installed")

from mosquitto import PASSWORDS, PROGRAM, Broker, find_free_port  # noqa: E402  # once paho is there

from padim.line.errors import LineError, SinkError, SourceError  # noqa: E402  # after importorskip
from padim.line.mqtt import MqttPart, MqttSink, MqttSource  # noqa: E402  # after importorskip
from padim.line.settings import MqttSinkSettings, MqttSourceSettings  # noqa: E402  # after importorskip
from padim.store.record import Record  # noqa: E402  # after importorskip

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="mosquitto is not installed"),
    # paho leaves a socket whose handshake failed to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning"),
]
PICTURE = b"\x89PNG picture of a part"
VERSIONS = ("5", "3.1.1")


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack
    gc.collect()  # while what it warns of is ignored


@pytest.fixture
def broker(tmp_path: Path, held: ExitStack) -> Broker:
    broker = Broker(tmp_path / "broker")
    broker.start()
    held.callback(broker.stop)
    return broker


class Plant:
    """A client of somebody else: it sends triggers and hears results."""

    def __init__(self, port: int) -> None:
        self.heard: SimpleQueue[mqtt.MQTTMessage] = SimpleQueue()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self.client.on_message = lambda _client, _data, message: self.heard.put(message)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def send(
        self,
        payload: bytes | dict[str, object],
        *,
        qos: int = 1,
        retain: bool = False,
        words: dict[str, str] | None = None,
    ) -> None:
        properties = mqtt.Properties(mqtt.PacketTypes.PUBLISH)
        if words:
            properties.UserProperty = list(words.items())
        content = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        sent = self.client.publish("line/1/trigger", content, qos, retain, properties)
        sent.wait_for_publish(5)

    def listen(self, topic: str) -> None:
        self.client.subscribe(topic, 1)

    def hear(self, timeout_s: float = 5.0) -> mqtt.MQTTMessage:
        return self.heard.get(timeout=timeout_s)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def plant(broker: Broker, held: ExitStack) -> Plant:
    plant = Plant(broker.port)
    held.callback(plant.close)
    return plant


Open = Callable[..., MqttSource]


@pytest.fixture
def open_source(broker: Broker, held: ExitStack) -> Open:
    def open_it(**more: object) -> MqttSource:
        chosen = {
            "name": "trigger",
            "host": "127.0.0.1",
            "port": broker.port,
            "client": "station",
            "topic": "line/+/trigger",
            "recipe": "part",
            "timeout_s": 5.0,
        }
        source = MqttSource(MqttSourceSettings(**(chosen | more)))  # type: ignore[arg-type]  # of a test
        held.callback(source.close)
        source.open()
        return source

    return open_it


def make_sink(port: int, **more: object) -> MqttSink:
    chosen = {"name": "plc", "host": "127.0.0.1", "port": port, "client": "results"}
    return MqttSink(MqttSinkSettings(**(chosen | {"timeout_s": 5.0} | more)))  # type: ignore[arg-type]  # of a test


def take(source: MqttSource, n_parts: int = 1, timeout_s: float = 5.0) -> list[MqttPart]:
    """So many parts, and no more."""
    parts: list[MqttPart] = []
    end_s = time.monotonic() + timeout_s
    while len(parts) < n_parts and time.monotonic() < end_s:
        parts += source.take(100, 0.2)  # type: ignore[arg-type]  # of MQTT
    assert len(parts) == n_parts
    return parts


def forget(source: MqttSource, *parts: MqttPart) -> None:
    for part in parts:
        source.forget(part, end(make_arrival()))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_message_is_a_picture_or_json_that_has_one(
    version: str, open_source: Open, plant: Plant, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(PICTURE)
    source = open_source(version=version, folder=tmp_path)
    plant.send(PICTURE)
    more = {"serial": "A1", "recipe": "screws", "tags": {"shift": "2"}, "deadline_ms": 250}
    plant.send({"id": "17", "file": "a.png", **more})
    plant.send({"picture": base64.b64encode(PICTURE).decode()})
    raw, named, brought = take(source, 3)
    assert (raw.picture, raw.recipe, raw.serial) == (PICTURE, "part", None)
    assert (named.picture, named.recipe, named.key, named.serial) == (PICTURE, "screws", "17", "A1")
    assert (named.tags, named.deadline_s) == ({"shift": "2"}, 0.25)
    assert brought.picture == PICTURE
    assert len({raw.key, brought.key}) == 2


def test_words_beside_a_picture_say_what_it_is(open_source: Open, plant: Plant) -> None:
    source = open_source()
    plant.send(PICTURE, words={"id": "17", "serial": "A1", "recipe": "screws", "other": "x"})
    (part,) = take(source)
    assert (part.picture, part.key, part.serial, part.recipe) == (PICTURE, "17", "A1", "screws")


def test_the_serial_tells_equal_pictures_apart(open_source: Open, plant: Plant) -> None:
    source = open_source()
    for serial in ("A1", "A2", "A1"):
        plant.send(PICTURE, words={"serial": serial})
    keys = [part.key for part in take(source, 3)]
    assert keys[0] == keys[2] != keys[1]


def test_a_trigger_that_says_nothing_else_is_another_part_each_time(
    open_source: Open, plant: Plant
) -> None:
    source = open_source()
    for payload in (b"", b"", b"{}", b"{}"):
        plant.send(payload)
    parts = take(source, 4)
    assert len({part.key for part in parts}) == 4
    assert all(part.picture is None and part.reason.endswith(".") for part in parts)


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b'{"id": ', "is no JSON"),
        (b'{"id": 17}', "at id, expected str"),
        (b'{"serial": "\\ud800"}', "no Unicode"),
        (b'{"serial": "a\\u0000"}', "a NUL"),
        (b'{"picture": "%%%"}', "is no base64"),
        (b'{"picture": ""}', "The picture has 0 bytes"),
        (b'{"file": "../secret.png"}', "is not in"),
        (b'{"file": "/etc/passwd"}', "is not in"),
        (b'{"file": "."}', "cannot be read"),
        (b'{"file": "missing.png"}', "missing.png is not there"),
        (b'{"file": "' + b"x" * 500 + b'"}', "cannot be read: File name too long"),
        (b"x" * 2000, "The picture has 2000 bytes, but may have 1 to 1000."),
    ],
)
def test_what_cannot_be_understood_is_a_part_with_a_reason(
    payload: bytes, words: str, open_source: Open, plant: Plant, tmp_path: Path
) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "secret.png").write_bytes(PICTURE)
    source = open_source(folder=tmp_path / "pictures", file_wait_s=0.1, picture_bytes=1000)
    plant.send(payload)
    (part,) = take(source)
    assert part.picture is None
    assert words in part.reason
    forget(source, part)
    plant.send(PICTURE)
    assert take(source)[0].picture == PICTURE


def test_a_message_names_a_file_only_where_a_folder_is_given(
    open_source: Open, plant: Plant
) -> None:
    source = open_source()
    plant.send({"file": "a.png"})
    assert take(source)[0].reason == "The message names a file, but the source has no folder."


def test_no_recipe_is_a_reason(open_source: Open, plant: Plant) -> None:
    source = open_source(recipe=None)
    plant.send(PICTURE)
    (part,) = take(source)
    assert (part.picture, part.recipe) == (None, "")
    assert "names no recipe" in part.reason


def test_a_file_may_come_after_its_message_and_holds_nobody_up(
    open_source: Open, plant: Plant, tmp_path: Path
) -> None:
    source = open_source(folder=tmp_path, file_wait_s=5.0)
    plant.send({"file": "late.png"})
    plant.send(PICTURE + b"2")
    (second,) = take(source)
    assert second.picture == PICTURE + b"2"
    (tmp_path / "late.png").write_bytes(PICTURE)
    (first,) = take(source)
    assert first.picture == PICTURE


@pytest.mark.parametrize("version", VERSIONS)
def test_what_was_not_forgotten_comes_again_under_its_key(
    version: str, broker: Broker, open_source: Open, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("padim.line.broker._CLOSE_S", 30.0)  # on a busy machine as well
    source = open_source(version=version)
    for n in range(3):
        plant.send(PICTURE + bytes([n]))
    before = take(source, 3)
    forget(source, before[0])
    source.close()
    broker.wait_for_farewell("station")
    plant.send(PICTURE + bytes([3]))  # while nobody is there
    source.open()
    after = take(source, 3)
    assert [part.key for part in after[:2]] == [part.key for part in before[1:]]
    forget(source, *reversed(after))
    source.close()
    broker.wait_for_farewell("station", 2)
    source.open()
    assert source.take(10, 0.3) == []


def test_messages_are_acknowledged_in_the_order_in_which_they_came(
    open_source: Open, plant: Plant
) -> None:
    source = open_source()
    for n in range(3):
        plant.send(PICTURE + bytes([n]))
    first, second, third = take(source, 3)
    assert source._link is not None
    answered: list[int] = []
    answer = source._link.acknowledge
    source._link.acknowledge = lambda mid: (answered.append(mid), answer(mid))  # type: ignore[method-assign, assignment, func-returns-value]  # told
    forget(source, third, second)
    assert answered == []
    forget(source, first)
    assert answered == [part.message.mid for part in (first, second, third)]


def test_after_a_kill_the_broker_brings_again_what_had_no_verdict(
    broker: Broker, plant: Plant, open_source: Open
) -> None:
    code = (
        "import os, signal, sys\n"
        "from padim.line.mqtt import MqttSource\n"
        "from padim.line.settings import MqttSourceSettings\n"
        "source = MqttSource(MqttSourceSettings(name='t', host='127.0.0.1', "
        f"port={broker.port}, client='station', topic='line/+/trigger', recipe='part'))\n"
        "source.open()\n"
        "print('open', flush=True)\n"
        "parts = []\n"
        "while len(parts) < 2: parts += source.take(10, 1.0)\n"
        "print(*(part.key for part in parts), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL if os.name == 'posix' else signal.SIGTERM)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        plant.send(PICTURE)
        plant.send({"id": "17"})
        keys = process.stdout.readline().split()
        process.wait(20)
    assert process.returncode != 0
    source = open_source()
    assert [part.key for part in take(source, 2)] == keys


@pytest.mark.parametrize("version", VERSIONS)
def test_a_broker_that_is_restarted_is_a_failure_and_then_goes_on(
    version: str, broker: Broker, plant: Plant, open_source: Open
) -> None:
    source = open_source(version=version)
    plant.send(PICTURE)
    (part,) = take(source)
    broker.stop()
    with pytest.raises(SourceError, match="The source trigger has lost the broker"):
        take(source, 1)
    source.close()
    with pytest.raises(SourceError, match=r"cannot reach the broker .*Connection refused"):
        source.open()
    source.close()
    broker.start()
    source.open()
    assert take(source)[0].key == part.key


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_broker_has_kept_is_no_part_unless_it_is_asked_for(
    version: str, open_source: Open, plant: Plant
) -> None:
    plant.send(PICTURE, retain=True)
    source = open_source(version=version)
    assert source.take(10, 0.3) == []
    plant.send(PICTURE + b"2", retain=True)  # one that comes now is a part
    assert take(source)[0].picture == PICTURE + b"2"
    kept = open_source(version=version, retained=True, client="another")
    assert take(kept)[0].picture == PICTURE + b"2"


def test_messages_of_qos_0_are_parts_as_well(open_source: Open, plant: Plant) -> None:
    source = open_source()
    plant.send(PICTURE, qos=0)
    (part,) = take(source)
    forget(source, part)
    assert source.trouble == ""


def test_messages_of_qos_0_that_are_lost_are_told(
    open_source: Open, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("padim.line.mqtt._MOST_WAITING", 2)
    source = open_source()
    for n in range(5):
        plant.send(bytes([n]), qos=0)
    plant.send(PICTURE)
    end_s = time.monotonic() + 5
    while source._messages.qsize() < 3 and time.monotonic() < end_s:
        time.sleep(0.01)
    parts = take(source, 3)
    assert parts[-1].picture == PICTURE
    assert "are lost" in source.trouble


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.skipif(PASSWORDS is None, reason="mosquitto_passwd is not installed")
def test_a_wrong_password_is_a_sentence_and_no_loop(
    version: str, tmp_path: Path, held: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run([str(PASSWORDS), "-b", "-c", str(passwords), "line", "right"], check=True)
    broker = Broker(tmp_path / "b", ["allow_anonymous false", f"password_file {passwords}"])
    broker.start()
    held.callback(broker.stop)
    chosen = {"version": version, "user": "line", "password_variable": "LINE_PASSWORD"}
    sink = make_sink(broker.port, **chosen)
    monkeypatch.setenv("LINE_PASSWORD", "wrong")
    with pytest.raises(SinkError, match="refuses the user line: ") as caught:
        sink.open()
    assert caught.value.is_lasting
    assert "wrong" not in str(caught.value)
    sink.close()
    monkeypatch.setenv("LINE_PASSWORD", "right")
    sink.open()
    sink.deliver([make_inspection()])
    sink.close()
    monkeypatch.delenv("LINE_PASSWORD")
    with pytest.raises(LineError, match="LINE_PASSWORD, which is not set"):
        sink.open()


@pytest.mark.parametrize("version", VERSIONS)
def test_rights_that_are_missing_are_a_sentence(
    version: str, tmp_path: Path, held: ExitStack
) -> None:
    rights = tmp_path / "rights"
    rights.write_text("topic write padim/#\n")
    broker = Broker(tmp_path / "b", ["allow_anonymous true", f"acl_file {rights}"])
    broker.start()
    held.callback(broker.stop)
    sink = make_sink(broker.port, version=version, topic="forbidden/{recipe}")
    sink.open()
    held.callback(sink.close)
    if version == "3.1.1":  # which has no way to say so
        sink.deliver([make_inspection()])
        return
    with pytest.raises(SinkError, match="refuses what the sink plc sends to forbidden/part") as one:
        sink.deliver([make_inspection()])
    assert one.value.is_lasting


@pytest.mark.parametrize("version", VERSIONS)
def test_a_record_is_published_and_the_broker_has_it(
    version: str, broker: Broker, plant: Plant, held: ExitStack
) -> None:
    plant.listen("padim/+/inspections")
    sink = make_sink(broker.port, version=version)
    held.callback(sink.close)
    sink.open()
    found = [make_inspection() for _ in range(50)] + [make_inspection(recipe="a/b+#")]
    sink.deliver(found)
    heard = [plant.hear() for _ in found]
    assert [json.loads(one.payload) for one in heard] == [
        json.loads(json.dumps(Record.of(one).to_dict())) for one in found
    ]
    assert {one.topic for one in heard} == {"padim/part/inspections", "padim/a_b__/inspections"}
    assert not any(one.retain for one in heard)


def test_the_status_says_online_again_and_again_and_offline_at_the_end(
    broker: Broker, plant: Plant
) -> None:
    sink = make_sink(broker.port, heartbeat_s=0.2)
    sink.open()
    plant.listen("padim/results/status")
    first = plant.hear()
    assert (first.payload, first.retain) == (b"online", True)
    end_s = time.monotonic() + 0.5
    while time.monotonic() < end_s:
        sink.check()
        time.sleep(0.05)
    assert plant.hear().payload == b"online"
    sink.close()
    while plant.hear().payload != b"offline":
        pass


def test_the_last_will_says_offline_for_one_that_was_killed(broker: Broker, plant: Plant) -> None:
    plant.listen("padim/results/status")
    code = (
        "import os, signal\n"
        "from padim.line.mqtt import MqttSink\n"
        "from padim.line.settings import MqttSinkSettings\n"
        "sink = MqttSink(MqttSinkSettings(name='plc', host='127.0.0.1', "
        f"port={broker.port}, client='results'))\n"
        "sink.open()\n"
        "os.kill(os.getpid(), signal.SIGKILL if os.name == 'posix' else signal.SIGTERM)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False, timeout=30)
    assert plant.hear().payload == b"online"
    assert plant.hear().payload == b"offline"


def test_a_sink_whose_broker_is_gone_says_so_while_it_has_nothing_to_deliver(
    broker: Broker,
) -> None:
    sink = make_sink(broker.port)
    sink.open()
    broker.stop()
    assert sink._link is not None
    end_s = time.monotonic() + 5
    while sink._link._trouble is None and time.monotonic() < end_s:
        time.sleep(0.01)
    with pytest.raises(SinkError, match="has lost the broker"):
        sink.check()
    sink.close()


def test_a_broker_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sink = make_sink(silent.getsockname()[1], timeout_s=0.3)
        began_s = time.monotonic()
        with pytest.raises(SinkError, match=r"has not answered within 0.3 s"):
            sink.open()
        sink.close()
    assert time.monotonic() - began_s < 5


def write_certificates(folder: Path, address: str = "127.0.0.1") -> None:
    """An authority, and a certificate of it for an address: ca.pem, server.pem, server.key."""
    x509 = pytest.importorskip("cryptography.x509", reason="nothing here makes certificates")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def name(text: str) -> object:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    now = datetime.now(UTC)
    keys = {who: ec.generate_private_key(ec.SECP256R1()) for who in ("ca", "server")}
    for who in keys:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(f"test {who}"))
            .issuer_name(name("test ca"))
            .public_key(keys[who].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=who == "ca", path_length=None), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(keys["ca"].public_key()),
                critical=False,
            )
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(keys[who].public_key()), critical=False
            )
        )
        if who == "server":
            place = x509.IPAddress(ipaddress.ip_address(address))
            builder = builder.add_extension(x509.SubjectAlternativeName([place]), critical=False)
        certificate = builder.sign(keys["ca"], hashes.SHA256())
        pem = serialization.Encoding.PEM
        (folder / f"{who}.pem").write_bytes(certificate.public_bytes(pem))
        (folder / f"{who}.key").write_bytes(
            keys[who].private_bytes(
                pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


def start_tls(tmp_path: Path, held: ExitStack, *lines: str) -> Broker:
    chosen = [
        f"cafile {tmp_path}/ca.pem",
        f"certfile {tmp_path}/server.pem",
        f"keyfile {tmp_path}/server.key",
        "allow_anonymous true",
    ]
    broker = Broker(tmp_path / "tls", [*chosen, *lines])
    broker.start()
    held.callback(broker.stop)
    return broker


def test_tls_with_an_authority_of_our_own(tmp_path: Path, held: ExitStack) -> None:
    write_certificates(tmp_path)
    broker = start_tls(tmp_path, held)
    sink = make_sink(broker.port, ca=tmp_path / "ca.pem")
    sink.open()
    sink.deliver([make_inspection()])
    sink.close()
    stranger = make_sink(broker.port, tls=True)
    with pytest.raises(SinkError, match="does not trust the broker") as caught:
        stranger.open()
    assert caught.value.is_lasting
    stranger.close()
    plain = make_sink(broker.port, timeout_s=2.0)
    with pytest.raises(SinkError):
        plain.open()
    plain.close()


def test_a_certificate_for_another_address_is_not_trusted(tmp_path: Path, held: ExitStack) -> None:
    write_certificates(tmp_path, "10.9.8.7")
    broker = start_tls(tmp_path, held)
    sink = make_sink(broker.port, ca=tmp_path / "ca.pem")
    with pytest.raises(SinkError, match="does not trust the broker"):
        sink.open()
    sink.close()


def test_a_broker_may_ask_for_our_certificate(tmp_path: Path, held: ExitStack) -> None:
    write_certificates(tmp_path)
    broker = start_tls(tmp_path, held, "require_certificate true")
    ours = {"certificate": tmp_path / "server.pem", "key": tmp_path / "server.key"}
    sink = make_sink(broker.port, ca=tmp_path / "ca.pem", **ours)
    sink.open()
    sink.deliver([make_inspection()])
    sink.close()
    without = make_sink(broker.port, ca=tmp_path / "ca.pem", timeout_s=2.0)
    with pytest.raises(SinkError):
        without.open()
    without.close()


def test_files_that_are_no_certificates_are_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    sink = make_sink(find_free_port(), ca=tmp_path / "ca.pem")
    with pytest.raises(SinkError, match=r"cannot use .*ca\.pem") as caught:
        sink.open()
    assert caught.value.is_lasting
    sink.close()


def test_nothing_is_heard_that_was_not_sent(broker: Broker, plant: Plant) -> None:
    plant.listen("#")
    with pytest.raises(Empty):
        plant.hear(0.2)
