"""A choice of the user as data: what its help says, and what it may be."""

import errno
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np

from padim.errors import UnknownNameError, UsageError
from padim.places import Place, find_place, require_here

_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a file",
    np.ndarray: "an array",
}
_TWO = "two whole numbers, such as [256, 512]"


@dataclass(frozen=True)
class Range:
    """Where a number must lie."""

    low: float
    high: float = float("inf")
    is_open: bool = False  # whether the ends themselves are left out
    usual: float | None = None  # what to try instead; the nearest end when None

    def holds(self, number: float) -> bool:
        """Whether a number lies inside."""
        if self.is_open:
            return self.low < number < self.high
        return self.low <= number <= self.high and number != float("inf")

    def advise(self, number: float) -> str:
        """What a number outside should be, and what to try."""
        is_half = self.high == float("inf")
        if self.is_open:
            needs = f"be above {self.low:g}" + ("" if is_half else f" and below {self.high:g}")
        elif is_half:
            needs = f"be {self.low:g} or more"
        else:
            needs = f"lie between {self.low:g} and {self.high:g}"
        usual = self.usual
        if usual is None:
            usual = self.high if number > self.high and not is_half else self.low
        return f"needs to {needs}. Try {usual:g}"


@dataclass(frozen=True)
class Choice:
    """What is known of a field of ``FitSettings`` beside its name, type and default."""

    help: str  # one line for a person
    panel: Literal["data", "network", "map", "threshold", "memory", "output"] | None = None
    metavar: str | None = None  # stands for the value in the help; None for one that is on or off
    words: str = ""  # what an error calls it; its name when empty
    names: tuple[str, ...] = ()  # it may have; any when empty
    prefix: str = ""  # of other names that it may have, which whoever reads it knows
    within: Range | None = None  # where its number, or each of them, must lie but for the default
    older: tuple[str, ...] = ()  # options of version 0.1 that go on working
    parse: Callable[[str], object] | None = None  # reads a text, or one number, as the option does

    def read(self, name: str, value: object, kind: Any) -> Any:
        """Make sure that a value of this annotated type can be chosen under a name.

        Returns:
            The value; what ``parse`` makes of it, and a tuple of a list.

        Raises:
            UsageError: It is of another kind, or outside the range.
            UnknownNameError: It is not one of the names that there are.
        """
        words = self.words or name
        if isinstance(value, list):
            value = tuple(value)
        is_parsed = isinstance(value, str | Integral) and not isinstance(value, bool)
        if self.parse is not None and is_parsed:
            value = self.parse(str(value))
        if not _is_of_kind(value, kind):
            usual = None if self.within is None else self.within.usual
            has_example = any(get_origin(part) is tuple for part in parts_of(kind))
            advice = "" if usual is None or has_example else f" Try {usual:g}."
            raise UsageError(
                f"{words} is {value!r}, but needs to be {_describe_kind(kind)}.{advice}"
            )
        is_other = bool(self.prefix) and str(value).startswith(self.prefix)
        if self.names and isinstance(value, str) and value not in self.names and not is_other:
            raise UnknownNameError(name.replace("_", " "), value, self.names)
        if self.within is None:
            return value
        numbers: tuple[object, ...] = value if isinstance(value, tuple) else (value,)
        for number in numbers:
            if isinstance(number, Real) and not self.within.holds(as_float := _to_float(number)):
                shown = "x".join(map(str, numbers)) if len(numbers) > 1 else f"{as_float:g}"
                raise UsageError(f"{words} is {shown}, but {self.within.advise(as_float)}.")
        return value


def _to_float(number: Real) -> float:
    """Make a float64 of a number; infinite where that cannot hold it."""
    try:
        return float(number)
    except OverflowError:
        return float("-inf") if number < 0 else float("inf")


def parse_size(text: str, what: str = "size") -> tuple[int, int]:
    """Read ``256`` or ``256x512`` as (height, width).

    Raises:
        UsageError: It is neither.
    """
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise UsageError(f"The {what} is {text!r}, but needs to be such as 256 or 256x512 (HxW).")
    return int(sides[0]), int(sides[-1])


def require_path(given: object, what: str = "The model") -> Path:
    """Make sure that something can be the path of a file, be it there or not.

    Raises:
        UsageError: It is something else, or no file can have such a name.
    """
    if not isinstance(given, str | PathLike) or not str(given):
        raise UsageError(f"{what} is {given!r}, but needs to be the path of a file. Name one.")
    path = find_place(given)
    if isinstance(path, Place):
        return path
    try:
        path.stat()
    except (OSError, ValueError) as error:  # a ValueError is of a NUL
        if getattr(error, "errno", errno.ENAMETOOLONG) == errno.ENAMETOOLONG:
            name = str(given) if len(str(given)) < 80 else f"{str(given)[:77]}..."
            raise UsageError(
                f"{what} is {name!r}, which no file can be called. Take a shorter, plainer name."
            ) from None
    return path


def require_model_place(given: object) -> Path:
    """Make sure that a path is one for a model file, and that nothing else is lost there.

    Raises:
        UsageError: No file can have such a path, or moments would, or there is a file that is no
            model file.
    """
    path = require_path(given, "The model file")
    require_here(path)
    if path.stem.endswith(".moments"):
        raise UsageError(
            f"{path} has the name of moments, but is to be a model file. Name another."
        )
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(9)
        if start and start[8:] != b"{":  # safetensors: eight bytes of a length, then JSON
            raise UsageError(
                f"{path} is there and no model file, but would be replaced by one. Name another, "
                "or delete it first."
            )
    return path


def is_same(one: object, other: object) -> bool:
    """Whether two values are equal, be they arrays or not."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return not isinstance(one, np.ndarray) and not isinstance(other, np.ndarray) and one == other


def parts_of(kind: Any) -> tuple[Any, ...]:
    """The types that a value may have, without None."""
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return tuple(part for part in parts if part is not NoneType)


def _is_of_kind(value: object, kind: Any) -> bool:
    """Whether a value is of an annotated type, of those that choices have."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_is_of_kind(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin is tuple:
        if not isinstance(value, tuple) or (len(value) != len(parts) and parts[-1] is not Ellipsis):
            return False
        return all(_is_of_kind(one, parts[0]) for one in value)
    if kind is not bool and isinstance(value, bool):
        return False
    abstract = {int: Integral, float: Real, Path: PathLike}
    return isinstance(value, abstract.get(kind, origin or kind))


def _describe_kind(kind: Any) -> str:
    """What a value must be, in words."""
    words = []
    for part in parts_of(kind):
        origin, parts = get_origin(part), get_args(part)
        if origin is tuple:
            words.append("whole numbers" if parts[-1] is Ellipsis else _TWO)
        elif origin is Literal:
            words += [str(one) for one in parts]
        else:
            words.append(_KINDS[origin or part])
    return " or ".join(words)
