"""The pages that people read, and what of them a test can run."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from padim.cli import main

ROOT = Path(__file__).parents[1]
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
ELSEWHERE = {"padim doctor --json"}  # times a fit for 20 seconds: tests/cli/test_doctor.py runs it
_NAMED = re.compile(r"`([\w.]+)`:\n\n\Z")


def every_page() -> Iterator[Path]:
    """Every page of the repository, what is built left out."""
    yield from ROOT.glob("*.md")
    yield from ROOT.glob("docs/**/*.md")
    yield from ROOT.glob("benchmarks/*.md")


def fences(page: Path, *languages: str) -> list[tuple[str, str, str]]:
    """The fences of a page: language, content, and the name of the file that it is, if any."""
    text = page.read_text(encoding="utf-8")
    found = []
    for fence in _FENCE.finditer(text):
        named = _NAMED.search(text[: fence.start()])
        found.append((fence[1], fence[2], named[1] if named else ""))
    return [one for one in found if one[0] in languages or (one[2] and one[0] != "math")]


def follow(page: Path) -> int:
    """Do what a page says, in the order in which it says it, in the working folder.

    Files that it shows under their names are written; commands and Python are run.

    Returns:
        How many commands and blocks of Python were run.
    """
    names: dict[str, object] = {}
    n_run = 0
    for language, content, name in fences(page, "sh", "python"):
        if name:
            Path(name).write_text(content, encoding="utf-8")
        elif language == "python":
            exec(compile(content, str(page), "exec"), names)
            n_run += 1
        else:
            for line in content.replace("\\\n", " ").splitlines():
                program, *arguments = shlex.split(line)
                assert program == "padim", line
                assert line in ELSEWHERE or main(arguments) == 0, line
                n_run += 1
    return n_run
