"""A connection to an MQTT broker, whose every failure is a sentence."""

import socket
import ssl
import threading
from contextlib import suppress

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from padim.line.errors import LineError
from padim.line.settings import BrokerSettings, read_secret

QOS = 1  # at least once
_CLOSE_S = 1.0
_NO_RETAINED = 2  # of the retain handling of MQTT 5: none are sent when one subscribes
# Reason codes of MQTT 5 that a person has to do something about: client, password, rights, server.
_LASTING = frozenset((0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C, 0x8F, 0x90, 0x9D))


class Link:
    """A connection to a broker, and why it ended. It is opened once.

    Args:
        settings: Of the broker.
        who: Whose connection it is, as a sentence begins.
        error: Class of what is raised.
        session_s: How long the broker keeps a session when it is gone; none when 0.
        n_unanswered: Messages that the broker sends before it has an answer, by MQTT 5.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        who: str,
        error: type[LineError],
        *,
        session_s: int = 0,
        n_unanswered: int = 20,
    ) -> None:
        self._settings = settings
        self._who = who
        self._error = error
        self._session_s = session_s
        self._n_unanswered = n_unanswered
        self._where = "{}:{}".format(*settings.address)
        self._trouble: LineError | None = None
        self._changed = threading.Condition()
        self._is_answered = False
        self._is_gone = False
        self._subscribed: list[ReasonCode] | None = None
        self._is_5 = settings.version == "5"
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            settings.client,
            clean_session=None if self._is_5 else not session_s,
            protocol=MQTTProtocolVersion.MQTTv5 if self._is_5 else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self.client.connect_timeout = settings.timeout_s
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = self._on_disconnect
        self.client.on_subscribe = self._on_subscribe

    def open(self) -> None:
        """Connect, and wait until the broker has said that it takes us.

        Raises:
            LineError: It does not; the class is ``error``.
        """
        settings = self._settings
        if settings.user is not None:
            password = read_secret(settings.password_variable, settings.password_file, self._who)
            self.client.username_pw_set(settings.user, password)
        if settings.is_encrypted:
            self.client.tls_set_context(self._trust())
        properties = None
        if self._is_5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's
            properties.SessionExpiryInterval = self._session_s
            properties.ReceiveMaximum = self._n_unanswered
        try:
            self.client.connect(
                *settings.address,
                settings.keepalive_s,
                clean_start=not self._session_s if self._is_5 else mqtt.MQTT_CLEAN_START_FIRST_ONLY,
                properties=properties,
            )
        except ssl.SSLCertVerificationError as error:
            raise self._error(
                f"{self._who} does not trust the broker {self._where}: {error.verify_message}. "
                "Name the authority of its certificate as ca.",
                is_lasting=True,
            ) from error
        except OSError as error:
            reason = error.strerror or str(error) or type(error).__name__
            raise self._error(
                f"{self._who} cannot reach the broker {self._where}: {reason}."
            ) from error
        self.client.loop_start()
        with self._changed:
            self._changed.wait_for(lambda: self._is_answered or self._trouble, settings.timeout_s)
        if not self._is_answered and self._trouble is None:
            raise self._error(
                f"The broker {self._where} has not answered within {settings.timeout_s:g} s."
            )
        self.check()

    def subscribe(self, topic: str, *, retained: bool) -> None:
        """Ask for messages, and wait until the broker has said that it will send them.

        Raises:
            LineError: It will not; the class is ``error``.
        """
        if self._is_5:
            options = SubscribeOptions(QOS, retainHandling=0 if retained else _NO_RETAINED)
            self.client.subscribe(topic, options=options)
        else:
            self.client.subscribe(topic, QOS)
        with self._changed:
            self._changed.wait_for(
                lambda: self._subscribed is not None or self._trouble, self._settings.timeout_s
            )
        self.check()
        for code in self._subscribed or ():
            if code.is_failure:
                raise self._error(
                    f"The broker {self._where} does not let {self._who[:1].lower()}{self._who[1:]} "
                    f"subscribe to {topic}: {code}. Give its user the right.",
                    is_lasting=True,
                )
        if self._subscribed is None:
            raise self._error(f"The broker {self._where} does not answer who subscribes.")

    def acknowledge(self, mid: int) -> None:
        """Tell the broker that a message needs not be sent again."""
        self.client.ack(mid, QOS)

    def check(self) -> None:
        """Raise if the connection has ended."""
        if self._trouble is not None:
            raise self._trouble

    def close(self) -> None:
        """End the connection, also with a broker that does not listen any more."""
        if self.client.disconnect() == MQTTErrorCode.MQTT_ERR_SUCCESS:
            with self._changed:
                self._changed.wait_for(lambda: self._is_gone, _CLOSE_S)
        held = self.client.socket()
        if held is not None and isinstance(held, socket.socket):
            with suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)
        self.client.loop_stop()

    def _trust(self) -> ssl.SSLContext:
        settings = self._settings
        try:
            context = ssl.create_default_context(cafile=settings.ca)
            if settings.certificate is not None:
                context.load_cert_chain(settings.certificate, settings.key)
        except OSError as error:  # ssl.SSLError is one
            files = ", ".join(str(one) for one in (settings.ca, settings.certificate) if one)
            raise self._error(
                f"{self._who} cannot use {files}: {error.strerror or error}. Name files in PEM.",
                is_lasting=True,
            ) from error
        return context

    def _on_connect(
        self,
        _client: mqtt.Client,
        _data: object,
        _flags: mqtt.ConnectFlags,
        code: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        with self._changed:
            if code.is_failure:
                as_user = f" the user {self._settings.user}" if self._settings.user else ""
                self._trouble = self._error(
                    f"The broker {self._where} refuses{as_user}: {code}. Check the client's name, "
                    "user and password.",
                    is_lasting=code.value in _LASTING,
                )
            self._is_answered = True
            self._changed.notify_all()

    def _on_disconnect(
        self,
        _client: mqtt.Client,
        _data: object,
        _flags: mqtt.DisconnectFlags,
        code: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        with self._changed:
            self._is_gone = True
            if self._trouble is None:
                self._trouble = self._error(
                    f"{self._who} has lost the broker {self._where}: {code}."
                )
            self._changed.notify_all()

    def _on_subscribe(
        self,
        _client: mqtt.Client,
        _data: object,
        _mid: int,
        codes: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        with self._changed:
            self._subscribed = codes
            self._changed.notify_all()
