import re
import shlex
from pathlib import Path

import pytest
from trees import make_category, striped

from padim.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder, first in (("good_parts", 0), ("new_parts", 50)):
        (tmp_path / folder).mkdir()
        for i in range(3):
            striped(first + i).save(tmp_path / folder / f"{i}.png")
    make_category(tmp_path / "mvtec/bottle", n_train=3, n_test=1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_of_the_readme_work(workplace: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) == 11
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "padim"
        assert main(arguments) == 0, command
    assert (workplace / "out/overlays/0.jpg").is_file()
    assert (workplace / "results/results.md").is_file()


def test_python_of_the_readme_works(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    for code in blocks:
        exec(compile(code, "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert "(256, 256) (72, 72)" in said
    assert "'aupro_30': " in said


def test_links_of_the_documents_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
