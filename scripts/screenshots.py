#!/usr/bin/env python
"""The pictures of the README, of a real run: the report in Chromium, and the terminal.

scripts/screenshots.py               runs the demo, judges it, and takes the pictures into docs/images
scripts/screenshots.py --run RUN     takes those of the report from a run that is there already
"""

from __future__ import annotations

import argparse
import io
import os
import pty
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from rich.console import Console
from rich.text import Text

IMAGES = Path(__file__).parents[1] / "docs" / "images"
COTRACE = (sys.executable, "-m", "cotrace")
FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")
COLUMNS = 104
MOST_BYTES = 240_000
TRACE = ("trace", "--model", "shipped", "--task", "demo_conflict", "--max-size", "8")


def main() -> None:
    """Make the runs, take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--run", type=Path, help="a finished run, judged at level standard")
    parser.add_argument("--out", type=Path, default=IMAGES)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, chromium() as browser:
        run = asked.run or demo(Path(scratch) / "demo")
        report(browser, run / "report.html", asked.out)
        terminal(browser, Path(scratch), asked.out / "terminal.png")


def demo(out: Path) -> Path:
    """The demo's run, judged in detail, its report made again."""
    for command in (["demo", "--out", out], ["evaluate", out, "--level", "standard"], ["report", out]):
        subprocess.run([*COTRACE, *map(str, command), "--quiet"], check=True)
    return out


@contextmanager
def chromium() -> Iterator[Browser]:
    """The Chromium that is installed."""
    path = os.environ.get("COTRACE_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        sys.exit("no Chromium found: install one, or name it with COTRACE_BROWSER")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


def report(browser: Browser, path: Path, out: Path) -> None:
    """The verdict with the frontier, the map with the table in the dark, and the examples on a telephone."""
    light = opened(browser, path, 1200, 1640)
    save(light, out / "report.png")
    dark = opened(browser, path, 1200, 1060, scheme="dark")
    dark.locator(".by-size").evaluate("one => window.scrollTo(0, one.offsetTop)")
    save(dark, out / "report-dark.png")
    narrow = opened(browser, path, 390, 1060)
    narrow.locator("#examples").evaluate("one => window.scrollTo(0, one.offsetTop + 60)")
    save(narrow, out / "report-narrow.png")


def opened(browser: Browser, path: Path, width: int, height: int, scheme: str = "light") -> Page:
    """The report with its charts drawn."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(path.absolute().as_uri())
    page.wait_for_selector("html[data-drawn=yes]")
    return page


def save(page: Page, path: Path) -> None:
    """The window as a PNG of at most ``MOST_BYTES``, in 256 colours where it takes that."""
    page.wait_for_timeout(300)
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image.save(path, optimize=True)
    if path.stat().st_size > MOST_BYTES:
        few = image.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def terminal(browser: Browser, scratch: Path, path: Path) -> None:
    """What a trace says in a terminal: a real one is made for it, its words are drawn."""
    said = in_terminal([*COTRACE, *TRACE, "--out", str(scratch / "trace")])
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ cotrace " + " ".join(TRACE), style="bold"))
    console.print(Text.from_ansi(said.replace(str(scratch) + "/", "runs/")))
    drawing = scratch / "terminal.svg"
    drawing.write_text(console.export_svg(title="cotrace trace"), encoding="utf-8")
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(drawing.as_uri())
    box = page.locator("svg").first.evaluate("one => [one.viewBox.baseVal.width, one.viewBox.baseVal.height]")
    page.set_viewport_size({"width": 1100, "height": round(1100 * box[1] / box[0])})
    save(page, path)


def in_terminal(command: list[str]) -> str:
    """What a command writes to a terminal of its own; progress, on stderr, is left out."""
    ours, its = pty.openpty()
    environment = os.environ | {"COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    with subprocess.Popen(command, stdout=its, stderr=subprocess.DEVNULL, env=environment) as process:
        os.close(its)
        said = b"".join(read(ours))
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return said.decode().replace("\r\n", "\n")


def read(handle: int) -> Iterator[bytes]:
    """Everything from a terminal until its other side is closed."""
    while True:
        try:
            part = os.read(handle, 65536)
        except OSError:  # how Linux says that the other side has gone
            return
        if not part:
            return
        yield part


if __name__ == "__main__":
    main()
