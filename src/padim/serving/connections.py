"""Connections over HTTP that end when the other side keeps them without asking anything."""

import asyncio

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 30.0  # for all of a request's head, and for the rest of a body that is not read
MOST_HEAD_BYTES = 64 << 10


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 by uvicorn, which waits without bound for the head of a request.

    So does this class for nothing: a head that is not whole in time is answered 408, and the
    connection closed; likewise one that goes on sending a body which was refused.
    """

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Wait no more once a head is whole."""
        super().handle_events()
        self._watch()

    def on_response_complete(self) -> None:
        """Begin to wait for the next head."""
        self._stop()
        super().on_response_complete()
        self._watch()

    def _watch(self) -> None:
        """Run the clock while nothing is asked that could be answered."""
        if self.conn.our_state not in (h11.IDLE, h11.DONE) or self.transport.is_closing():
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEAD_S, self._give_up)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self.conn.our_state is h11.IDLE:
            error = f"The request did not come whole within {HEAD_S:g} s. Send it again."
            body = msgspec.json.encode({"error": error})
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            head = h11.Response(status_code=408, headers=headers, reason=b"Request Timeout")
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
