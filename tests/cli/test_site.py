"""The documentation site: built strictly, its reference has every public name, every page is in it."""

from __future__ import annotations

import inspect
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import cotrace

ROOT = Path(__file__).parents[2]
SECTIONS = ["Tutorial", "How to", "Reference", "Explanation", "Appendix"]
GENERATED = {"api.md", "coverage.md", "json.md", "licences.md"}
MOST_WORDS = 20_000
"""In all pages written by hand together; bars of tables are not words."""


def test_the_reference_is_what_its_script_writes_and_has_every_public_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    assert page == runpy.run_path(str(ROOT / "scripts" / "api_page.py"))["page"]()
    for name in cotrace.__all__:
        assert inspect.ismodule(getattr(cotrace, name)) or f"::: cotrace.{name}\n" in page


def test_what_is_in_the_reference_says_what_it_is() -> None:
    """Every name has a docstring whose first line is a sentence."""
    page = (ROOT / "docs" / "api.md").read_text()
    for path in re.findall(r"^::: cotrace\.([\w.]+)$", page, re.MULTILINE):
        found: object = cotrace
        for part in path.split("."):
            found = getattr(found, part)
        doc = inspect.getdoc(found) or ""
        assert doc.splitlines()[:1], path
        assert len(doc.splitlines()[0].split()) > 2, path


@pytest.mark.slow
def test_the_site_is_built_strictly(tmp_path: Path) -> None:
    """A link, an anchor or a name that leads nowhere fails; the site loads nothing from elsewhere."""
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "site" / "api" / "index.html").read_text()
    for name in ("LanguageProblem", "LanguageProblem.effects", "trace", "search.Pursuit", "tasks.winobias"):
        assert f'id="cotrace.{name}"' in reference
    home = (tmp_path / "site" / "index.html").read_text()
    assert not re.findall(r'(?:src|href)="https?://[^"]+\.(?:js|css|woff2?)"', home)


def test_every_page_is_in_the_site() -> None:
    """Pages by the order of the site: tutorial, how to, reference, explanation, and generated tables at the end."""
    text = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    listed = re.findall(r"- ([\w-]+\.md)", text)
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))
    assert re.findall(r"^  - ([A-Z][\w ]+):", text, re.MULTILINE) == SECTIONS
    assert re.findall(r"([\w-]+\.md)", text.partition("Appendix:")[2]) == ["coverage.md", "licences.md"]


def test_pages_are_short_and_say_when_a_script_wrote_them() -> None:
    pages = {path.name: path.read_text() for path in (ROOT / "docs").glob("*.md")}
    for name in GENERATED:
        assert re.search(r"[Gg]enerated by|written by `python", pages[name]), name
    words = sum(bool(re.search(r"\w", word)) for name in pages.keys() - GENERATED for word in pages[name].split())
    assert words <= MOST_WORDS, f"{words} words in pages written by hand"
