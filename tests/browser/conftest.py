"""A headless Chromium, the report of a real run, and a report whose texts are hostile."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from filelock import FileLock
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

import cotrace as ct
from cotrace.cli.main import run
from cotrace.prompts.pair_files import record_of
from tests import shapes
from tests.browser.hostile import hostile_page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


def executable() -> str:
    """The browser. Where there is none the test is skipped; where it is required, as in CI, it fails."""
    found = os.environ.get("COTRACE_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
    if found:
        return found
    reason = "no Chromium found: install Debian's chromium, or name one with COTRACE_BROWSER"
    if os.environ.get("COTRACE_BROWSER_REQUIRED") or os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = executable()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page, with everything that it complained of and asked the network for."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


@pytest.fixture
def opened(browser: Browser) -> Iterator[OpenReport]:
    reports = OpenReport(browser)
    yield reports
    for one in reports.all:
        assert one.complaints == []
        assert [url for url in one.requests if not url.startswith("file:")] == []
        one.page.context.close()


class OpenReport:
    """Opens reports from the disk, waits until their charts are drawn, and watches them until the test ends."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.all: list[Opened] = []

    def __call__(self, path: Path, *, width: int = 1280, height: int = 900, scheme: str = "light") -> Page:
        context = self.browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if scheme == "dark" else "light",
            reduced_motion="reduce",
        )
        one = Opened(context.new_page())
        one.page.on("console", one.note)
        one.page.on("pageerror", lambda error: one.complaints.append(str(error)))
        one.page.on("request", lambda request: one.requests.append(request.url))
        one.page.goto(path.as_uri())
        one.page.wait_for_selector("html[data-drawn=yes]", timeout=60_000)
        self.all.append(one)
        return one.page


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A run of the model that ships: two searches, judged in detail. One for all workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "browser-run"
    with FileLock(f"{folder}.lock"):
        if not (folder / "manifest.json").exists():
            _trace(folder)
    return folder


def _trace(folder: Path) -> None:
    pairs = folder.with_name("browser-pairs.jsonl")
    lines = [json.dumps(record_of(pair)) for pair in ct.tasks.load("demo_conflict").pairs[::4]]
    pairs.write_text("\n".join(lines), encoding="utf-8")
    question = ["--model", "shipped", "--task", str(pairs), "--holdout", "0.4", "--max-size", "4"]
    searches = ["--searches", "pursuit,topk", "--evaluation", "standard"]
    steps = (
        ["compare", *question, *searches, "--out", str(folder)],
        ["explain", str(folder), "--k", "4"],
        ["report", str(folder)],
    )
    with shapes.unchecked():
        for step in steps:
            assert run([*step, "--quiet"]) == 0


@pytest.fixture(scope="session")
def report(run_folder: Path) -> Path:
    return run_folder / "report.html"


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "report.html"
    path.write_bytes(hostile_page())
    return path
