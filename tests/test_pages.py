"""What pages show works; what they say of the program and of results is so."""

import importlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pages import ROOT, every_page, fences, follow
from PIL import Image
from trees import make_category, striped

from padim.recipes import RECIPES
from padim.store.store import Store

# Followed elsewhere: by test_readme.py, test_cpp_example.py, and where there are a service and a
# broker: tests/serving, tests/line.
ELSEWHERE = {"README.md", "cpp.md", "deploy.md", "serve.md", "sources.md", "wiring.md"}
FOLLOWED = sorted(
    page for page in every_page() if fences(page, "sh", "python") and page.name not in ELSEWHERE
)
REGISTRIES = re.compile(
    r"pypi\.org|pythonhosted|download\.pytorch\.org|npmjs|nuget\.org|conda\.(io|org)|anaconda|quay\.io"
)


SIZE_PX = (64, 64)
SLOW = {"benchmark", "compare", "export", "large-images", "learning", "line"}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def marked(page: Path) -> object:
    slow = page.stem in SLOW and page.parent.name == "howto"
    return pytest.param(page, marks=[pytest.mark.slow] if slow else (), id=name_of(page))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders that pages speak of, small."""
    cells = tmp_path / "demo/data/solar_mono"
    folders = {
        "good_parts": (4, False),
        "line_parts": (2, False),
        "other_parts": (2, False),
        "new_parts": (2, True),
        "defects": (2, True),
        "demo/data/solar_mono/train/good": (4, False),
        "demo/data/solar_mono/test/good": (2, False),
        "demo/data/solar_mono/test/anomalous": (2, True),
    }
    seed = 0
    for folder, (n_images, spot) in folders.items():
        (tmp_path / folder).mkdir(parents=True)
        for i in range(n_images):
            striped(seed := seed + 1, spot=spot).save(tmp_path / folder / f"{i}.png")
    assert cells.is_dir()
    mask = np.zeros((72, 72), np.uint8)
    mask[8:60, 8:64] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    make_category(tmp_path / "mvtec/bottle", n_train=3, n_test=1)
    Store.open(str(tmp_path / "padim-data/history.db")).close()
    for name, recipe in RECIPES.items():  # what pages do not say themselves is small here
        monkeypatch.setitem(RECIPES, name, replace(recipe, size_px=SIZE_PX, coarse_scale=0.0))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [marked(page) for page in FOLLOWED])
@pytest.mark.usefixtures("workplace")
def test_what_a_page_shows_works(page: Path) -> None:
    assert follow(page) > 0


def test_every_page_of_how_to_shows_commands() -> None:
    shown = {page.name for page in FOLLOWED if page.parent.name == "howto"}
    assert shown == {page.name for page in ROOT.glob("docs/howto/*.md")} - {"index.md"} - ELSEWHERE


@pytest.mark.parametrize("page", sorted(every_page()), ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if path.startswith("http"):
            continue
        found = page.parent / path if path else page
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {
                re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings
            }
            assert anchor in slugs, target


@pytest.mark.parametrize("page", sorted(every_page()), ids=name_of)
def test_no_page_sends_to_the_host_of_a_registry(page: Path) -> None:
    assert not REGISTRIES.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["results", "metrics"])
def test_a_page_is_that_of_its_result(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script = importlib.import_module(name)
    result = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text(encoding="utf-8"))
    assert script.PAGE.read_text(encoding="utf-8") == script.page(result)
