"""Records to another program by HTTP."""

import hashlib
import hmac
import json
from collections.abc import Sequence
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from padim.line.errors import SinkError
from padim.line.settings import WebhookSettings, read_secret
from padim.store.inspection import Inspection
from padim.store.record import Record


class Webhook:
    """Posts each record as JSON, with its id as ``Idempotency-Key``.

    Where there is a secret, ``X-Padim-Signature`` is ``sha256=`` and the HMAC of the body.
    """

    def __init__(self, settings: WebhookSettings) -> None:
        self.name = settings.name
        self._settings = settings
        self._token: str | None = None
        self._secret: str | None = None

    def open(self) -> None:
        """Look for what is secret."""
        who = f"The webhook {self.name}"
        self._token = read_secret(self._settings.token_variable, who)
        self._secret = read_secret(self._settings.secret_variable, who)

    def deliver(self, inspections: Sequence[Inspection]) -> None:
        """Post them one after the other."""
        for one in inspections:
            self._post(one)

    def close(self) -> None:
        """Nothing is held."""

    def _post(self, inspection: Inspection) -> None:
        body = json.dumps(Record.of(inspection).to_dict()).encode()
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": inspection.arrival.id,
            "User-Agent": "padim",
        }
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        if self._secret is not None:
            digest = hmac.digest(self._secret.encode(), body, hashlib.sha256).hex()
            headers["X-Padim-Signature"] = f"sha256={digest}"
        request = Request(self._settings.url, body, headers, method="POST")
        try:
            with urlopen(request, timeout=self._settings.timeout_s) as answer:
                answer.read(1 << 16)
        except HTTPError as error:
            raise SinkError(
                f"{self._settings.url} answers {error.code} {error.reason} to the inspection "
                f"{inspection.arrival.id}. It is sent again later."
            ) from error
        except (URLError, OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise SinkError(
                f"{self._settings.url} cannot be reached: {reason}. What is for it is sent later."
            ) from error
