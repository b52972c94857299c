"""What can go wrong on the line."""

from padim.errors import PadimError


class LineError(PadimError):
    """A source or a sink does not work.

    Attributes:
        is_lasting: Whether it stays so until a person changes something: a wrong password, say.
    """

    def __init__(self, sentence: str, *, is_lasting: bool = False) -> None:
        super().__init__(sentence)
        self.is_lasting = is_lasting


class SourceError(LineError):
    """A source is not there, or not as it should be."""


class SinkError(LineError):
    """A receiver does not take what it is to have."""
