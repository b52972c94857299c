"""A service that listens, until it is told to end."""

import signal
import socket
import ssl
from collections.abc import Callable

import uvicorn

from padim.errors import PathMissingError, UsageError
from padim.interrupts import interrupted_status
from padim.serving.access import is_loopback
from padim.serving.app import create_app
from padim.serving.connections import MOST_HEAD_BYTES, BoundedProtocol
from padim.serving.events import Events
from padim.serving.service import Service, run_service
from padim.serving.station import Station
from padim.serving.tokens import TOKENS, read_tokens

_ENDED_STATUS = 128 + signal.SIGTERM
_MOST_PORT = 65535
_BACKLOG = 2048  # connections that wait to be taken
_GOODBYE_S = 30  # for requests in flight when the service ends


def serve(station: Station, tell: Callable[[str], None]) -> None:
    """Run a station until a signal ends it; what was admitted is answered and written then.

    Args:
        station: What it is told.
        tell: Told the address, once pictures are taken there.

    Raises:
        UsageError: The address is none of this machine's, or is taken, or others can reach it and
            there is no token; or what TLS needs cannot be used.
        PathMissingError: A model, or a file of TLS, is not there.
        PadimError: A model, the database or the folder cannot be opened.
    """
    tokens = station.data / TOKENS
    if not is_loopback(station.address) and not read_tokens(tokens):
        raise UsageError(
            f"Other machines can reach {station.address}, and there is no token. Make one with "
            f"padim tokens add NAME --role score --data {station.data}, or leave --address out."
        )
    models = [one for recipe in station.recipes.values() for one in (recipe.model, recipe.shadow)]
    for file in (station.tls_certificate, station.tls_key, *models):
        if file is not None and not file.is_file():
            raise PathMissingError(file)
    _require_tls(station)
    listener = _listen(station.address, station.port)
    with listener, run_service(station) as service:
        server = make_server(service)
        host, port = listener.getsockname()[:2]
        scheme = "http" if station.tls_certificate is None else "https"
        tell(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:  # of a signal that has ended the server before
            if interrupted_status() != _ENDED_STATUS:
                raise


class _Server(uvicorn.Server):
    """Ends the streams of events first, which would hold it up."""

    def __init__(self, config: uvicorn.Config, events: Events) -> None:
        super().__init__(config)
        self._events = events

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._events.close()
        await super().shutdown(sockets)


def make_server(service: Service) -> uvicorn.Server:
    """What answers over HTTP for a station that runs."""
    config = uvicorn.Config(
        create_app(service),
        http=BoundedProtocol,
        ws="none",
        h11_max_incomplete_event_size=MOST_HEAD_BYTES,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GOODBYE_S,
        ssl_certfile=service.station.tls_certificate,
        ssl_keyfile=service.station.tls_key,
    )
    return _Server(config, service.events)


def _require_tls(station: Station) -> None:
    """Refuse what is no certificate, or not that of a key, before anything is begun."""
    if station.tls_certificate is None:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(station.tls_certificate, station.tls_key)
    except (OSError, ValueError) as error:  # of OpenSSL as well
        raise UsageError(
            f"{station.tls_certificate} and its key cannot be used: {error}. Both are in PEM, and "
            "the key may be in the file of the certificate."
        ) from error


def _listen(address: str, port: int) -> socket.socket:
    if not 0 <= port <= _MOST_PORT:
        raise UsageError(f"The port is {port}, but needs to be 0 to {_MOST_PORT}. Try 8000.")
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return socket.create_server((address, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(
            f"The service cannot listen on {address}, port {port}: {reason}. "
            "Choose another --port or --address."
        ) from error
