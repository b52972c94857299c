"""Triggers and records over MQTT."""

import base64
import binascii
import hashlib
import json
import queue
import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import paho.mqtt.client as mqtt
from msgspec import Meta
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from padim.documents import Document
from padim.errors import PadimError
from padim.line.errors import SinkError, SourceError
from padim.line.protocols import Part
from padim.line.settings import (
    BrokerSettings,
    MqttSinkSettings,
    MqttSourceSettings,
    Name,
    read_secret,
)
from padim.store.inspection import Inspection
from padim.store.record import Record

_QOS = 1  # at least once
_CONNECT_S = 10.0
_PUBLISH_S = 30.0
_KEEPALIVE_S = 20
_MOST_BYTES = 1 << 28  # of a message
_MOST_WAITING = 1000  # messages that came and were not taken
_Text = Annotated[str, Meta(max_length=200)]


@dataclass(frozen=True)
class _Trigger:
    """A message in JSON.

    Attributes:
        id: What the sender knows the part by; two messages of one id are one part.
        picture: The bytes of an image file, in base64.
        file: The name of one, in the folder of the source.
        recipe: What it is to be inspected by.
        serial: Of the part.
        tags: Other keys of the part.
        deadline_ms: From now until its answer.
    """

    id: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    picture: str | None = None
    file: _Text | None = None
    recipe: Name | None = None
    serial: _Text | None = None
    tags: dict[_Text, _Text] = field(default_factory=dict)
    deadline_ms: Annotated[float, Meta(gt=0, le=3.6e6)] | None = None


