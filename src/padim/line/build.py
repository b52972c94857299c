"""From settings to what they describe."""

from collections.abc import Iterator, Mapping, Sequence

from padim.errors import require_extras
from padim.line.files import FileSink
from padim.line.folder import FolderSource
from padim.line.protocols import Sink, Source
from padim.line.settings import (
    FileSettings,
    FolderSettings,
    SinkSettings,
    SourceSettings,
    WebhookSettings,
)
from padim.line.webhook import Webhook


def build_source(settings: SourceSettings) -> Source:
    """Make a source; it is not opened.

    Raises:
        MissingExtraError: What it needs is not installed.
    """
    if isinstance(settings, FolderSettings):
        return FolderSource(settings)
    require_extras("mqtt")
    from padim.line.mqtt import MqttSource

    return MqttSource(settings)


def build_sink(settings: SinkSettings) -> Sink:
    """Make a sink; it is not opened.

    Raises:
        MissingExtraError: What it needs is not installed.
    """
    if isinstance(settings, FileSettings):
        return FileSink(settings)
    if isinstance(settings, WebhookSettings):
        return Webhook(settings)
    require_extras("mqtt")
    from padim.line.mqtt import MqttSink

    return MqttSink(settings)


class Receivers(Mapping[str, tuple[str, ...]]):
    """Who receives the inspections of a recipe, be it known or not, of now or of later."""

    def __init__(self, sinks: Sequence[SinkSettings]) -> None:
        self._sinks = sinks

    def __getitem__(self, recipe: str) -> tuple[str, ...]:
        """The names of its sinks."""
        return tuple(one.name for one in self._sinks if not one.recipes or recipe in one.recipes)

    def __iter__(self) -> Iterator[str]:
        """The recipes that a sink names."""
        return iter({recipe: None for one in self._sinks for recipe in one.recipes})

    def __len__(self) -> int:
        """How many those are."""
        return sum(1 for _ in self)
