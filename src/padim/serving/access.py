"""Who may do what over HTTP: tokens, and where a request comes from."""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import HTTPException, Request

from padim.errors import PadimError
from padim.files import identify
from padim.serving.tokens import Role, Token, find_token, read_tokens

COOKIE = "padim_token"
_log = logging.getLogger(__name__)
_SAFE = ("GET", "HEAD", "OPTIONS")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Access:
    """Says of a request whether it may be answered.

    Where there are no tokens the service listens on a loopback address, and takes requests that
    name such an address; a page of another origin, of which a browser on this machine tells by its
    ``Host`` and ``Origin``, changes nothing and sees nothing.

    Args:
        path: The file of tokens, which may change.
        hosts: More names of this machine that a request may use where there are no tokens.
        is_open: Whether who has no token is let in while there are none: where no other machine
            can reach the service.
    """

    def __init__(self, path: Path, hosts: tuple[str, ...] = (), *, is_open: bool) -> None:
        self._path = path
        self._hosts = {*_LOOPBACK, *hosts}
        self._is_open = is_open
        self._identity: tuple[int, ...] | None = None
        self._tokens: tuple[Token, ...] = ()

    @property
    def tokens(self) -> tuple[Token, ...]:
        """The tokens that there are now.

        Raises:
            HTTPException: 401, nobody can be known, for their file is damaged.
        """
        identity = identify(self._path)
        if identity != self._identity:
            try:
                self._tokens, self._identity = read_tokens(self._path), identity
            except (PadimError, OSError) as error:
                self._identity = None
                _log.error("nobody is let in: %s", error)
                raise HTTPException(
                    401, "The tokens of this service cannot be read; its log says why."
                ) from error
        return self._tokens

    def require(self, role: Role) -> Callable[[Request], Awaitable[Token | None]]:
        """What a path depends on that only some may use.

        It raises ``HTTPException`` 401 without a token, 403 with one that does not allow it, and
        for a page of another origin.
        """

        async def check(request: Request) -> Token | None:
            self.require_origin(request)
            tokens = self.tokens
            if not tokens and self._is_open:
                return None
            scheme, _, text = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer":
                text = request.cookies.get(COOKIE, "")
            token = find_token(tokens, text.strip())
            if token is None:
                raise HTTPException(
                    401,
                    "The request has no token that is known here. Send one in the header "
                    "Authorization: Bearer TOKEN; padim tokens add makes one.",
                    {"WWW-Authenticate": "Bearer"},
                )
            if not token.allows(role):
                raise HTTPException(
                    403,
                    f"The token of {token.name} is for {token.role}, but this needs {role}. Use "
                    "another.",
                )
            return token

        return check

    def require_origin(self, request: Request) -> None:
        """Refuse a request that a page of another origin makes, with ``HTTPException`` 403."""
        host = request.headers.get("host", "")
        name = _name_host(host)
        if self._is_open and not self.tokens and name not in self._hosts:
            raise HTTPException(
                403, f"The service is asked as {host!r}, but answers to localhost alone."
            )
        origin = request.headers.get("origin")
        is_own = not origin or origin.partition("://")[2] == host
        if not is_own and request.method not in _SAFE:
            raise HTTPException(403, f"A page of {origin!r} may change nothing here.")


def is_loopback(address: str) -> bool:
    """Whether an address is of this machine alone."""
    with suppress(ValueError):
        return ip_address(address).is_loopback
    return address == "localhost"


def _name_host(host: str) -> str:
    """The name in a ``Host`` header, without its port; empty where there is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
