"""The commands. Only this package prints and exits."""

import io
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

import padim
from padim.cli.commands import Commands, Root
from padim.cli.console import SKIP_ADVICE, Output, fail, flush_streams
from padim.errors import ImageReadError, PadimError, failure_of, join_names, naming_extras
from padim.interrupts import (
    describe_interrupt,
    interrupted_status,
    open_streams,
    was_interrupted,
)

_INTERRUPTED = 130  # as Typer has it, whatever the signal
PIPE_CLOSED = 141  # 128 and SIGPIPE, which Windows does not name

_app = typer.Typer(
    name="padim",
    cls=Root,
    help="Find and localise defects in images after seeing only good ones.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@_app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        sys.stdout.write(f"padim {padim.__version__}\n")
    elif context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")


def build_root() -> Root:
    """Make what Typer runs, with all commands."""
    root = typer.main.get_command(_app)
    assert isinstance(root, Root)
    root.commands = Commands()  # type: ignore[assignment]  # nobody adds to it
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, the process's own when None.

    Returns:
        The exit status: 0, 1 for a failure, 2 for wrong usage, 130 or 143 when interrupted.
    """
    Output.as_json = "--json" in (sys.argv[1:] if arguments is None else arguments)
    Output.quiet = Output.verbose = Output.has_result = False
    Output.lost, Output.advice = None, ""
    command = build_root()

    def work() -> int:
        # Without arguments Typer takes the process's own, and on Windows finds the files of *.png.
        try:
            status: int | None = command.main(arguments, prog_name="padim", standalone_mode=False)
        except SystemExit as leaving:
            if isinstance(leaving.__context__, BrokenPipeError):
                raise leaving.__context__ from None  # Typer leaves with 1, as if it had failed
            raise
        if status == _INTERRUPTED:
            raise KeyboardInterrupt  # Typer makes it a status and says nothing
        return status or 0

    return run_guarded(work)


def run_guarded(work: Callable[[], int | None]) -> int:
    """Do the work of a command line; turn what goes wrong into one sentence and an exit status."""
    open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be text
    try:
        with naming_extras():
            status = work() or 0
    except BaseException as error:
        failed = _tell_failure(error)
        if failed is None:
            raise
        status = failed
    lost = flush_streams()
    if lost is not None and not status:
        fail(lost, f"The standard output cannot be written to: {lost.strerror}. The work is done.")
        status = 1
    return status


def _tell_failure(error: BaseException) -> int | None:
    """Say what went wrong; the exit status, or None for a mistake in the code."""
    if isinstance(error, KeyboardInterrupt | typer.Abort) or was_interrupted():
        fail(KeyboardInterrupt(), describe_interrupt())
        return interrupted_status()
    if isinstance(error, TyperException):
        message = error.format_message()
        if message in ("", "Missing command."):
            context = getattr(error, "ctx", None)
            message = (
                f"A command is missing. See {context.command_path if context else 'padim'} --help."
            )
        option = getattr(error, "option_name", "")
        if option and message.startswith("No such option"):
            message += _name_takers(option)
        fail(error, message)
        return error.exit_code
    if isinstance(error, PadimError):
        skip = Output.can_skip and type(error) is ImageReadError
        fail(error, f"{error} {SKIP_ADVICE}" if skip else str(error))
        return error.exit_status
    if isinstance(error, BrokenPipeError):
        return PIPE_CLOSED  # whoever read the results has seen enough
    failure = failure_of(error)
    if failure is None:
        return None
    fail(error, failure[1])
    return 1


def _name_takers(option: str) -> str:
    """Which commands take an option that another does not, as the end of a sentence."""
    takers = [
        name
        for name, command in Commands().items()
        if any(option in (*one.opts, *one.secondary_opts) for one in command.params)
    ]
    return f". It is an option of {join_names(takers)}." if takers else ""
