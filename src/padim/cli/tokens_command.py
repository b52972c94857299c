"""``padim tokens add|list|remove``."""

from pathlib import Path
from typing import Annotated

import typer

from padim.cli import options
from padim.cli.console import result, table
from padim.cli.help import Command, Group
from padim.cli.options import option
from padim.errors import require_extras

app = typer.Typer(
    cls=Group,
    help="Say who may use a service, by tokens with roles.",
    rich_markup_mode=None,
    add_completion=False,
)
Data = Annotated[Path, option("Folder of the service.", "DIR")]
Name = Annotated[str, typer.Argument(help="Who has the token: a person, a machine.")]
_HERE = Path("padim-data")


@app.command("add", cls=Command)
@options.with_shared_options
def add(
    name: Name,
    role: Annotated[str, option("score, operate, quality, engineer or admin.", "ROLE")],
    data: Data = _HERE,
) -> None:
    """Make a token, and print it this once."""
    require_extras("serve")
    from padim.serving.tokens import TOKENS, add_token

    token = add_token(data / TOKENS, name, role)
    result({"name": name, "role": role, "token": token}, token)


@app.command("list", cls=Command)
@options.with_shared_options
def list_tokens(data: Data = _HERE) -> None:
    """Say who has a token, and for what."""
    require_extras("serve")
    from padim.serving.tokens import TOKENS, read_tokens

    found = read_tokens(data / TOKENS)
    document = [{"name": one.name, "role": one.role.value} for one in found]
    rows = [(one.name, one.role.value) for one in found]
    result(document, table(("name", "role"), rows) if rows else "There is no token.")


@app.command("remove", cls=Command)
@options.with_shared_options
def remove(name: Name, data: Data = _HERE) -> None:
    """Make a token worth nothing."""
    require_extras("serve")
    from padim.serving.tokens import TOKENS, remove_token

    remove_token(data / TOKENS, name)
    result({"name": name}, f"The token of {name} is worth nothing from now on.")
