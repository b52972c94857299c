"""Triggers and records over MQTT."""

import base64
import binascii
import hashlib
import json
import logging
import queue
import secrets
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import paho.mqtt.client as mqtt
from msgspec import Meta
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from padim.documents import Document
from padim.errors import PadimError
from padim.images.stream import open_regular
from padim.line.broker import QOS, Link
from padim.line.errors import SinkError, SourceError
from padim.line.protocols import Part
from padim.line.settings import MqttSinkSettings, MqttSourceSettings, Name
from padim.store.inspection import Inspection
from padim.store.record import Record

_MOST_WAITING = 1000  # messages that nobody has to bring again, and that were not taken
_LOOK_S = 0.05  # between two looks for a file that a message names
_log = logging.getLogger(__name__)
_Text = Annotated[str, Meta(max_length=200)]
_Id = Annotated[str, Meta(min_length=1, max_length=200)]


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

    id: _Id | None = None
    picture: str | None = None
    file: Annotated[str, Meta(min_length=1, max_length=1000)] | None = None
    recipe: Name | None = None
    serial: _Text | None = None
    tags: dict[_Text, _Text] = field(default_factory=dict)
    deadline_ms: Annotated[float, Meta(gt=0, le=3.6e6)] | None = None


@dataclass
class _Message:
    """A message that came, and whether it is done with."""

    mid: int
    qos: int
    payload: bytes
    properties: dict[str, str]
    came_s: float
    is_done: bool = False


@dataclass(frozen=True, kw_only=True)
class MqttPart(Part):
    """A part that came as a message."""

    message: _Message


