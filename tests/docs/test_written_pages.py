"""Pages that a script writes are those of the program, and pictures carry their licence."""

import importlib
import re
from types import ModuleType

import pytest
from pages import ROOT

DOCS = ROOT / "docs"
NOTICE = "CC BY-NC-SA 4.0"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(DOCS / "scripts"))
    return importlib.import_module("write_pages")


@pytest.mark.parametrize(
    "page", ["reference/commands.md", "reference/backbones.md", "speed.md", "thresholds.md"]
)
def test_a_written_page_is_current(scripts: ModuleType, page: str) -> None:
    assert (DOCS / page).read_text(encoding="utf-8") == scripts.PAGES[page]()


def test_all_of_them_are_looked_at(scripts: ModuleType) -> None:
    assert scripts.stale_pages() == []
    assert len(scripts.PAGES) == 4


def test_each_picture_of_the_gallery_has_its_notice() -> None:
    text = (DOCS / "gallery.md").read_text(encoding="utf-8")
    shown = re.findall(r"^!\[[^]]+\]\((images/gallery/[^)]+)\)\n\n\*(.*)\*$", text, re.MULTILINE)
    assert {DOCS / path for path, _ in shown} == set((DOCS / "images/gallery").iterdir())
    assert all("elpv-dataset" in words and NOTICE in words for _, words in shown)


def test_pictures_are_of_solar_cells_alone() -> None:
    found = {path.name for path in DOCS.rglob("*") if path.suffix in {".png", ".jpg", ".webp"}}
    gallery = {path.name for path in (DOCS / "images/gallery").iterdir()}
    assert found - gallery == {"cracked_cell.png", "good_cell.png"}
