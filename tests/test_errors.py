import ast
import sys
import tomllib
from pathlib import Path

import pytest

from padim.errors import MissingExtraError, naming_extras, require_extras

ROOT = Path(__file__).parents[1]
_IMPORTED = {"pillow": "PIL"}


def test_every_package_that_is_imported_is_of_the_core_or_of_an_extra() -> None:
    """Where it is missing, the extra is named and nobody sees a traceback."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = {name.partition(">")[0].partition(";")[0].strip() for name in project["dependencies"]}
    core = {_IMPORTED.get(name, name) for name in core}
    tracking = {"mlflow", "tensorboard"}  # named by the command itself
    imported = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    for name in sorted(imported - sys.stdlib_module_names - core - tracking - {"padim"}):
        with pytest.raises(MissingExtraError), naming_extras():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_a_command_asks_for_all_that_its_extra_brings(monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for package in project["optional-dependencies"]["serve"]:
        name = package.partition(">")[0].replace("-", "_")
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, name, None)
            with pytest.raises(MissingExtraError, match=name):
                require_extras("serve")


def test_all_extras_that_are_missing_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    require_extras("fit", "report")
    for name in ("torch", "jinja2"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"needs torch, .*padim-efficientnet\[fit,report\]"):
        require_extras("fit", "report")
