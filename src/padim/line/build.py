"""From settings to what they describe."""

from collections.abc import Mapping, Sequence

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


def list_receivers(
    sinks: Sequence[SinkSettings], recipes: Sequence[str]
) -> Mapping[str, tuple[str, ...]]:
    """Who receives the inspections of each recipe."""
    return {
        recipe: tuple(one.name for one in sinks if not one.recipes or recipe in one.recipes)
        for recipe in recipes
    }
