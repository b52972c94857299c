"""Data from outside: JSON within limits, checked against one table of fields before it is used.

A table is a dataclass whose annotations say what each field is and where its number lies; relations
between fields are checked in its ``__post_init__``, which raises a ``ValueError``.
"""

import json
import math
from dataclasses import dataclass, is_dataclass
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from padim.errors import PadimError, UnknownNameError, UsageError

MOST_BYTES = 64 << 20
_DEEPEST = 32  # lists and objects inside each other
_LONGEST = 200  # characters of a reason
_LARGEST = 1.7e308

T = TypeVar("T")

Count = Annotated[int, Meta(ge=0, le=1 << 48)]
Index = Annotated[int, Meta(ge=0, lt=1 << 26)]
Side = Annotated[int, Meta(ge=1, le=1 << 16)]  # of a picture, in pixels, or of a grid, in cells
Finite = Annotated[float, Meta(ge=-_LARGEST, le=_LARGEST)]
Positive = Annotated[float, Meta(gt=0, le=_LARGEST)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Document:
    """Data from outside, and how it is refused.

    Attributes:
        origin: Where it comes from, as a message names it: a path, or more words.
        error: Class of the error.
        advice: What to do about it, as a sentence.
    """

    origin: object
    error: type[PadimError]
    advice: str

    def read(self, path: Path, most_bytes: int = MOST_BYTES) -> Any:
        """Read a file of JSON, as ``parse`` does; an ``OSError`` of the system passes."""
        return self.parse(self.read_bytes(path, most_bytes), most_bytes)

    def read_bytes(self, path: Path, most_bytes: int = MOST_BYTES) -> bytes:
        """Read a regular file that is not too large; an ``OSError`` of the system passes."""
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise self.refuse("it is no file")
        with path.open("rb") as file:
            text = file.read(most_bytes + 1)
        if len(text) > most_bytes:
            raise self.refuse(f"it has more than {most_bytes >> 20} MiB")
        return text

    def parse(self, text: str | bytes, most_bytes: int = MOST_BYTES) -> Any:
        """Parse JSON into plain data.

        Raises:
            PadimError: It is none, is larger or nested deeper than may be, or has a number that is
                not finite. The class is ``error``.
        """
        if len(text) > most_bytes:
            raise self.refuse(f"it has more than {most_bytes >> 20} MiB")
        try:
            data = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise self.refuse(f"it is no JSON ({error})") from error
        parents: list[Any] = [[data]]
        for _ in range(_DEEPEST + 1):
            if any(
                math.inf in values or -math.inf in values for values in map(_values_of, parents)
            ):
                raise self.refuse("a number in it is not finite")
            parents = [part for parent in parents for part in _parts_of(parent)]
            if not parents:
                return data
        raise self.refuse(f"it is nested more than {_DEEPEST} deep")

    def restore(self, data: object, kind: type[T]) -> T:
        """Make plain data what a table says that it is; what the table does not name is left out.

        Raises:
            PadimError: A field is missing, of another type or outside its range, or two do not fit
                together. The class is ``error``.
        """
        try:
            return msgspec.convert(data, kind)
        except (ValueError, RecursionError) as error:  # of msgspec, and of names that are no text
            what, _, place = str(error).replace("`", "").partition(" - at ")
            where = f"at {place.removeprefix('$.')}, " if place else ""
            raise self.refuse(where + what[:1].lower() + what[1:]) from error

    def refuse(self, reason: str) -> PadimError:
        """What to raise, for a reason that is no sentence yet."""
        shown = reason if len(reason) <= _LONGEST else f"{reason[:_LONGEST]}..."
        return self.error(f"{self.origin} cannot be understood: {shown}. {self.advice}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _values_of(parent: Any) -> Any:
    return parent.values() if isinstance(parent, dict) else parent


def _parts_of(parent: Any) -> list[Any]:
    """The lists and objects in a list or object."""
    return [part for part in _values_of(parent) if isinstance(part, dict | list)]


def read_table(data: object, kind: type[T], origin: str, folder: Path = Path()) -> T:
    """Make a table of settings what a dataclass says that it is.

    What the dataclass does not name is a slip of the hand, unlike in a file of a newer release.

    Args:
        data: Plain data, of a TOML say.
        kind: The dataclass.
        origin: Where it comes from, as a message names it.
        folder: Where files are named from.

    Raises:
        UnknownNameError: A key is unknown.
        UsageError: A value is missing, of another type or outside its range.
    """
    _require_known(data, kind, origin)
    try:
        return msgspec.convert(data, kind, dec_hook=partial(_read_path, folder))
    except ValueError as error:
        what, _, place = str(error).replace("`", "").partition(" - at ")
        where = f"{origin}, {place.removeprefix('$.')}" if place else origin
        raise UsageError(f"{where}: {what[:1].lower()}{what[1:]}. Change it there.") from error


def _require_known(data: object, kind: Any, origin: str) -> None:
    """Look for unknown keys, in tables inside tables as well."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    arguments = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        tables = [one for one in arguments if is_dataclass(one)]
        if len(tables) == 1 and data is not None:
            _require_known(data, tables[0], origin)
    elif isinstance(data, dict | list) and arguments:
        inside = arguments[1 if isinstance(data, dict) else 0 : 2]
        for name, value in data.items() if isinstance(data, dict) else enumerate(data):
            _require_known(value, inside[0], f"{origin}, {name}")
    elif is_dataclass(kind) and isinstance(data, dict):
        hints = get_type_hints(kind, include_extras=True)
        for name, value in data.items():
            if name not in hints:
                raise UnknownNameError("setting", str(name), tuple(hints), f" in {origin}")
            _require_known(value, hints[name], f"{origin}, {name}")


def _read_path(folder: Path, kind: type, value: object) -> object:
    """Read what JSON and TOML have no type for."""
    if kind is Path and isinstance(value, str) and value:
        return folder / value
    raise ValueError(f"expected {'a path' if kind is Path else kind.__name__}, got {value!r}")