class _Link:
    """A connection to a broker, and why it ended."""

    def __init__(self, settings: BrokerSettings, who: str, error: type[PadimError]) -> None:
        self._settings = settings
        self._who = who
        self._error = error
        self._trouble = ""
        self._is_open = threading.Event()
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            settings.client,
            clean_session=False,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = self._on_disconnect

    def open(self) -> None:
        """Connect, and wait until the broker has said that it takes us."""
        settings = self._settings
        if settings.user is not None:
            password = read_secret(settings.password_variable, self._who)
            self.client.username_pw_set(settings.user, password)
        where = f"the broker {settings.host}:{settings.port}"
        try:
            if settings.ca is not None:
                self.client.tls_set(
                    str(settings.ca),
                    None if settings.certificate is None else str(settings.certificate),
                    None if settings.key is None else str(settings.key),
                )
            self.client.connect(settings.host, settings.port, _KEEPALIVE_S)
        except (OSError, ssl.SSLError, ValueError) as error:
            raise self._error(f"{self._who} cannot reach {where}: {error}.") from error
        self.client.loop_start()
        if not self._is_open.wait(_CONNECT_S) or self._trouble:
            reason = self._trouble or f"no answer within {_CONNECT_S:g} s"
            raise self._error(f"{self._who} is refused by {where}: {reason}.")

    def check(self) -> None:
        """Raise if the connection has ended."""
        if self._trouble:
            raise self._error(f"{self._who} has lost its broker: {self._trouble}.")

    def close(self) -> None:
        """End the connection."""
        self.client.disconnect()
        self.client.loop_stop()

    def _on_connect(
        self,
        _client: mqtt.Client,
        _data: object,
        _flags: mqtt.ConnectFlags,
        code: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if code.is_failure:
            self._trouble = str(code)
        self._is_open.set()

    def _on_disconnect(
        self,
        _client: mqtt.Client,
        _data: object,
        _flags: mqtt.DisconnectFlags,
        code: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._trouble = self._trouble or str(code)
        self._is_open.set()


class MqttSource:
    """Takes messages as parts, and acknowledges one once its verdict is written.

    A message that is no JSON object is the bytes of a picture. One that is brought again, after a
    crash, is known by its ``id``, or by its bytes when it has none.
    """

    def __init__(self, settings: MqttSourceSettings) -> None:
        self.name = settings.name
        self._settings = settings
        self._link: _Link | None = None
        self._messages: queue.Queue[mqtt.MQTTMessage] = queue.Queue(_MOST_WAITING)
        self._open: dict[str, list[mqtt.MQTTMessage]] = {}

    def open(self) -> None:
        """Connect and subscribe."""
        self._messages, self._open = queue.Queue(_MOST_WAITING), {}
        link = _Link(self._settings, f"The source {self.name}", SourceError)
        self._link = link
        link.client.on_message = lambda _client, _data, message: self._messages.put(message)
        link.open()
        link.client.subscribe(self._settings.topic, _QOS)

    def take(self, n_most: int, timeout_s: float) -> list[Part]:
        """Hand over messages that have come."""
        assert self._link is not None
        self._link.check()
        parts: list[Part] = []
        try:
            while len(parts) < n_most:
                message = self._messages.get(timeout=0 if parts else timeout_s)
                if message.retain and not self._settings.retained:
                    self._link.client.ack(message.mid, message.qos)
                    continue
                part = self._read(bytes(message.payload))
                self._open.setdefault(part.key, []).append(message)
                parts.append(part)
        except queue.Empty:
            pass
        return parts

    def forget(self, part: Part, _inspection: Inspection) -> None:
        """Acknowledge the message of a part."""
        assert self._link is not None
        for message in self._open.pop(part.key, []):
            self._link.client.ack(message.mid, message.qos)

    def close(self) -> None:
        """Disconnect; the broker brings again what was not acknowledged."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def _read(self, payload: bytes) -> Part:
        key, now_s = hashlib.sha256(payload).hexdigest(), time.time()
        recipe = self._settings.recipe or ""
        if payload.lstrip()[:1] != b"{":
            return Part(payload, key, now_s, recipe)
        document = Document("The message", SourceError, "Send one as docs/howto/sources.md has it.")
        try:
            trigger = document.restore(document.parse(payload, _MOST_BYTES), _Trigger)
        except SourceError as error:
            return Part(None, key, now_s, recipe, str(error))
        picture, reason = None, ""
        try:
            picture = self._find_picture(trigger)
        except SourceError as error:
            reason = str(error)
        return Part(
            picture,
            trigger.id or key,
            now_s,
            trigger.recipe or recipe,
            reason,
            trigger.serial,
            trigger.tags,
            trigger.deadline_ms and trigger.deadline_ms / 1e3,
        )

    def _find_picture(self, trigger: _Trigger) -> bytes:
        """The picture that a message brings or names."""
        if trigger.picture is not None:
            try:
                return base64.b64decode(trigger.picture, validate=True)
            except binascii.Error as error:
                raise SourceError(f"The picture in the message is no base64: {error}.") from error
        if trigger.file is None:
            raise SourceError("The message brings no picture and names no file.")
        folder = self._settings.folder
        if folder is None:
            raise SourceError("The message names a file, but the source has no folder.")
        path = (folder / trigger.file).resolve()
        if not path.is_relative_to(Path(folder).resolve()):
            raise SourceError(f"The message names {trigger.file!r}, which is not in {folder}.")
        try:
            return path.read_bytes()
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error.strerror}.") from error


class MqttSink:
    """Publishes records, and waits until the broker has each."""

    def __init__(self, settings: MqttSinkSettings) -> None:
        self.name = settings.name
        self._settings = settings
        self._link: _Link | None = None

    def open(self) -> None:
        """Connect; the broker says ``offline`` for us when we are gone."""
        link = _Link(self._settings, f"The sink {self.name}", SinkError)
        self._link = link
        status = self._settings.status_topic
        if status:
            link.client.will_set(status, "offline", _QOS, retain=True)
        link.open()
        if status:
            self._publish(status, b"online", retain=True)

    def deliver(self, inspections: Sequence[Inspection]) -> None:
        """Publish them, one message each."""
        for one in inspections:
            record = Record.of(one)
            topic = self._settings.topic.replace("{recipe}", record.recipe)
            self._publish(topic, json.dumps(record.to_dict()).encode(), retain=False)

    def close(self) -> None:
        """Say ``offline``, and disconnect."""
        if self._link is None:
            return
        link, self._link = self._link, None
        if self._settings.status_topic:
            link.client.publish(self._settings.status_topic, b"offline", _QOS, retain=True)
        link.close()

    def _publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        assert self._link is not None
        self._link.check()
        sent = self._link.client.publish(topic, payload, _QOS, retain=retain)
        until_s = time.monotonic() + _PUBLISH_S
        while not sent.is_published():
            self._link.check()
            if time.monotonic() > until_s:
                raise SinkError(f"The broker has not taken a record within {_PUBLISH_S:g} s.")
            time.sleep(0.001)
