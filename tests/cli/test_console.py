import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from trees import striped

from padim.cli import console, main
from padim.cli.bars import bars


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ü, 日本\n", "plain, ü, 日本\n"),
        ("\x1b[2Jred\x1b[31m", "\\x1b[2Jred\\x1b[31m"),
        ("a\rb\x07\x08\x7f\x9b", "a\\rb\\x07\\x08\\x7f\\x9b"),
        ("gpj.\u202etxt\u2066\u200f", "gpj.\\u202etxt\\u2066\\u200f"),
        ("a\u2028b", "a\\u2028b"),
    ],
)
def test_what_a_terminal_obeys_is_shown(text: str, shown: str) -> None:
    assert console.escape(text) == shown


def test_a_table_and_a_warning_stay_in_their_lines(capsys: pytest.CaptureFixture[str]) -> None:
    text = console.table(("path", "n"), [("a\nb", "1"), ("c\x1b", "2")])
    assert text.splitlines() == ["path   n", "a\\nb   1", "c\\x1b  2"]
    console.warn("a\nerror: b")
    assert capsys.readouterr().err == "warning: a\\nerror: b\n"


def test_the_name_of_a_bar_is_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = io.StringIO()
    shown = Console(file=stream, force_terminal=True, width=200)
    monkeypatch.setattr("padim.cli.bars.Console", lambda **_: shown)
    monkeypatch.setattr(console.Output, "quiet", False)  # whatever ran before
    with bars() as bar:
        bar.add_task("[/red]\x1b]0;x\x07", total=3)
    assert "[/red]\\x1b]0;x\\x07" in stream.getvalue()


@pytest.mark.skipif(os.name == "nt", reason="Windows takes no such names")
def test_names_reach_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a\x1b[2J.png", "b\u202egpj.png"):
        striped(1).save(tmp_path / name)
        assert main(["fit", str(tmp_path / name / "x"), "-o", str(tmp_path / "m")]) == 2
    said = "".join(capsys.readouterr())
    assert "\x1b" not in said
    assert "\\x1b[2J.png" in said
    assert "\\u202egpj.png" in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is full is Linux's")
@pytest.mark.parametrize(
    ("streams", "status", "err"),
    [
        (">/dev/full", 1, "error: The standard output cannot be written to: No space left"),
        ("2>/dev/full", 0, ""),
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        (">&- 2>&- <&-", 0, ""),
        (">/dev/full 2>/dev/full", 1, ""),
    ],
)
def test_the_work_is_done_whoever_listens(
    streams: str, status: int, err: str, tmp_path: Path
) -> None:
    """A service without streams, a disk that is full: the file is written all the same."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from padim.cli import run_guarded\n"
        "from padim.cli.console import result, say, warn\n"
        "from padim.interrupts import guard\n"
        "def work():\n"
        "    say('begins')\n"
        "    warn('doubtful')\n"
        "    Path(sys.argv[1]).write_text('done')\n"
        "    result({}, 'done')\n"
        "sys.exit(guard(lambda: run_guarded(work)))"
    )
    command = f'"$0" -c "$1" "$2" {streams}'
    words = ["bash", "-c", command, sys.executable, code, str(tmp_path / "file")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert (tmp_path / "file").read_text() == "done"
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert err in done.stderr
