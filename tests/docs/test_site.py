"""The site builds strictly, and a reader's browser fetches nothing from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT

import padim

FETCHED = re.compile(
    r'<(?:script|img|iframe|source)\b[^>]*\bsrc="(?:https?:)?//[^"]+"'
    r'|<link\b[^>]*\brel="(?:stylesheet|preconnect|icon|preload)"[^>]*\bhref="(?:https?:)?//[^"]+"'
    r"|@import\s+url\((?:https?:)?//"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return folder


def test_every_page_is_there(site: Path) -> None:
    docs = ROOT / "docs"
    pages = [*docs.rglob("*.md"), *docs.rglob("*.ipynb")]
    for page in pages:
        assert (site / page.relative_to(docs).with_suffix(".html")).is_file(), page


def test_a_reader_fetches_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not FETCHED.search(page.read_text(encoding="utf-8")), page.name


def test_formulas_need_no_script(site: Path) -> None:
    assert (site / "explanation/method.html").read_text(encoding="utf-8").count("<math") >= 5


def test_every_public_name_has_its_place(site: Path) -> None:
    text = (site / "reference/python.html").read_text(encoding="utf-8")
    for name in padim.__all__:
        assert name == "__version__" or f'id="padim.{name}"' in text, name
