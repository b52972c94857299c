import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pytest
import typer

from padim.cli import build_root, main
from padim.cli.commands import COMMANDS
from padim.cli.help import Command

GROUPS = {
    "Fit and improve": ["fit", "calibrate", "update", "forget", "merge"],
    "Inspect": ["predict", "monitor", "info", "check"],
    "Measure": ["evaluate", "benchmark", "compare", "report"],
    "Ship": ["export", "verify", "doctor"],
    "On the line": ["serve", "history", "tokens"],
    "Look up": ["backbones", "demo", "weights"],
}


@pytest.fixture
def help_of(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    monkeypatch.setenv("COLUMNS", "80")

    def print_help(*arguments: str) -> str:
        assert main([*arguments, "--help"]) == 0
        return capsys.readouterr().out

    return print_help


def sections(page: str) -> dict[str, list[str]]:
    """The lines under each heading of a help page."""
    found: dict[str, list[str]] = {}
    for line in page.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            found[line.removesuffix(":")] = rows = []
        elif line.startswith("  ") and found:
            rows.append(line)
    return found


def test_every_command_stands_under_its_heading_with_a_whole_sentence(
    help_of: Callable[..., str],
) -> None:
    found = sections(help_of())
    del found["Options"]
    assert {heading: [row.split()[0] for row in rows] for heading, rows in found.items()} == GROUPS
    for row in sum(found.values(), sections(help_of("weights"))["Commands"]):
        assert row.endswith(".")
        assert "..." not in row
        assert len(row) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_page_says_of_a_command_what_it_says_of_itself(name: str) -> None:
    whole = " ".join((build_root().commands[name].help or "").split())
    assert f"{whole} ".startswith(f"{COMMANDS[name].help} ")


def test_a_page_is_plain_text_and_ends_each_line_at_80_columns(help_of: Callable[..., str]) -> None:
    for name in sum(GROUPS.values(), [""]):
        page = help_of(*name.split())
        assert page.isascii()
        assert max(map(len, page.splitlines())) <= 80


def test_options_stand_under_the_panels_they_name(capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer(rich_markup_mode=None, add_completion=False)

    @app.command(cls=Command)
    def cut(
        log: Annotated[str, typer.Argument(help="What to cut.")],
        out: Annotated[str, typer.Option("-o", help="Where to.")],
        saw: Annotated[str, typer.Option("--saw", help="Which.", rich_help_panel="Tool")] = "hand",
        planks: Annotated[int, typer.Option("--planks", help="How many.")] = 1,
        kerf: Annotated[
            bool,
            typer.Option("--kerf-as-wide-as-it-is/--no-kerf", help="Keep.", rich_help_panel="Tool"),
        ] = True,
    ) -> None:
        """Cut."""

    app(["--help"], standalone_mode=False)
    found = sections(capsys.readouterr().out)
    assert list(found) == ["Arguments", "Options", "Tool"]
    assert [row.split()[0] for row in found["Options"]] == ["-o", "--planks", "--help"]
    assert found["Arguments"][0].split() == ["log", "What", "to", "cut.", "[required]"]
    columns = {
        found["Arguments"][0].index("What"),
        found["Options"][0].index("Where"),
        found["Tool"][0].index("Which"),
    }
    assert columns == {2 + 30 + 2}
    assert "Keep" not in found["Tool"][1]  # its name is wide, so that its help is below
    assert found["Tool"][2].strip().startswith("Keep.")


def run_shell(arguments: list[str], home: Path, **environment: str) -> str:
    """What ``padim`` prints for a shell; the tests' own shell is not asked which it is."""
    environment |= {"HOME": str(home), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    return subprocess.run(
        [sys.executable, "-m", "padim", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("padim fit --backbone res", ["resnet18"]),
        ("padim fo", ["forget"]),
        ("padim fit --eps", ["--eps", "--eps-rule"]),
        ("padim weights f", ["fetch"]),
    ],
)
def test_a_shell_completes_commands_and_options(
    words: str, completed: list[str], tmp_path: Path
) -> None:
    place = str(len(words.split()) - 1)
    said = run_shell(
        [], tmp_path, _PADIM_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=place
    )
    assert said.split() == completed


def test_completion_is_shown_and_installed(tmp_path: Path) -> None:
    script = run_shell(["--show-completion", "bash"], tmp_path)
    assert "complete -o default" in script
    assert not list(tmp_path.iterdir())
    assert "bash completion installed" in run_shell(["--install-completion", "bash"], tmp_path)
    assert (tmp_path / ".bash_completions/padim.sh").read_text() == script.rstrip("\n")
