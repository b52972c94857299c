"""What a maintainer or a contributor reads holds what it must."""

import yaml
from pages import ROOT

import padim

MOST_LINES = 80


def test_architecture_is_one_page() -> None:
    lines = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MOST_LINES
    rooms = {
        path.name for path in (ROOT / "src/padim").iterdir() if (path / "__init__.py").exists()
    }
    assert all(f"`{room}`" in "\n".join(lines) for room in rooms)


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == padim.__version__
    assert citation["license"] == "Apache-2.0"


def test_the_issue_form_asks_what_the_machine_is() -> None:
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/fault.yml").read_text(encoding="utf-8"))
    asked = [item for item in form["body"] if item.get("validations", {}).get("required")]
    assert any("padim doctor --json" in item["attributes"]["label"] for item in asked)


def test_pre_commit_runs_tools_of_make_test() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for hook in hooks["repos"][0]["hooks"]:
        tool = " ".join(hook["entry"].removeprefix(".venv/bin/").split()[:2])
        assert f"$(BIN)/{tool.split(' --')[0]}" in makefile, tool
