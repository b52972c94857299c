"""Write the pages that come from the program and from the results of the benchmarks.

``python docs/scripts/write_pages.py`` after a change of either; ``--check`` and a test say when
that is due.
"""

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from alarms import alarms_page
from scale import scale_page
from speed import speed_page, table
from thresholds import thresholds_page

from padim.backbones import BACKBONES, DEFAULT_BACKBONE, TWO_TAPS
from padim.choices import Choice
from padim.cli import build_root
from padim.cli.commands import COMMANDS
from padim.fitting.settings import CHOICES, FitSettings

DOCS = Path(__file__).parents[1]
_DEFAULT = re.compile(r" \[default: (.*)\]$")  # in the help of a choice of a fit
_MANY = 6  # names that a cell of a table holds
_SHARED = ("--json", "--quiet", "--verbose", "--help")


def write_pages() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8", newline="\n")
        sys.stdout.write(f"Written: docs/{name}\n")


def stale_pages() -> list[str]:
    """Pages that are not what the program and the results say."""
    return [
        name for name, page in PAGES.items() if (DOCS / name).read_text(encoding="utf-8") != page()
    ]


def commands_page() -> str:
    """Every command with its arguments and options."""
    group = build_root()
    lines = [
        "# Commands",
        "",
        "Written by `python docs/scripts/write_pages.py` from the program itself. `padim COMMAND "
        "--help` says the same in a terminal. [Which option when](options.md) says which to take.",
        "",
        "`padim --install-completion` lets your shell complete commands and options.",
        "",
        "Every command also has these:",
        "",
        *table(("option", "meaning"), _shared_rows(group)),
    ]
    heading = None
    for path, panel, command in _commands(group, ("padim",)):
        if panel != heading:
            lines += ["", f"## {panel}"]
            heading = panel
        lines += ["", f"### {' '.join(path)}", "", _sentences(command), ""]
        lines += ["```text", _usage(path, command), "```"]
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        if arguments:
            named = [(f"`{_argument(a)}`", _help(a)) for a in arguments]
            lines += ["", *table(("argument", "meaning"), named)]
        for kind, options in _panels(command).items():
            title = "option" if kind is None else f"option ({kind.lower()})"
            rows = [(_names(o), _help(o), _default(o)) for o in options]
            lines += ["", *table((title, "meaning", "default"), rows)]
    return "\n".join(lines) + "\n"


def backbones_page() -> str:
    """The facts of every backbone."""
    rows = [
        (
            f"`{spec.name}`" + (" (default)" if spec.name == DEFAULT_BACKBONE else ""),
            ", ".join(map(str, spec.taps)),
            ", ".join(map(str, spec.channels)),
            ", ".join(map(str, spec.strides)),
            ", ".join(map(str, TWO_TAPS[spec.name])),
            f"{spec.n_random_dims} of {spec.n_dims}" if spec.n_random_dims else f"{spec.n_dims}",
            f"{spec.weights_bytes / 1e6:.0f} MB",
            "with the install" if spec.package else "fetched once",
            spec.licence,
        )
        for spec in BACKBONES.values()
    ]
    sources = dict.fromkeys(spec.source for spec in BACKBONES.values())
    weights = [
        (
            f"`{spec.name}`",
            spec.library,
            f"`{spec.architecture}.{spec.weights_tag}`",
            f"`{spec.weights_file}`",
        )
        for spec in BACKBONES.values()
    ]
    headers = (
        *("name", "taps", "channels", "strides", "two taps"),
        *("dimensions", "size", "weights", "licence"),
    )
    return "\n".join(
        (
            "# Backbones",
            "",
            "Written by `python docs/scripts/write_pages.py` from `src/padim/backbones.py`. "
            "`padim backbones` prints most of it, and says which weights are on your machine.",
            "",
            *table(headers, rows),
            "",
            "- *taps*: the blocks whose features the recipes `accurate` and `reference` use, fine "
            "to coarse. `--taps` takes others.",
            "- *strides*: pixels of the network's image in one cell of each tap.",
            "- *two taps*: those of the recipes `standard` and `fast`, at strides 8 and 16.",
            "- *dimensions*: how many channels of *taps* are used. Of *two taps* it is another "
            "number, such as 152 with EfficientNet-Lite0. `--dims` takes as many as you say.",
            "- *licence*: of the weights, as their publisher states it.",
            "",
            "Only the EfficientNet-Lite networks were measured with their real weights. Shapes, "
            "facts and distances of all others are tested with random weights.",
            "",
            "## Weights",
            "",
            "[Weights without a network](../howto/weights.md) says how to bring them.",
            "",
            *table(("name", "library", "weights there", "file"), weights),
            "",
            "## Sources",
            "",
            *(f"- {source}." for source in sources),
            "",
        )
    )


