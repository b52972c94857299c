"""The shape of the source: nothing so wide, long or idle that a reader loses the thread."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src/padim"
Function = ast.FunctionDef | ast.AsyncFunctionDef

MOST_PARAMETERS = 12
MOST_LINES_OF_A_MODULE = 400
MOST_LINES_OF_A_COMMAND = 60


@cache
def modules() -> dict[str, ast.Module]:
    return {
        path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(SOURCE.rglob("*.py"))
    }


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """The functions of a module with their dotted names; those that only declare are left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, Function):
            if not declares(node):
                yield f"{prefix}{node.name}", node
            yield from functions(node, f"{prefix}{node.name}.")
        else:
            yield from functions(node, prefix)


def body(function: Function) -> list[ast.stmt]:
    """Its statements but the docstring."""
    return function.body[ast.get_docstring(function, clean=False) is not None :]


def declares(function: Function) -> bool:
    """Whether it is an overload, a method of a protocol, or abstract: it says what, and not how."""
    return all(
        isinstance(statement, ast.Pass | ast.Raise)
        or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        for statement in body(function)
    )


def parameters(function: Function) -> list[str]:
    given = function.args
    several = [one for one in (given.vararg, given.kwarg) if one is not None]
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, *several]
    return [one.arg for one in every if one.arg not in ("self", "cls")]


def dead(function: Function) -> list[str]:
    """The parameters that nothing in a function's body reads; ``_name`` says that it may be so."""
    read = {
        node.id
        for statement in body(function)
        for node in ast.walk(statement)
        if isinstance(node, ast.Name)
    }
    return [name for name in parameters(function) if name not in read and name[0] != "_"]


def test_no_function_has_more_parameters_than_a_reader_holds() -> None:
    wide = {
        f"{module}:{name}": len(parameters(function))
        for module, tree in modules().items()
        for name, function in functions(tree)
    }
    assert {name: n for name, n in wide.items() if n > MOST_PARAMETERS} == {}


def test_no_parameter_is_dead() -> None:
    idle = {
        f"{module}:{name}": dead(function)
        for module, tree in modules().items()
        for name, function in functions(tree)
    }
    assert {name: names for name, names in idle.items() if names} == {}


def test_no_command_is_longer_than_a_page() -> None:
    lengths = {
        f"{module}:{name}": (function.end_lineno or 0) - body(function)[0].lineno + 1
        for module, tree in modules().items()
        if module.startswith("cli/")
        for name, function in functions(tree)
    }
    assert {name: n for name, n in lengths.items() if n > MOST_LINES_OF_A_COMMAND} == {}


def test_no_module_is_longer_than_it_can_be_read_at_a_sitting() -> None:
    lengths = {
        module: len((SOURCE / module).read_text(encoding="utf-8").splitlines())
        for module in modules()
    }
    assert {name: n for name, n in lengths.items() if n > MOST_LINES_OF_A_MODULE} == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f(a, b): return a", ["b"]),
        ("def f(a, *, _b): return a", []),
        ("def f(a):\n def g(): return a\n return g", []),
        ("def f(a, *b, **c): return c", ["a", "b"]),
        ("def f(self, a): 'Says a.'; x = 1", ["a"]),
    ],
)
def test_a_dead_parameter_is_found(source: str, found: list[str]) -> None:
    ((_, function), *_) = functions(ast.parse(source))
    assert dead(function) == found


@pytest.mark.parametrize(
    "source",
    ["def f(a): ...", "def f(a):\n 'Hear a.'", "def f(a): raise NotImplementedError"],
)
def test_what_only_declares_is_left_out(source: str) -> None:
    assert not list(functions(ast.parse(source)))
