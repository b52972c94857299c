"""What a station is told of its sources and sinks, as tables of its TOML."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol, TypeVar
from urllib.parse import urlsplit

from msgspec import Meta

from padim.documents import Positive, read_table
from padim.errors import UnknownNameError, UsageError
from padim.line.errors import LineError

T = TypeVar("T", bound="_Named")
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]
Bytes = Annotated[int, Meta(ge=1, le=1 << 32)]
_Port = Annotated[int, Meta(ge=1, le=65535)]


class _Named(Protocol):
    @property
    def name(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class FolderSettings:
    """A folder that is watched: pictures that come into it are inspected, and moved.

    Attributes:
        name: Of the source; a name of its own.
        path: The folder.
        recipe: What its pictures are inspected by; when None, the name of the folder in it where
            a picture lies.
        done: Where pictures with a verdict go; ``done`` in the folder when None.
        failed: Where those go that could not be inspected; ``failed`` in the folder when None.
        delete_done: Whether pictures with a verdict are removed instead.
        poll_s: Between two looks.
        still_s: A picture is taken when two looks, so far apart at least, find it alike.
        marker: End of the name of an empty file that says that a picture is whole, which is taken
            at once then: ``part.png.done`` or ``part.done``.
        marker_only: Whether pictures without one are left.
        picture_bytes: Of one picture, at most.
        deadline_ms: From the taking of a picture to its verdict; it waits for its turn when None.
    """

    name: Name
    path: Path
    recipe: Name | None = None
    done: Path | None = None
    failed: Path | None = None
    delete_done: bool = False
    poll_s: Seconds = 0.5
    still_s: Seconds = 1.0
    marker: Annotated[str, Meta(pattern=r"^\.[A-Za-z0-9_-]{1,20}$")] = ".done"
    marker_only: bool = False
    picture_bytes: Bytes = 64 << 20
    deadline_ms: Positive | None = None

    def __post_init__(self) -> None:
        """Raise a ``ValueError`` if two places are one."""
        if len({self.path.absolute(), self.done_path.absolute(), self.failed_path.absolute()}) < 3:
            raise ValueError("path, done and failed need to be three folders")

    @property
    def done_path(self) -> Path:
        """Where pictures with a verdict go."""
        return self.done or self.path / "done"

    @property
    def failed_path(self) -> Path:
        """Where those go that could not be inspected."""
        return self.failed or self.path / "failed"


@dataclass(frozen=True, kw_only=True)
class BrokerSettings:
    """An MQTT broker.

    Attributes:
        host: Its name or address.
        port: 8883 with TLS and 1883 without when None.
        client: Name under which it knows us; it must be ours alone, and the same after a restart.
        user: For brokers that ask for one.
        password_variable: Environment variable that holds the password.
        password_file: File that holds it.
        version: Of MQTT.
        tls: Whether the connection is encrypted; it is when ``ca`` or ``certificate`` is given.
        ca: File of the certificates that are trusted; those of the system when None.
        certificate: Our own certificate, for brokers that ask for one.
        key: Its key.
        keepalive_s: How often the two make sure of each other.
        timeout_s: For an answer of the broker.
    """

    host: Name
    client: Name
    port: _Port | None = None
    user: str | None = None
    password_variable: str | None = None
    password_file: Path | None = None
    version: Literal["5", "3.1.1"] = "5"
    tls: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    keepalive_s: Annotated[int, Meta(ge=1, le=65535)] = 20
    timeout_s: Seconds = 10.0

    def __post_init__(self) -> None:
        """Raise a ``ValueError`` if fields do not fit together."""
        if self.user is None and (self.password_variable or self.password_file):
            raise ValueError("it has a password, but needs a user as well")
        if self.key is not None and self.certificate is None:
            raise ValueError("it has a key, but needs a certificate as well")

    @property
    def is_encrypted(self) -> bool:
        """Whether the connection is TLS."""
        return self.tls or self.ca is not None or self.certificate is not None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return self.host, self.port or (8883 if self.is_encrypted else 1883)


@dataclass(frozen=True, kw_only=True)
class MqttSourceSettings(BrokerSettings):
    """Triggers that come over MQTT: a picture each, or JSON that names one.

    Attributes:
        name: Of the source; a name of its own.
        topic: Where they come; ``+`` and ``#`` as MQTT has them.
        recipe: What they are inspected by where they do not say so.
        folder: Where the pictures lie that messages name; None when messages bring them.
        file_wait_s: How long a picture that is named may be missing.
        retained: Whether a message that the broker has kept is a part as well.
        session_s: How long the broker keeps messages while we are away, by MQTT 5.
        n_unanswered: Messages that the broker sends before we have answered the first, by MQTT 5.
        picture_bytes: Of one picture, at most.
        deadline_ms: From a message to its verdict; it waits for its turn when None.
    """

    name: Name
    topic: Name
    recipe: Name | None = None
    folder: Path | None = None
    file_wait_s: Annotated[float, Meta(ge=0, le=3600)] = 2.0
    retained: bool = False
    session_s: Annotated[int, Meta(ge=1, le=(1 << 32) - 1)] = 7 * 86400
    n_unanswered: Annotated[int, Meta(ge=1, le=1000)] = 20
    picture_bytes: Bytes = 64 << 20
    deadline_ms: Positive | None = None

    def __post_init__(self) -> None:
        """Raise a ``ValueError`` if fields do not fit together."""
        super().__post_init__()
        levels = self.topic.split("/")
        if "#" in self.topic[:-1] or any(len(one) > 1 and set(one) & set("+#") for one in levels):
            raise ValueError("in a topic, + and # stand alone between slashes, and # is the last")


@dataclass(frozen=True, kw_only=True)
class MqttSinkSettings(BrokerSettings):
    """Records over MQTT, one a message.

    Attributes:
        name: Of the sink; a name of its own.
        topic: Where they go; ``{recipe}`` stands for the recipe.
        status_topic: Where ``online`` and ``offline`` are kept, ``{client}`` standing for our name;
            empty for nowhere.
        heartbeat_s: How often it says ``online`` again.
        recipes: Of which; of all when empty.
    """

    name: Name
    topic: Name = "padim/{recipe}/inspections"
    status_topic: str = "padim/{client}/status"
    heartbeat_s: Seconds = 10.0
    recipes: tuple[Name, ...] = ()

    def __post_init__(self) -> None:
        """Raise a ``ValueError`` if fields do not fit together."""
        super().__post_init__()
        if set(self.topic + self.status_topic) & set("+#"):
            raise ValueError("a topic that is written to has no + and no #")


@dataclass(frozen=True, kw_only=True)
class WebhookSettings:
    """Records by HTTP, each a POST of JSON.

    Attributes:
        name: Of the sink; a name of its own.
        url: Where they go.
        timeout_s: Until the receiver has answered, at most.
        token_variable: Environment variable whose text is sent as a bearer token.
        token_file: File that holds it instead.
        secret_variable: Environment variable whose text signs what is sent.
        secret_file: File that holds it instead.
        ca: File of the certificates that are trusted; those of the system when None.
        recipes: Of which; of all when empty.
    """

    name: Name
    url: Annotated[str, Meta(pattern="^https?://")]
    timeout_s: Seconds = 10.0
    token_variable: str | None = None
    token_file: Path | None = None
    secret_variable: str | None = None
    secret_file: Path | None = None
    ca: Path | None = None
    recipes: tuple[Name, ...] = ()

    def __post_init__(self) -> None:
        """Raise a ``ValueError`` if the address cannot be posted to."""
        parts = urlsplit(self.url)
        if not parts.hostname or not self.url.isascii() or set(self.url) & set(" \r\n\t"):
            raise ValueError("url needs to be such as https://plant.example/verdicts")
        if parts.username is not None:
            raise ValueError("url has a user in it, but that is no place for one; use a token")
        _ = parts.port  # a ValueError if it is none


@dataclass(frozen=True, kw_only=True)
class FileSettings:
    """Records in a file, one a line: CSV where it ends in ``.csv``, else JSON.

    Attributes:
        name: Of the sink; a name of its own.
        path: The file, which grows; ``{day}`` in its name stands for the day of the verdict, UTC.
        recipes: Of which; of all when empty.
    """

    name: Name
    path: Path
    recipes: tuple[Name, ...] = ()

    def __post_init__(self) -> None:
        """Raise a ``ValueError`` if the path is no place for a file."""
        if self.path.is_dir():
            raise ValueError(f"its path {self.path} is a folder, but needs to be a file")


SourceSettings = FolderSettings | MqttSourceSettings
SinkSettings = MqttSinkSettings | WebhookSettings | FileSettings
_SOURCES: dict[str, type[SourceSettings]] = {
    "folder": FolderSettings,
    "mqtt": MqttSourceSettings,
}
_SINKS: dict[str, type[SinkSettings]] = {
    "mqtt": MqttSinkSettings,
    "webhook": WebhookSettings,
    "file": FileSettings,
}


def read_sources(data: object, origin: Path) -> tuple[SourceSettings, ...]:
    """Read ``[[sources]]`` of a TOML, whose path is ``origin``; files are named from there.

    Raises:
        UsageError: Something in it is unknown or cannot be had, or two have one name.
    """
    return _require_apart(
        tuple(_read(one, _SOURCES, "source", origin) for one in _list(data, "sources", origin)),
        origin,
    )


def read_sinks(data: object, origin: Path) -> tuple[SinkSettings, ...]:
    """Read ``[[sinks]]`` of a TOML, as ``read_sources`` does."""
    return _require_apart(
        tuple(_read(one, _SINKS, "sink", origin) for one in _list(data, "sinks", origin)), origin
    )


def read_secret(variable: str | None, file: Path | None, who: str) -> str | None:
    """The text of an environment variable or a file; None when neither is named.

    Raises:
        LineError: It is not set, cannot be read, or is empty.
    """
    if variable is not None:
        secret = os.environ.get(variable, "")
        if not secret:
            raise LineError(
                f"{who} needs the environment variable {variable}, which is not set. Set it before "
                "the service starts.",
                is_lasting=True,
            )
        return secret
    if file is None:
        return None
    try:
        secret = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise LineError(f"{who} needs {file}: {reason}.", is_lasting=True) from error
    if not secret:
        raise LineError(f"{who} needs what {file} is to hold, but it is empty.", is_lasting=True)
    return secret


def _list(data: object, what: str, origin: Path) -> list[Mapping[str, object]]:
    if not isinstance(data, list) or not all(isinstance(one, dict) for one in data):
        raise UsageError(f"{origin}: {what} need to be tables. Begin each with [[{what}]].")
    return data


def _read(data: Mapping[str, object], kinds: Mapping[str, type[T]], what: str, origin: Path) -> T:
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise UnknownNameError(f"kind of {what}", str(kind), tuple(kinds), f" in {origin}")
    rest = {name: value for name, value in data.items() if name != "kind"}
    name = f"{origin}, {what} {data.get('name', kind)}"
    return read_table(rest, kinds[kind], name, origin.parent)


def _require_apart(found: tuple[T, ...], origin: Path) -> tuple[T, ...]:
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{origin}: two are named {name!r}. Give each a name of its own.")
    return found
