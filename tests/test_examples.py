import doctest
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import make_category

import padim


def public(name: str) -> object:
    return getattr(padim, name)


def is_error(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, padim.PadimError)


NAMES = [name for name in padim.__all__ if name != "__version__" and not is_error(public(name))]


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples speak of: a part, its models, one good image and one with a spot."""
    root = tmp_path_factory.mktemp("examples")
    category = make_category(root / "part")
    shutil.copy(category / "test/good/0.png", root / "good.png")
    shutil.copy(category / "test/spot/0.png", root / "spot.png")
    padim.fit(category, size_px=(64, 64)).save(root / "part.safetensors")
    for name, images in (("kept", "part/train/good"), ("other", "part/test/good")):
        model = padim.fit(root / images, size_px=(64, 64), keep_moments=True)
        model.save(root / f"{name}.safetensors", moments=True)
    return root


@pytest.fixture
def here(part: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it, to work in."""
    shutil.copytree(part, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_of_a_public_name_give_what_they_say(name: str, here: Path) -> None:
    globs = {"padim": padim, "np": np, "Image": Image}
    found = doctest.DocTestFinder().find(public(name), name, globs=globs)
    tests = [test for test in found if test.examples]
    assert tests, f"{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    said: list[str] = []
    for test in tests:
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


def test_help_shows_the_public_names_with_what_they_do(capsys: pytest.CaptureFixture[str]) -> None:
    import pydoc

    text = pydoc.plain(pydoc.render_doc(padim))
    for name in NAMES:
        assert name in text
        first, *_ = (public(name).__doc__ or "").splitlines()
        assert first in text
    assert "_MODULES" not in text
