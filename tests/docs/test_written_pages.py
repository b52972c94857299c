"""Pages that a script writes are those of the program, and pictures carry their licence."""

import importlib
import re
from types import ModuleType

import pytest
from pages import ROOT

import padim
from padim.scoring.journal import COLUMNS

DOCS = ROOT / "docs"
NOTICE = "CC BY-NC-SA 4.0"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(DOCS / "scripts"))
    return importlib.import_module("write_pages")


def test_written_pages_are_current(scripts: ModuleType) -> None:
    said = {
        path.relative_to(DOCS).as_posix()
        for path in DOCS.rglob("*.md")
        if "Written by `python docs/scripts/write_pages.py`" in path.read_text(encoding="utf-8")
    }
    assert said == set(scripts.PAGES)
    assert scripts.stale_pages() == [], "Run: python docs/scripts/write_pages.py"


def test_each_picture_of_the_gallery_has_its_notice() -> None:
    text = (DOCS / "gallery.md").read_text(encoding="utf-8")
    shown = re.findall(r"^!\[[^]]+\]\((images/gallery/[^)]+)\)\n\n\*(.*)\*$", text, re.MULTILINE)
    assert {DOCS / path for path, _ in shown} == set((DOCS / "images/gallery").iterdir())
    assert all("elpv-dataset" in words and NOTICE in words for _, words in shown)


def test_pictures_are_of_solar_cells_alone() -> None:
    found = {path.name for path in DOCS.rglob("*") if path.suffix in {".png", ".jpg", ".webp"}}
    gallery = {path.name for path in (DOCS / "images/gallery").iterdir()}
    assert found - gallery == {"cracked_cell.png", "good_cell.png"}


def test_the_page_of_python_has_every_public_name() -> None:
    text = (DOCS / "reference/python.md").read_text(encoding="utf-8")
    named = re.findall(r"^::: padim\.(\w+)$", text, re.MULTILINE)
    assert sorted(named) == sorted(name for name in padim.__all__ if name != "__version__")


def test_the_page_of_results_has_every_column() -> None:
    text = (DOCS / "reference/results.md").read_text(encoding="utf-8")
    named = [
        name for row in re.findall(r"^\| (`[^|]+`) \|", text, re.M) for name in row.split(", ")
    ]
    assert set(COLUMNS) <= {name.strip("`") for name in named}
