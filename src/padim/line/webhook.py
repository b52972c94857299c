"""Records to another program by HTTP."""

import hashlib
import hmac
import json
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from padim.line.errors import SinkError
from padim.line.settings import WebhookSettings, read_secret
from padim.store.inspection import Inspection
from padim.store.record import Record

_READ_BYTES = 1 << 16  # of an answer, whose body is of no interest
_PASSING = (408, 425, 429)  # of 4xx, those that may go away by themselves


class Webhook:
    """Posts each record as JSON, with its id as ``Idempotency-Key``.

    Where there is a secret, ``X-Padim-Signature`` is ``sha256=`` and the HMAC of the body. No proxy
    is used, and no redirection followed.
    """

    n_together = 16

    def __init__(self, settings: WebhookSettings) -> None:
        self.name = settings.name
        self._settings = settings
        self._token: str | None = None
        self._secret: str | None = None
        self._tls: ssl.SSLContext | None = None
        self._connection: HTTPConnection | None = None

    def open(self) -> None:
        """Look for what is secret, and for certificates."""
        settings, who = self._settings, f"The webhook {self.name}"
        self._token = read_secret(settings.token_variable, settings.token_file, who)
        self._secret = read_secret(settings.secret_variable, settings.secret_file, who)
        if settings.url.startswith("https:"):
            try:
                self._tls = ssl.create_default_context(cafile=settings.ca)
            except OSError as error:
                reason = error.strerror or error
                raise SinkError(
                    f"{who} needs the certificates in {settings.ca}: {reason}.", is_lasting=True
                ) from error

    def deliver(self, inspections: Sequence[Inspection]) -> None:
        """Post them one after the other."""
        for one in inspections:
            self._post(one)

    def check(self) -> None:
        """Let go of the connection, which the receiver would end sooner or later."""
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _post(self, inspection: Inspection) -> None:
        id, url = inspection.arrival.id, self._settings.url
        body = json.dumps(Record.of(inspection).to_dict()).encode()
        try:
            status, reason = self._send(body, id)
        except TimeoutError as error:
            raise SinkError(
                f"{url} has not answered within {self._settings.timeout_s:g} s. What is for it is "
                "sent later."
            ) from error
        except ssl.SSLCertVerificationError as error:
            raise SinkError(
                f"The certificate of {url} is not trusted: {error.verify_message}. Name its "
                "authority as ca.",
                is_lasting=True,
            ) from error
        except (OSError, HTTPException) as error:
            what = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise SinkError(
                f"{url} cannot be reached: {what}. What is for it is sent later."
            ) from (error)
        if not 200 <= status < 300:
            is_lasting = status < 500 and status not in _PASSING
            advice = "Mend the receiver, or the url" if is_lasting else "It is sent again later"
            raise SinkError(
                f"{url} answers {status} {reason} to the inspection {id}. {advice}.",
                is_lasting=is_lasting,
            )

    def _send(self, body: bytes, id: str) -> tuple[int, str]:
        """Post one record; the status of the answer, and its words."""
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": id,
            "User-Agent": "padim",
        }
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        if self._secret is not None:
            digest = hmac.digest(self._secret.encode(), body, hashlib.sha256).hex()
            headers["X-Padim-Signature"] = f"sha256={digest}"
        parts = urlsplit(self._settings.url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        is_new = self._connection is None
        connection = self._connection = self._connection or self._connect()
        try:
            with self._limit(connection):
                connection.request("POST", target, body, headers)
                answer = connection.getresponse()
                answer.read(_READ_BYTES)
        except TimeoutError:
            self.close()
            raise
        except (OSError, HTTPException):
            self.close()
            if is_new:
                raise
            return self._send(body, id)  # the receiver had ended the connection meanwhile
        if not answer.isclosed():  # its body is longer than what was read
            self.close()
        return answer.status, answer.reason

    def _connect(self) -> HTTPConnection:
        parts = urlsplit(self._settings.url)
        host, timeout_s = parts.hostname or "", self._settings.timeout_s
        if self._tls is not None:
            return HTTPSConnection(host, parts.port, timeout=timeout_s, context=self._tls)
        return HTTPConnection(host, parts.port, timeout=timeout_s)

    @contextmanager
    def _limit(self, connection: HTTPConnection) -> Iterator[None]:
        """Cut a connection off that takes too long in all, byte by byte.

        Raises:
            TimeoutError: It did.
        """
        is_late = threading.Event()

        def cut() -> None:
            is_late.set()
            if (held := connection.sock) is not None:
                with suppress(OSError):
                    held.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(self._settings.timeout_s, cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (OSError, HTTPException) as error:
            if is_late.is_set():
                raise TimeoutError from error
            raise
        finally:
            timer.cancel()