class MqttSource:
    """Takes messages as parts, and acknowledges one once its verdict is written.

    A message that is no JSON object is the bytes of a picture. One that is brought again, after a
    crash, is known by its ``id``, or by its bytes and its picture's when it has none.
    """

    def __init__(self, settings: MqttSourceSettings) -> None:
        self.name = settings.name
        self.trouble = ""
        self._settings = settings
        self._link: Link | None = None
        self._messages: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self._late: list[_Message] = []  # whose file is not there yet
        self._unanswered: deque[_Message] = deque()

    def open(self) -> None:
        """Connect and subscribe.

        Raises:
            SourceError: The broker is not there, or does not let us.
        """
        self.trouble = ""
        self._messages, self._late, self._unanswered = queue.SimpleQueue(), [], deque()
        self._link = link = Link(
            self._settings,
            f"The source {self.name}",
            SourceError,
            session_s=self._settings.session_s,
            n_unanswered=self._settings.n_unanswered,
        )
        link.client.on_message = self._hear
        link.open()
        link.subscribe(self._settings.topic, retained=self._settings.retained)

    def take(self, n_most: int, timeout_s: float) -> list[Part]:
        """Hand over messages that have come."""
        assert self._link is not None
        self._acknowledge()
        end_s = time.monotonic() + timeout_s
        parts = self._read_late(n_most)
        while len(parts) < n_most:
            left_s = 0.0 if parts else max(0.0, end_s - time.monotonic())
            try:
                message = self._messages.get(timeout=min(left_s, _LOOK_S) if self._late else left_s)
            except queue.Empty:
                self._link.check()
                parts += self._read_late(n_most)
                if parts or time.monotonic() >= end_s:
                    break
                continue
            part = self._read(message)
            if part is None:
                self._late.append(message)
            else:
                parts.append(part)
        return parts

    def forget(self, part: Part, _inspection: Inspection) -> None:
        """Acknowledge the message of a part, and those that waited for it."""
        assert isinstance(part, MqttPart)
        part.message.is_done = True
        self._acknowledge()

    def close(self) -> None:
        """Disconnect; the broker brings again what was not acknowledged."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def _hear(self, _client: mqtt.Client, _data: object, heard: mqtt.MQTTMessage) -> None:
        """Take a message, in the thread of the connection."""
        pairs = getattr(heard.properties, "UserProperty", ())
        message = _Message(
            heard.mid, heard.qos, bytes(heard.payload), dict(pairs), time.monotonic()
        )
        if heard.qos:
            self._unanswered.append(message)
        if heard.retain and not self._settings.retained:
            message.is_done = True
        elif not heard.qos and self._messages.qsize() >= _MOST_WAITING:
            self.trouble = (
                f"Messages of QoS 0 come faster than they are inspected, and are lost: "
                f"{_MOST_WAITING} wait. Send them with QoS 1."
            )
            _log.error("source %s: %s", self.name, self.trouble)
        else:
            self._messages.put(message)

    def _acknowledge(self) -> None:
        """Answer messages that are done with, in the order in which they came (MQTT 5, 4.6)."""
        while self._unanswered and self._unanswered[0].is_done:
            message = self._unanswered.popleft()
            if self._link is not None:
                self._link.acknowledge(message.mid)

    def _read_late(self, n_most: int) -> list[Part]:
        """Look again for the files that messages name."""
        late, self._late = self._late, []
        parts: list[Part] = []
        for message in late:
            part = self._read(message) if len(parts) < n_most else None
            if part is None:
                self._late.append(message)
            else:
                parts.append(part)
        return parts

    def _read(self, message: _Message) -> MqttPart | None:
        """What to hand over of a message; None when its file is not there yet."""
        payload, words = message.payload, message.properties
        is_json = payload.lstrip()[:1] == b"{"
        picture, reason, trigger = None, "", _Trigger()
        try:
            trigger = self._understand(payload if is_json else b"{}", words)
            picture = self._find_picture(trigger) if is_json else payload
        except FileNotFoundError:
            if time.monotonic() - message.came_s < self._settings.file_wait_s:
                return None
            reason = f"The file {trigger.file} is not there."
        except PadimError as error:
            reason = str(error)
        most = self._settings.picture_bytes
        if picture is not None and not 0 < len(picture) <= most:
            reason = f"The picture has {len(picture)} bytes, but may have 1 to {most}."
            picture = None
        recipe = trigger.recipe or self._settings.recipe or ""
        if not recipe and not reason:
            picture, reason = None, "The message names no recipe, and neither does the source."
        deadline_ms = trigger.deadline_ms or self._settings.deadline_ms
        return MqttPart(
            picture=picture,
            key=_find_key(trigger, payload, picture, has_picture=bool(payload) and not is_json),
            time_s=time.time(),
            recipe=recipe,
            reason=reason,
            serial=trigger.serial,
            tags=trigger.tags,
            deadline_s=None if deadline_ms is None else deadline_ms / 1e3,
            message=message,
        )

    def _understand(self, payload: bytes, words: dict[str, str]) -> _Trigger:
        """What a message says in JSON, and in its user properties where that says nothing."""
        document = Document("The message", SourceError, "Send one as docs/howto/sources.md has it.")
        data = document.parse(payload)
        named = {name: words[name] for name in ("id", "serial", "recipe") if name in words}
        data = named | {name: value for name, value in data.items() if value is not None}
        text = json.dumps(data, ensure_ascii=False)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise document.refuse("it has text that is no Unicode") from None
        if "\\u0000" in text:
            raise document.refuse("it has text with a NUL")
        return document.restore(data, _Trigger)

    def _find_picture(self, trigger: _Trigger) -> bytes:
        """The picture that a message brings or names."""
        if trigger.picture is not None:
            try:
                return base64.b64decode(trigger.picture, validate=True)
            except (binascii.Error, ValueError) as error:
                raise SourceError(f"The picture in the message is no base64: {error}.") from error
        if trigger.file is None:
            raise SourceError("The message brings no picture and names no file.")
        folder = self._settings.folder
        if folder is None:
            raise SourceError("The message names a file, but the source has no folder.")
        try:
            path = (folder / trigger.file).resolve()
            if not path.is_relative_to(folder.resolve()):
                raise SourceError(f"The message names {trigger.file!r}, which is not in {folder}.")
            with open_regular(path) as stream:
                return stream.read(self._settings.picture_bytes + 1)
        except FileNotFoundError:
            raise
        except (OSError, RuntimeError) as error:  # the latter of links in a circle
            reason = getattr(error, "strerror", None) or str(error)
            raise SourceError(f"{trigger.file} cannot be read: {reason}.") from error


def _find_key(
    trigger: _Trigger, payload: bytes, picture: bytes | None, *, has_picture: bool
) -> str:
    """What a message is known by when it comes again.

    One that says no more than that it triggers is known by nothing: another of the same words is
    another part.
    """
    if trigger.id is not None:
        return trigger.id
    if picture is None and trigger.serial is None and not has_picture:
        return secrets.token_hex(32)
    digest = hashlib.sha256(payload)
    digest.update((trigger.serial or "").encode())
    digest.update(picture or b"")
    return digest.hexdigest()


class MqttSink:
    """Publishes records, and waits until the broker has each."""

    n_together = 100

    def __init__(self, settings: MqttSinkSettings) -> None:
        self.name = settings.name
        self._settings = settings
        self._status = settings.status_topic.replace("{client}", settings.client)
        self._link: Link | None = None
        self._next_beat_s = 0.0
        self._refusals: dict[int, ReasonCode] = {}  # by the number of a message

    def open(self) -> None:
        """Connect; the broker says ``offline`` for us when we are gone.

        Raises:
            SinkError: The broker is not there, or does not let us.
        """
        self._link = link = Link(self._settings, f"The sink {self.name}", SinkError)
        self._refusals = {}
        link.client.on_publish = self._note_answer
        if self._status:
            link.client.will_set(self._status, b"offline", QOS, retain=True)
        link.open()
        self._next_beat_s = 0.0
        self._beat()

    def deliver(self, inspections: Sequence[Inspection]) -> None:
        """Publish them, one message each."""
        self._beat()
        messages = []
        for one in inspections:
            record = Record.of(one)
            level = "".join("_" if letter in "+#/\0" else letter for letter in record.recipe)
            payload = json.dumps(record.to_dict()).encode()
            messages.append((self._settings.topic.replace("{recipe}", level), payload))
        self._publish(messages)

    def check(self) -> None:
        """Make sure that the broker is there, and say so where one listens."""
        assert self._link is not None
        self._link.check()
        self._beat()

    def close(self) -> None:
        """Say ``offline``, and disconnect."""
        if self._link is None:
            return
        link, self._link = self._link, None
        if self._status and link.client.is_connected():
            sent = link.client.publish(self._status, b"offline", QOS, retain=True)
            until_s = time.monotonic() + 1.0
            while not sent.is_published() and time.monotonic() < until_s:
                time.sleep(0.001)
        link.close()

    def _beat(self) -> None:
        if self._status and time.monotonic() >= self._next_beat_s:
            self._publish([(self._status, b"online")], retain=True)
            self._next_beat_s = time.monotonic() + self._settings.heartbeat_s

    def _publish(self, messages: Sequence[tuple[str, bytes]], *, retain: bool = False) -> None:
        """Publish messages, and wait until the broker has them for good."""
        assert self._link is not None
        self._link.check()
        publish = self._link.client.publish
        sent = [publish(topic, payload, QOS, retain=retain) for topic, payload in messages]
        until_s = time.monotonic() + self._settings.timeout_s
        for one, (topic, _) in zip(sent, messages, strict=True):
            while one.rc or not one.is_published():
                self._link.check()
                if one.rc or time.monotonic() > until_s:
                    raise SinkError(
                        f"The broker {self._settings.host} has not answered what the sink "
                        f"{self.name} sent within {self._settings.timeout_s:g} s."
                    )
                time.sleep(0.001)
            until_s = time.monotonic() + self._settings.timeout_s
            if code := self._refusals.pop(one.mid, None):
                raise SinkError(
                    f"The broker {self._settings.host} refuses what the sink {self.name} sends to "
                    f"{topic}: {code}. Give its user the right.",
                    is_lasting=True,
                )

    def _note_answer(
        self,
        _client: mqtt.Client,
        _data: object,
        mid: int,
        code: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if code.is_failure:
            self._refusals[mid] = code
