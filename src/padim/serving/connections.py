"""Connections over HTTP that end when the other side keeps them without asking anything."""

import asyncio
import socket

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 30.0  # for all of a request's head, and for the rest of a body that is not read
MOST_HEAD_BYTES = 64 << 10
_LINGER_S = 1.0  # for what was sent already: a system throws away answers to who still sends
_PHRASES = {400: b"Bad Request", 408: b"Request Timeout"}


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 by uvicorn, which would wait without bound for the head of a request.

    One that is not whole in time is answered 408, one that is none 400, and the connection closed;
    likewise one that goes on sending a body which was refused.
    """

    _timer: asyncio.TimerHandle | None = None
    _is_ending = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for the first head."""
        # Head and body of an answer are two packets, and the second would wait for the client to
        # confirm the first: asyncio sees to it only where a listener names its protocol.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what comes, unless it is too late."""
        if not self._is_ending:
            super().data_received(data)

    def handle_events(self) -> None:
        """Wait no more once a head is whole."""
        super().handle_events()
        self._watch()

    def on_response_complete(self) -> None:
        """Begin to wait for the next head."""
        self._stop()
        super().on_response_complete()
        self._watch()

    def send_400_response(self, _msg: str) -> None:
        """Answer what is no request."""
        self._end(
            400,
            f"The request is no HTTP/1.1, or its head is longer than {MOST_HEAD_BYTES >> 10} KiB.",
        )

    def _watch(self) -> None:
        """Run the clock while nothing is asked that could be answered."""
        if self._is_ending:
            return
        if self.conn.our_state not in (h11.IDLE, h11.DONE) or self.transport.is_closing():
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEAD_S, self._give_up)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        if self.conn.our_state is h11.IDLE:
            self._end(408, f"The request did not come whole within {HEAD_S:g} s. Send it again.")
        else:
            self.transport.close()

    def _end(self, status: int, error: str) -> None:
        """Answer with a problem if nothing was answered so far, and close the connection."""
        self._stop()
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        body = msgspec.json.encode({"error": error})
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        head = h11.Response(status_code=status, headers=headers, reason=_PHRASES[status])
        for event in (head, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self._is_ending = True
        self.transport.resume_reading()
        self._timer = self.loop.call_later(_LINGER_S, self.transport.close)
        if self.transport.can_write_eof():
            self.transport.write_eof()
