"""Tokens: who may do what. A file keeps their hashes; a token itself is shown once."""

import hashlib
import hmac
import json
import secrets
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from padim.documents import Document, Sha256
from padim.errors import PadimError, UnknownNameError, UsageError
from padim.files import lock_file, write_text

TOKENS = "tokens.json"  # in the folder of a station
_N_BYTES = 32
_MOST_BYTES = 1 << 20


class Role(StrEnum):
    """What a token is for."""

    SCORE = "score"  # to send pictures
    OPERATE = "operate"  # to see what was inspected, and to clear alarms
    QUALITY = "quality"  # to see the pictures as well
    ENGINEER = "engineer"  # to change models
    ADMIN = "admin"


ALLOWED = {
    Role.SCORE: {Role.SCORE},
    Role.OPERATE: {Role.OPERATE},
    Role.QUALITY: {Role.OPERATE, Role.QUALITY},
    Role.ENGINEER: {Role.SCORE, Role.OPERATE, Role.QUALITY, Role.ENGINEER},
    Role.ADMIN: set(Role),
}


@dataclass(frozen=True)
class Token:
    """A token without itself.

    Attributes:
        name: Who has it.
        role: What it is for.
        sha256: Of the token.
    """

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    role: Role
    sha256: Sha256

    def allows(self, role: Role) -> bool:
        """Whether it may be used for what a role is for."""
        return role in ALLOWED[self.role]


@dataclass(frozen=True)
class _TokenFile:
    tokens: tuple[Token, ...]


def read_tokens(path: Path) -> tuple[Token, ...]:
    """Read the tokens of a file; none when it is not there.

    Raises:
        PadimError: It is damaged.
    """
    if not path.exists():
        return ()
    document = Document(path, PadimError, "Restore it from a copy, or remove it and add tokens.")
    return document.restore(document.read(path, _MOST_BYTES), _TokenFile).tokens


def add_token(path: Path, name: str, role: str) -> str:
    """Add a token to a file, and give it: nothing else knows it.

    Raises:
        UsageError: The name has one already.
        UnknownNameError: There is no such role.
    """
    if role not in list(Role):
        raise UnknownNameError("role", role, tuple(one.value for one in Role))
    token = secrets.token_urlsafe(_N_BYTES)
    with lock_file(path):
        known = read_tokens(path)
        if any(one.name == name for one in known):
            raise UsageError(f"{name!r} has a token already. Choose another name, or remove it.")
        _write(path, (*known, Token(name, Role(role), _hash(token))))
    return token


def remove_token(path: Path, name: str) -> None:
    """Remove a token from a file.

    Raises:
        UnknownNameError: The name has none.
    """
    with lock_file(path):
        known = read_tokens(path)
        rest = tuple(one for one in known if one.name != name)
        if len(rest) == len(known):
            raise UnknownNameError("token", name, tuple(one.name for one in known))
        _write(path, rest)


def find_token(tokens: tuple[Token, ...], text: str) -> Token | None:
    """The token that a text is, in a time that does not depend on which."""
    digest, found = _hash(text), None
    for one in tokens:
        if hmac.compare_digest(one.sha256, digest):
            found = one
    return found


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _write(path: Path, tokens: tuple[Token, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(asdict(_TokenFile(tokens)), indent=1) + "\n")
    path.chmod(0o600)
