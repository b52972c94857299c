"""Help pages in plain text, whose commands and options stand under headings.

An option's heading is its ``rich_help_panel``; without one it is Options.
"""

from typing import TYPE_CHECKING

from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter

Rows = dict[str, list[tuple[str, str]]]
_LONGEST = 80  # characters of a first sentence
_WIDEST = 30  # of the first column; what is wider has its help below


class Command(TyperCommand):
    """A command whose options stand under headings."""

    def format_options(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        """Write arguments and options, each heading where its first option is."""
        _write(formatter, _parameters(self, ctx))


class Group(TyperGroup):
    """A group whose commands stand under headings."""

    def format_options(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        """Write the options and, under their headings, the commands with their first sentence."""
        _write(formatter, _parameters(self, ctx))
        _write(formatter, self.list_rows())

    def list_rows(self) -> Rows:
        """The first sentence of each command, by heading."""
        said = [(name, one.get_short_help_str(_LONGEST)) for name, one in self.commands.items()]
        return {"Commands": said}


def _parameters(command: TyperCommand | TyperGroup, ctx: "Context") -> Rows:
    rows: Rows = {}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is None:
            continue
        name, text = record
        if parameter.param_type_name == "argument":
            panel, name = "Arguments", name.partition(" <")[0]  # its help says what it is
        else:
            panel = getattr(parameter, "rich_help_panel", None) or "Options"
        rows.setdefault(panel, []).append((name, text))
    return rows


def _write(formatter: "HelpFormatter", rows: Rows) -> None:
    """Write rows under headings, aligned from one heading to the next."""
    names = [name for section in rows.values() for name, _ in section]
    width = min(max(map(len, names)), _WIDEST)
    for heading, section in rows.items():
        with formatter.section(heading):
            formatter.write_dl([(name.ljust(width), text) for name, text in section], _WIDEST)
