"""How image files are read where they leave a choice: what is white, and which page is meant."""

from dataclasses import asdict, dataclass
from typing import Annotated

from msgspec import Meta

FULL_WHITE = 65535
WHITES = (1023, 4095, 16383, FULL_WHITE)  # of 10, 12, 14 and 16 bits


@dataclass(frozen=True)
class Reading:
    """The choices in reading an image file.

    Attributes:
        white: The value of white in files of 16 bits, 1 to 65535; what is above counts as white.
        page: Which page or frame, from 1; when None, a file has to have a single one.
    """

    white: Annotated[int, Meta(ge=1, le=FULL_WHITE)] = FULL_WHITE
    page: Annotated[int, Meta(ge=1, le=1 << 32)] | None = None

    def to_json(self) -> dict[str, int | None]:
        """The choices as plain data."""
        return asdict(self)


AS_IT_IS = Reading()


def smallest_white(highest: int) -> int:
    """The smallest white of 10, 12, 14 or 16 bits that holds a value."""
    return next(white for white in WHITES if highest <= white)
