"""What a station is told of its sources and sinks, as tables of its TOML."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol, TypeVar

from msgspec import Meta

from padim.documents import read_table
from padim.errors import UnknownNameError, UsageError

T = TypeVar("T", bound="_Named")
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]
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
        poll_s: Between two looks. A picture is taken when two find it alike.
        marker: End of the name of an empty file that says that a picture is whole, such as
            ``.done``; pictures without one are left. Empty for none.
    """

    name: Name
    path: Path
    recipe: Name | None = None
    done: Path | None = None
    failed: Path | None = None
    poll_s: Seconds = 0.5
    marker: Annotated[str, Meta(max_length=20)] = ""


@dataclass(frozen=True, kw_only=True)
class BrokerSettings:
    """An MQTT broker.

    Attributes:
        host: Its name or address.
        port: 8883 by custom with TLS.
        client: Name under which it knows us; it must be ours alone, and the same after a restart.
        user: For brokers that ask for one.
        password_variable: Environment variable that holds the password.
        ca: File of the certificates that are trusted; given, the connection is TLS.
        certificate: Our own certificate, for brokers that ask for one.
        key: Its key.
    """

    host: Name
    client: Name
    port: _Port = 1883
    user: str | None = None
    password_variable: str | None = None
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, kw_only=True)
class MqttSourceSettings(BrokerSettings):
    """Triggers that come over MQTT: a picture each, or JSON that names one.

    Attributes:
        name: Of the source; a name of its own.
        topic: Where they come.
        recipe: What they are inspected by where they do not say so.
        folder: Where the pictures lie that messages name; None when messages bring them.
        retained: Whether a message that the broker has kept is a part as well.
    """

    name: Name
    topic: Name
    recipe: Name | None = None
    folder: Path | None = None
    retained: bool = False


@dataclass(frozen=True, kw_only=True)
class MqttSinkSettings(BrokerSettings):
    """Records over MQTT, one a message.

    Attributes:
        name: Of the sink; a name of its own.
        topic: Where they go; ``{recipe}`` stands for the recipe.
        status_topic: Where ``online`` and ``offline`` are kept; empty for nowhere.
        recipes: Of which; of all when empty.
    """

    name: Name
    topic: Name = "padim/{recipe}/inspections"
    status_topic: str = "padim/status"
    recipes: tuple[Name, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WebhookSettings:
    """Records by HTTP, each a POST of JSON.

    Attributes:
        name: Of the sink; a name of its own.
        url: Where they go.
        timeout_s: Until the receiver has answered, at most.
        token_variable: Environment variable whose text is sent as a bearer token.
        secret_variable: Environment variable whose text signs what is sent.
        recipes: Of which; of all when empty.
    """

    name: Name
    url: Annotated[str, Meta(pattern="^https?://")]
    timeout_s: Seconds = 10.0
    token_variable: str | None = None
    secret_variable: str | None = None
    recipes: tuple[Name, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FileSettings:
    """Records in a file, one a line: CSV where it ends in ``.csv``, else JSON.

    Attributes:
        name: Of the sink; a name of its own.
        path: The file, which grows.
        recipes: Of which; of all when empty.
    """

    name: Name
    path: Path
    recipes: tuple[Name, ...] = ()


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


def read_secret(variable: str | None, who: str) -> str | None:
    """The text of an environment variable; None when none is named.

    Raises:
        UsageError: It is not set.
    """
    if variable is None:
        return None
    if variable not in os.environ:
        raise UsageError(
            f"{who} needs the environment variable {variable}, which is not set. Set it before the "
            "service starts."
        )
    return os.environ[variable]


def _list(data: object, what: str, origin: Path) -> list[Mapping[str, object]]:
    if not isinstance(data, list) or not all(isinstance(one, dict) for one in data):
        raise UsageError(f"{origin}: {what} need to be tables. Begin each with [[{what}]].")
    return data


def _read(data: Mapping[str, object], kinds: Mapping[str, type[T]], what: str, origin: Path) -> T:
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise UnknownNameError(f"kind of {what} in {origin}", str(kind), tuple(kinds))
    rest = {name: value for name, value in data.items() if name != "kind"}
    name = f"{origin}, {what} {data.get('name', kind)}"
    return read_table(rest, kinds[kind], name, origin.parent)


def _require_apart(found: tuple[T, ...], origin: Path) -> tuple[T, ...]:
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{origin}: two are named {name!r}. Give each a name of its own.")
    return found
