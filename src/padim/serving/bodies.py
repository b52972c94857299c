"""The body of a request, read within limits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

from padim.memory import format_bytes

_UPLOAD_S = 30.0  # for all of a body


class Room:
    """Memory for pictures that are being received or inspected. One event loop uses it."""

    def __init__(self, n_bytes: int) -> None:
        self._n_bytes = n_bytes
        self._n_held = 0

    def take(self, n_bytes: int) -> None:
        """Take memory, or raise 503."""
        if self._n_held and self._n_held + n_bytes > self._n_bytes:
            raise HTTPException(
                503,
                f"Pictures that wait take {format_bytes(self._n_held)}, the most that they may. "
                "Send the picture again later.",
                {"Retry-After": "1"},
            )
        self._n_held += n_bytes

    @property
    def n_held(self) -> int:
        """Bytes that are held."""
        return self._n_held

    def give_back(self, n_bytes: int) -> None:
        """Give memory back."""
        self._n_held -= n_bytes


@asynccontextmanager
async def read_body(request: Request, most_bytes: int, room: Room) -> AsyncIterator[bytes]:
    """Receive a body, whose memory is held in a ``with`` block.

    Raises:
        HTTPException: 415, it is compressed; 413, it is larger than may be, which is seen before
            it is read; 503, other pictures hold the memory; 408, it comes too slowly; 400, it is
            empty.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise HTTPException(
            415, f"The body is compressed by {encoding[:50]!r}, but needs to come as it is."
        )
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most_bytes:
        raise _too_large(most_bytes)
    parts: list[bytes] = []
    n_held = 0
    try:
        try:
            async with asyncio.timeout(_UPLOAD_S):
                async for part in request.stream():
                    room.take(len(part))
                    n_held += len(part)
                    if n_held > most_bytes:
                        raise _too_large(most_bytes)
                    parts.append(part)
        except ClientDisconnect:
            raise HTTPException(400, "The picture was cut short. Send it again.") from None
        except TimeoutError:
            raise HTTPException(
                408, f"The picture did not come whole within {_UPLOAD_S:g} s. Send it again."
            ) from None
        body = b"".join(parts)
        parts.clear()
        if not body:
            raise HTTPException(
                400, "The request has no body. Send the bytes of an image file as the body."
            )
        yield body
    finally:
        room.give_back(n_held)


def _too_large(most_bytes: int) -> HTTPException:
    return HTTPException(
        413,
        f"The picture is larger than {format_bytes(most_bytes)}, the most that is taken. Send a "
        "smaller one, or allow more in [limits] of a station.toml.",
    )
