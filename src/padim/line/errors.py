"""What can go wrong on the line."""

from padim.errors import PadimError


class SourceError(PadimError):
    """A source is not there, or not as it should be."""


class SinkError(PadimError):
    """A receiver does not take what it is to have."""