def settings_page() -> str:
    """Every setting of a fit, as a keyword and as an option."""
    defaults = FitSettings()
    lines = [
        "# Settings of a fit",
        "",
        "Written by `python docs/scripts/write_pages.py` from `padim.FitSettings`. Each is a "
        "keyword of `padim.fit`, a line of a `--config` file, and an option of `padim fit` and "
        "`padim benchmark`: `sigma_px` is `--sigma-px`. What the command line takes as `256`, "
        "`256x512` or `1,2,4` may be `256`, `[256, 512]` or `[1, 2, 4]` in Python and in a file. "
        "[Which option when](options.md) says which "
        "to take. What has no default here is left to the recipe, the backbone or the machine.",
    ]
    panels = dict.fromkeys(choice.panel for choice in CHOICES.values())
    for panel in panels:
        rows = [
            (
                f"`{name}`",
                _escape(choice.help),
                _value(getattr(defaults, name)),
                _limits(choice, getattr(defaults, name)),
            )
            for name, choice in CHOICES.items()
            if choice.panel == panel
        ]
        headers = ("setting", "meaning", "default", "may be")
        lines += ["", f"## {(panel or 'others').capitalize()}", "", *table(headers, rows)]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    if value is None:
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _limits(choice: Choice, default: object) -> str:
    if len(choice.names) > _MANY:
        return "[these](backbones.md)"
    if choice.names:
        return ", ".join(f"`{name}`" for name in choice.names)
    within = choice.within
    if within is None:
        return ""
    if within.high == float("inf"):
        return f"above {within.low:g}" if within.is_open else f"{within.low:g} or more"
    if not within.is_open:
        return f"{within.low:g} to {within.high:g}"
    from_on = f"{within.low:g} or more" if default == within.low else f"above {within.low:g}"
    return f"{from_on}, below {within.high:g}"


def _commands(
    group: Any, path: tuple[str, ...], panel: str | None = None
) -> Iterable[tuple[tuple[str, ...], str, Any]]:
    """Every command that does something, in the order of the help page, with its heading there."""
    for name, command in group.commands.items():
        heading = panel or COMMANDS[name].heading
        if getattr(command, "commands", None):
            yield from _commands(command, (*path, name), heading)
        elif not command.hidden:
            yield (*path, name), heading, command


def _sentences(command: Any) -> str:
    return " ".join((command.help or "").split())


def _usage(path: Sequence[str], command: Any) -> str:
    parameters = [p for p in command.params if p.required or p.param_type_name == "argument"]
    pieces = [
        _argument(p) if p.param_type_name == "argument" else f"{p.opts[0]} {p.metavar}"
        for p in parameters
    ]
    return " ".join((*path, *pieces, "[OPTIONS]"))


def _argument(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    dots = "..." if argument.nargs == -1 or "list" in str(argument.type_descriptor) else ""
    return f"{name}{dots}" if argument.required else f"[{name}{dots}]"


def _is_shared(option: Any) -> bool:
    return any(name in _SHARED for name in option.opts)


def _panels(command: Any) -> dict[str | None, list[Any]]:
    """The options of a command by the panel that its help shows them in."""
    found: dict[str | None, list[Any]] = {}
    for option in command.params:
        if option.param_type_name == "option" and not _is_shared(option) and not option.hidden:
            found.setdefault(option.rich_help_panel, []).append(option)
    return found


def _shared_rows(group: Any) -> list[tuple[str, str]]:
    *_, command = next(iter(_commands(group, ())))
    shared = [o for o in command.params if o.param_type_name == "option" and _is_shared(o)]
    return [(_names(option), _help(option)) for option in shared]


def _names(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    return (
        f"{names} `{_escape(option.metavar)}`" if option.metavar and not option.is_flag else names
    )


def _help(parameter: Any) -> str:
    needed = " Needed." if parameter.required and parameter.param_type_name == "option" else ""
    return _escape(_DEFAULT.sub("", " ".join((parameter.help or "").split())) + needed)


def _default(option: Any) -> str:
    if said := _DEFAULT.search(option.help or ""):
        return f"`{said[1]}`"
    default = option.default
    if default in (None, (), False, "") or option.required or callable(default):
        return ""
    if default is True:
        return f"`{option.opts[0]}`" if option.secondary_opts else ""
    return f"`{default}`"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


PAGES: dict[str, Callable[[], str]] = {
    "reference/commands.md": commands_page,
    "reference/backbones.md": backbones_page,
    "reference/settings.md": settings_page,
    "alarms.md": alarms_page,
    "scale.md": scale_page,
    "speed.md": speed_page,
    "thresholds.md": thresholds_page,
}


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        stale = stale_pages()
        raise SystemExit(f"error: {stale} are out of date. Run {sys.argv[0]}." if stale else 0)
    write_pages()
