"""The built documentation site in Chromium: axe-core, the keyboard, a telephone's width, and print."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

pytest.importorskip("material")
ROOT = Path(__file__).parents[2]
KINDS = ("", "recipes/", "coming-from/", "gallery/winobias/", "licences/")
"""Pages of each kind: links and pictures, code, wide tables, figures, a generated table."""
REFERENCE = "api/"
"""The page of signatures, thousands of elements large: looked at once, in the dark, where colours are hardest."""
LONG_MS = 300_000
pytestmark = pytest.mark.slow


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the site, built as ``make docs`` does."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page of the width and scheme that the test asks for; its own console stays silent."""
    width, scheme = getattr(request, "param", (1280, "light"))
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    context.set_default_timeout(LONG_MS)  # the reference is thousands of elements, and machines are busy
    page, complaints = context.new_page(), []
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    assert complaints == []
    context.close()


def serious(page: Page) -> list[tuple[str, str, str]]:
    found = Axe().run(page).response["violations"]
    return [
        (one["id"], node["html"][:200], node["failureSummary"])
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("page", [(1280, "light"), (360, "light"), (1280, "dark")], indirect=True)
def test_axe_finds_nothing_serious(page: Page, site: str) -> None:
    for name in KINDS:
        page.goto(site + name)
        assert serious(page) == [], name


@pytest.mark.parametrize("page", [(1280, "dark")], indirect=True)
def test_axe_finds_nothing_serious_in_the_reference(page: Page, site: str) -> None:
    page.goto(site + REFERENCE)
    assert serious(page) == []


def pages() -> list[str]:
    """All pages but the reference, which takes a browser half a minute each time and has no element of its own."""
    stems = [path.relative_to(ROOT / "docs").with_suffix("") for path in sorted((ROOT / "docs").rglob("*.md"))]
    names = ["" if str(stem) == "index" else f"{stem.as_posix()}/" for stem in stems]
    return [name for name in names if name != REFERENCE]


WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.mark.parametrize("page", [(360, "light")], indirect=True)
def test_no_page_scrolls_sideways_on_a_telephone(page: Page, site: str) -> None:
    for name in pages():
        page.goto(site + name)
        assert page.evaluate(WIDER) <= 0, name


@pytest.mark.parametrize("page", [(718, "dark")], indirect=True)
def test_print_is_the_text_whole(page: Page, site: str) -> None:
    """At the width of A4 with margins: no controls, nothing cut at the side."""
    page.emulate_media(media="print", color_scheme="light")
    for name in pages():
        page.goto(site + name)
        assert page.evaluate(WIDER) <= 0, name
        for control in (".md-header", ".md-sidebar >> nth=0", ".md-footer-meta"):
            assert not page.locator(control).is_visible(), f"{name} {control}"
        cut = page.evaluate(
            "[...document.querySelectorAll('.md-typeset pre > code, .md-typeset__scrollwrap')]"
            ".filter(one => one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).overflowX != 'visible')"
            ".map(one => one.innerText.slice(0, 60))"
        )
        assert cut == [], name
    assert len(page.pdf()) > 10_000


def test_the_keyboard_reaches_the_text_the_search_and_what_scrolls(page: Page, site: str) -> None:
    page.goto(f"{site}coming-from/")
    page.keyboard.press("Tab")
    assert page.locator(".md-skip:focus").count() == 1
    reached = set()
    for _ in range(400):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.tagName + '.' + document.activeElement.className"))
    assert any(one.startswith("CODE.") for one in reached), reached
    assert any("md-tabs__link" in one for one in reached), reached
    page.keyboard.press("Escape")
    page.locator("body").click(position={"x": 5, "y": 500})
    page.keyboard.press("/")
    page.keyboard.type("glossary")
    page.wait_for_selector(".md-search-result__item")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url("**/glossary/**")
