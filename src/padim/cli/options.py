"""Options that several commands share, and parameters that stand for a group of options.

A command that has a parameter of a ``TypedDict`` gets an option for each of its keys. What a key
means is said by its ``Choice``: that of ``FitSettings``, or its own in ``Annotated``. The command
is given the options that stand on the command line and no others, so that whoever is called with
them knows the defaults.
"""

import inspect
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import fields, replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypedDict, get_args, get_type_hints, is_typeddict

import typer

from padim.choices import Choice, parts_of
from padim.cli.console import Output
from padim.fitting.config import read_choices
from padim.fitting.settings import CHOICES, KINDS, FitChoices, FitSettings
from padim.places import find_place


def option_of(name: str, choice: Choice, *, is_flag: bool = False, is_older: bool = False) -> Any:
    """Make an option of a choice: one that can be switched off as well, or the names of 0.1."""
    names = [f"--{name.replace('_', '-')}"]
    if is_flag:
        names = [f"{names[0]}/--no{names[0][1:]}"]
    return typer.Option(
        *(choice.older if is_older else names),
        metavar=choice.metavar,
        help=choice.help,
        rich_help_panel=choice.panel and choice.panel.capitalize(),
        hidden=is_older,
        autocompletion=(lambda: list(choice.names)) if choice.names else None,
    )


def option(help: str, metavar: str | None = None, *names: str) -> Any:
    """Make an option that only one command has; named as its parameter, where no name is given."""
    return typer.Option(*names, metavar=metavar, help=help)


Model = Annotated[
    Path, typer.Argument(help="A model file, or a graph (.onnx, .xml) that padim export wrote.")
]
OneCategory = Annotated[
    str | None, option_of("category", Choice("Which one of a dataset's.", "data", "NAME"))
]
Categories = Annotated[
    list[str] | None, option_of("category", Choice("Only this; repeatable.", "data", "NAME"))
]
_LAYOUT = Choice("Take the data for this: mvtec, visa, btad, ...", "data", "NAME")
Layout = Annotated[str | None, option_of("layout", _LAYOUT)]
Recursive = Annotated[
    bool, option_of("recursive", Choice("Look into folders inside folders.", "data"))
]
_SKIP = Choice("Leave unreadable images out and list them.", "data")
SkipUnreadable = Annotated[bool, option_of("skip_unreadable", _SKIP)]
Recipe = Annotated[str, option_of("recipe", CHOICES["recipe"])]
Weights = Annotated[Path | None, option_of("weights", CHOICES["weights"])]
Engine = Annotated[str, option_of("engine", CHOICES["engine"])]
Store = Annotated[str, option_of("store", CHOICES["store"])]
Threads = Annotated[
    int | None,
    typer.Option("--n-threads", "--threads", metavar="N", help=CHOICES["n_threads"].help),
]
_RATE = Choice("Good images that may be called anomalous: 0.01.", metavar="X")
FalseAlarmRate = Annotated[float | None, option_of("false_alarm_rate", _RATE)]
_PIXEL_RATE = Choice("Pixels of good images that may be: 0.001.", metavar="X")
PixelFalseAlarmRate = Annotated[float | None, option_of("pixel_false_alarm_rate", _PIXEL_RATE)]
CLUSTER = Choice("Spread the work over it; RAY_ADDRESS says where Ray is.", metavar="ray|torchrun")
Cluster = Annotated[str | None, option_of("cluster", CLUSTER)]


_SPEAKING = (
    ("as_json", Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]),
    ("quiet", Annotated[bool, typer.Option("-q", "--quiet", help="Errors and results only.")]),
    ("verbose", Annotated[bool, typer.Option("-v", "--verbose", help="Details as well.")]),
)
_CONFIG = Choice("Choices in a .toml; options on the command line win.", metavar="FILE")
_OLDER = "_older"


class Running(TypedDict, total=False):
    """Who runs a graph, and how."""

    engine: str
    precision: str
    n_threads: int
    device: str


class Opening(Running, total=False):
    """How a model is opened: the keywords of ``padim.load``."""

    weights: Path


