"""The commands by their names; the file of each is loaded when it is asked for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

import typer

from padim.cli.help import Command, Group, Rows

if TYPE_CHECKING:
    from typer._click import Command as AnyCommand
    from typer._click import Context


@dataclass(frozen=True)
class CommandFacts:
    """A command, as a row of `COMMANDS`."""

    heading: str  # in the help page
    place: str  # its file here, and its name in there
    help: str  # the first sentence of what it says of itself


COMMANDS = {
    "fit": CommandFacts("Fit and improve", "fit_command:fit", "Fit a model on good images."),
    "calibrate": CommandFacts(
        "Fit and improve",
        "calibrate_command:calibrate",
        "Set a model's threshold by other good images.",
    ),
    "update": CommandFacts(
        "Fit and improve", "learning_commands:update", "Add good images to a model."
    ),
    "forget": CommandFacts(
        "Fit and improve", "learning_commands:forget", "Take images out of a model."
    ),
    "merge": CommandFacts(
        "Fit and improve",
        "learning_commands:merge",
        "Join two models, or all shards of a fit, into one.",
    ),
    "predict": CommandFacts(
        "Inspect",
        "predict_command:predict",
        "Score images, and show where each is most anomalous.",
    ),
    "monitor": CommandFacts(
        "Inspect",
        "monitor_command:monitor",
        "Say whether a line has drifted, since when, and by what.",
    ),
    "info": CommandFacts("Inspect", "info_command:info", "Print what a model says of itself."),
    "check": CommandFacts(
        "Inspect", "check_command:check", "Look for what makes a dataset's numbers wrong."
    ),
    "evaluate": CommandFacts(
        "Measure",
        "evaluate_command:evaluate",
        "Measure a model on the test images of one category.",
    ),
    "benchmark": CommandFacts(
        "Measure",
        "benchmark_command:benchmark",
        "Fit and evaluate every category: tables, curves and pictures.",
    ),
    "compare": CommandFacts(
        "Measure",
        "compare_command:compare",
        "Say by how much one benchmark is better, and if that holds.",
    ),
    "report": CommandFacts(
        "Measure",
        "report_command:report",
        "Write a benchmark as one HTML file: metrics, curves, images.",
    ),
    "export": CommandFacts(
        "Ship",
        "export_command:export",
        "Write a model as a graph for ONNX Runtime or OpenVINO.",
    ),
    "verify": CommandFacts(
        "Ship", "export_command:verify", "Compare an exported graph with torch, on this machine."
    ),
    "serve": CommandFacts(
        "On the line",
        "serve_command:serve",
        "Inspect pictures that other programs send, over HTTP.",
    ),
    "history": CommandFacts(
        "On the line",
        "history_command:history",
        "List what a service has inspected, the newest first.",
    ),
    "tokens": CommandFacts(
        "On the line", "tokens_command:app", "Say who may use a service, by tokens with roles."
    ),
    "doctor": CommandFacts(
        "Ship",
        "doctor_command:doctor",
        "Say what this machine has, and how fast its engines score.",
    ),
    "backbones": CommandFacts(
        "Look up",
        "backbones_command:backbones",
        "List the backbones, their licences and where weights are.",
    ),
    "demo": CommandFacts(
        "Look up", "demo_command:demo", "Find defects in photographs of solar cells, from nothing."
    ),
    "weights": CommandFacts(
        "Look up", "weights_command:app", "List, fetch and verify pretrained weights."
    ),
}


class Commands(Mapping[str, "AnyCommand"]):
    """What `COMMANDS` names, each built when it is asked for."""

    def __init__(self) -> None:
        self._built: dict[str, AnyCommand] = {}

    def __getitem__(self, name: str) -> "AnyCommand":
        facts = COMMANDS[name]
        if name not in self._built:
            self._built[name] = _build(name, facts)
        return self._built[name]

    def __contains__(self, name: object) -> bool:
        return name in COMMANDS

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class Root(Group):
    """The group of all commands."""

    def list_commands(self, _ctx: "Context") -> list[str]:
        """Their names, in the order of the help page."""
        return list(COMMANDS)

    def list_rows(self) -> Rows:
        """The first sentence of each, by heading."""
        rows: Rows = {}
        for name, facts in COMMANDS.items():
            rows.setdefault(facts.heading, []).append((name, facts.help))
        return rows


def _build(name: str, facts: CommandFacts) -> "AnyCommand":
    """Load the file of a command, and make of it what Typer runs."""
    from padim.cli.options import with_shared_options

    file, _, place = facts.place.partition(":")
    found = getattr(import_module(f"padim.cli.{file}"), place)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    alone = typer.Typer(rich_markup_mode=None, add_completion=False)
    alone.command(name, cls=Command)(with_shared_options(found))
    return typer.main.get_command(alone)
