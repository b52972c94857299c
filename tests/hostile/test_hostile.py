"""A few hundred cases of the harness with fixed seeds; ``make fuzz`` runs many more."""

import sys
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("forks and is killed as Windows cannot", allow_module_level=True)

from hostile.cases import Pool
from hostile.folders import find_torn, read_contents
from hostile.inputs import build_aside
from hostile.kills import SCENARIOS, Killer
from hostile.outcome import Outcome, Tally, Verdict, is_sentence
from hostile.processes import start_server
from hostile.races import RACES, Racer
from hostile.targets import TARGETS

pytestmark = pytest.mark.slow

N_CASES = {
    "model": 60, "tiles": 20, "roi": 20, "moments": 25, "onnx": 60, "openvino": 8, "image": 150,
    "dataset": 40, "run": 40, "config": 20, "annotation": 60, "parquet": 20,
}  # fmt: skip


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> ForkServerContext:
    return start_server(tmp_path_factory.mktemp("hostile") / "home")


@pytest.fixture(scope="module")
def site(context: ForkServerContext, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "site"
    build_aside(context, folder)
    return folder


@pytest.fixture(scope="module")
def pool(
    context: ForkServerContext, site: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pool]:
    pool = Pool(context, site, tmp_path_factory.mktemp("hostile") / "cases", seed=0)
    yield pool
    pool.close()


def list_broken(outcomes: list[Outcome]) -> str:
    tally = Tally()
    tally.add(outcomes)
    return tally.list_broken()


@pytest.mark.parametrize("kind", [kind for kind in N_CASES if kind in TARGETS])
def test_a_changed_input_is_refused_or_does_no_harm(pool: Pool, kind: str) -> None:
    outcomes = pool.run(kind, range(N_CASES[kind]))
    assert list_broken(outcomes) == ""
    assert len({outcome.verdict for outcome in outcomes}) > 1


@pytest.mark.parametrize("name", ["fit, moments", "update", "calibrate, onnx", "predict"])
def test_what_is_killed_leaves_what_was_or_what_is_to_be(
    context: ForkServerContext, site: Path, tmp_path: Path, name: str
) -> None:
    first = list(SCENARIOS).index(name)
    killer = Killer(context, site, tmp_path / "kills", seed=0)
    outcomes = killer.run("kill", [first + turn * len(SCENARIOS) for turn in range(4)])
    assert list_broken(outcomes) == ""


@pytest.mark.parametrize("name", ["update, update", "calibrate, forget"])
def test_two_that_change_one_file_do_it_in_one_order_or_not_at_all(
    context: ForkServerContext, site: Path, tmp_path: Path, name: str
) -> None:
    first = list(RACES).index(name)
    racer = Racer(context, site, tmp_path / "races", seed=0)
    assert list_broken(racer.run("race", [first, first + len(RACES)])) == ""


def test_a_broken_promise_is_told_with_how_to_make_it_again() -> None:
    said = "model/file.py:83 KeyError: 'backbone'"
    broken = [Outcome("model", i, Verdict.TRACEBACK, "drop", said) for i in (25, 31)]
    assert list_broken(broken) == f"model traceback: --only model:25,31 [drop] {said}"
    assert list_broken([Outcome("model", 0, Verdict.REFUSED, "cut", "It is cut short.")]) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.png is empty. Copy it again.", True),
        ("Traceback (most recent call last).", False),
        ("two\nlines are not one.", False),
        ("", False),
    ],
)
def test_a_refusal_is_a_sentence(text: str, expected: bool) -> None:
    assert is_sentence(text) is expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"m.safetensors": "old", "m.moments.safetensors": "OLD"}, None),
        ({"m.safetensors": "new", "m.moments.safetensors": "NEW"}, None),
        (
            {
                "m.safetensors": "new",
                "m.moments.safetensors": "OLD",
                "m.moments.next.safetensors": "NEW",
            },
            None,
        ),
        (
            {"m.safetensors": "new", "m.moments.safetensors": "OLD"},
            "m.moments.safetensors is not of m.safetensors, which is new",
        ),
        ({"m.safetensors": "new"}, "m.moments.safetensors is gone"),
        (
            {"m.safetensors": "ne", "m.moments.safetensors": "OLD"},
            "m.safetensors is neither old nor new",
        ),
    ],
)
def test_what_is_torn_is_found(tmp_path: Path, files: dict[str, str], expected: str | None) -> None:
    def write(place: str, texts: dict[str, str]) -> Path:
        (tmp_path / place).mkdir()
        for name, text in texts.items():
            (tmp_path / place / name).write_text(text)
        return tmp_path / place

    old, new = (
        read_contents(
            write(version, {"m.safetensors": version, "m.moments.safetensors": version.upper()})
        )
        for version in ("old", "new")
    )
    assert find_torn(write("found", files), old, new, {}) == expected