class Rates(TypedDict, total=False):
    """Where normal ends: the keywords of ``Predictor.at``."""

    false_alarm_rate: Annotated[float, _RATE]
    pixel_false_alarm_rate: Annotated[float, _PIXEL_RATE]


def with_shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """Make options of a command's groups, and add those that say how it speaks."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())
    groups = {one.name: one.annotation for one in own if is_typeddict(one.annotation)}
    parameters: list[inspect.Parameter] = []
    for one in own:
        if one.name in groups:
            parameters += _make_options(groups[one.name])
        else:
            parameters.append(one.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    parameters = [_take_as_text(one) for one in parameters]
    paths = {one.name for one in parameters if _is_path(one.annotation)}
    parameters += [_make_parameter(name, option, default=False) for name, option in _SPEAKING]

    @wraps(command)
    def speak(*, as_json: bool, quiet: bool, verbose: bool, **given: object) -> None:
        Output.as_json, Output.quiet, Output.verbose = as_json, quiet, verbose
        Output.can_skip = given.get("skip_unreadable") is False
        given = {name: _find(value) if name in paths else value for name, value in given.items()}
        command(**{name: _collect(group, given) for name, group in groups.items()}, **given)

    speak.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what Typer reads
    speak.__annotations__ = {one.name: one.annotation for one in parameters}
    return speak


def _is_path(annotation: Any) -> bool:
    """Whether an option takes a path, or several."""
    (kind,) = parts_of(get_args(annotation)[0])
    return kind is Path or get_args(kind) == (Path,)


def _take_as_text(parameter: inspect.Parameter) -> inspect.Parameter:
    """Have Typer leave a path as it was typed: ``Path`` takes a slash out of a URL."""
    if not _is_path(parameter.annotation):
        return parameter
    kind, typer_s = get_args(parameter.annotation)
    as_text = copy(typer_s)
    as_text.path_type = str
    return parameter.replace(annotation=Annotated[kind, as_text])


def _find(value: object) -> object:
    """The path, or the paths, of what was typed."""
    if isinstance(value, list | tuple):
        return [_find(one) for one in value]
    return find_place(value) if isinstance(value, str | Path) else value


def _list_choices(group: Any) -> Iterator[tuple[str, Any, Choice]]:
    """The name, the type and the choice of each key of a group."""
    for name, hint in get_type_hints(group, include_extras=True).items():
        own = get_args(hint) if hasattr(hint, "__metadata__") else (KINDS[name], CHOICES[name])
        yield name, *own


def _make_options(group: Any) -> Iterator[inspect.Parameter]:
    """An option for each key of a group, and hidden ones under the names of version 0.1."""
    defaults = {one.name: one.default for one in fields(FitSettings)}
    for name, kind, choice in _list_choices(group):
        typed = _choose_type(kind)
        default = defaults[name] if group is FitChoices else None
        if default:
            shown = name.replace("_", "-") if default is True else default
            choice = replace(choice, help=f"{choice.help} [default: {shown}]")
        is_flag = typed is bool
        yield _make_parameter(
            name, Annotated[typed | None, option_of(name, choice, is_flag=is_flag)]
        )
        if choice.older:
            older = option_of(name, choice, is_older=True)
            yield _make_parameter(f"{name}{_OLDER}", Annotated[typed | None, older])
    if group is FitChoices:
        yield _make_parameter("config", Annotated[Path | None, option_of("config", _CONFIG)])


def _choose_type(kind: Any) -> Any:
    """What Typer reads from a command line for an annotated type."""
    parts = parts_of(kind)
    if Path in parts:
        return Path
    return parts[0] if parts in ((bool,), (int,), (float,)) else str


def _make_parameter(name: str, annotation: Any, default: object = None) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def _collect(group: Any, given: dict[str, object]) -> dict[str, object]:
    """Take the options of a group out of what was given, and keep those that were chosen."""
    chosen: dict[str, object] = {}
    if group is FitChoices and (config := given.pop("config")) is not None:
        assert isinstance(config, Path)
        chosen |= read_choices(config)
    for name, _, choice in _list_choices(group):
        older = given.pop(f"{name}{_OLDER}") if choice.older else None
        value = given.pop(name)
        value = older if value is None else value
        if value is not None:
            chosen[name] = value
    return chosen
