"""The report in Chromium: no complaint, no request (the fixture looks at both), and everything on it works."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from cotrace.text.escape import visible
from tests.browser.conftest import OpenReport
from tests.browser.hostile import TEXTS

pytestmark = pytest.mark.slow
WIDTHS = (360, 768, 1600)
CELLS = "#chart-map-0 .mark-rect.role-mark path"


def set_size(page: Page, stop: int) -> None:
    """Move the slider as a reader's browser does."""
    slider = page.locator("#k")
    slider.fill(str(stop))
    slider.dispatch_event("input")


def chosen_cells(page: Page, chart: str = "#chart-map-0") -> set[str]:
    """Names of the components that the map shows as chosen, from the labels that are read out."""
    labels = page.locator(f"{chart} [aria-roledescription='rect mark']").evaluate_all(
        "marks => marks.map(mark => mark.getAttribute('aria-label'))"
    )
    fields = [dict(part.split(": ", 1) for part in label.split("; ")) for label in labels]
    return {one["component"] for one in fields if one["state"].startswith("in the set")}


def chosen_rows(page: Page) -> set[str]:
    """Names of the components that the table shows as chosen."""
    return set(page.locator("#table tbody tr.chosen th").all_inner_texts())


def column(page: Page, key: str) -> list[str]:
    """The shown cells of a column, as they sort."""
    return page.evaluate(
        """key => { const head = document.querySelector(`#table th[data-key=${key}]`);
        return [...document.querySelectorAll('#table tbody tr')].filter(row => !row.hidden)
            .map(row => row.cells[head.cellIndex].dataset.v) }""",
        key,
    )


def stored(folder: Path) -> dict[str, Any]:
    """The frontiers that the run wrote."""
    data: dict[str, Any] = json.loads((folder / "selection.json").read_text())
    return {one["search"]: one for one in data["frontiers"]}


def test_slider_drives_map_table_and_words(opened: OpenReport, run_folder: Path, report: Path) -> None:
    page = opened(report)
    for stop, selection in enumerate(stored(run_folder)["pursuit"]["selections"]):
        set_size(page, stop)
        page.wait_for_timeout(100)
        assert chosen_cells(page) == set(selection["components"])
        assert chosen_rows(page) == set(selection["components"])
        assert f"k = {selection['k']}:" in page.locator("#k-words").inner_text()
        assert page.locator("#k").get_attribute("aria-valuetext") == f"k = {selection['k']}"
        assert page.locator("#members").inner_text().split() == selection["components"]


def test_another_search_shows_its_own_sets(opened: OpenReport, run_folder: Path, report: Path) -> None:
    page = opened(report)
    set_size(page, 2)
    page.locator("#search").select_option(label="topk")
    page.wait_for_timeout(100)
    selection = stored(run_folder)["topk"]["selections"][2]
    assert chosen_cells(page) == set(selection["components"]) == chosen_rows(page)


def test_headings_sort_and_the_filter_filters(opened: OpenReport, report: Path) -> None:
    page = opened(report)
    head = page.locator("#table th[data-key=alone]")
    for direction in ("descending", "ascending"):
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == direction
        numbers = [float(value) for value in column(page, "alone") if value]
        assert len(numbers) > 10
        assert numbers == sorted(numbers, reverse=direction == "descending")
    assert "" not in column(page, "alone")[: len(numbers)]  # what was not computed stays at the end
    page.locator("#table th[data-key=component] button").click()
    assert head.get_attribute("aria-sort") == "none"
    assert column(page, "component") == sorted(column(page, "component"))
    page.locator("#filter").fill("L2.head")
    shown = column(page, "component")
    assert shown
    assert all(name.startswith("L2.head") for name in shown)
    page.locator("#filter").fill("")
    page.locator("#only").check()
    assert set(column(page, "component")) == chosen_rows(page)


def test_examples_follow_size_order_and_subgroup(opened: OpenReport, report: Path) -> None:
    page = opened(report)
    shown = "#cards .example:not([hidden])"

    def effects() -> list[float]:
        texts = page.locator(f"{shown} .effect").all_inner_texts()
        return [float(text.replace("\u2212", "-")) for text in texts]

    before = effects()
    assert before == sorted(before, key=abs, reverse=True)
    page.locator("#order").select_option("least")
    assert effects() == sorted(effects(), key=abs)
    set_size(page, 0)
    assert effects() != before
    group = page.locator("#subgroup option", has_text="group = she").get_attribute("value")
    page.locator("#subgroup").select_option(group)
    assert {json.loads(card.get_attribute("data-fields") or "")["group"] for card in page.locator(shown).all()} == {
        "she"
    }
    marks = page.locator(f"{shown} mark").all_inner_texts()
    assert marks
    assert all(len(mark.split()) == 1 for mark in marks)  # the two prompts differ in one name


def test_a_pressed_token_shows_where_each_head_looks(opened: OpenReport, run_folder: Path, report: Path) -> None:
    """By mouse and keyboard; the weights are those of the run's file, and the diagram's nodes lead to the cards."""
    told = json.loads((run_folder / "explanation.json").read_text())
    page = opened(report, width=360)
    names = [card["component"] for card in told["cards"]]
    assert page.locator(".member .example-head strong").all_inner_texts() == names
    example = told["examples"][1]
    page.locator("#pattern").select_option("1")
    strip = page.locator(f".strip[data-head='{names[-1]}']")
    assert strip.locator("button").count() == len(example["tokens"])
    strip.locator("button").nth(2).focus()
    page.keyboard.press("Enter")
    for other in page.locator(".strip").all():
        assert other.locator("button[aria-pressed=true]").count() == 1
    weights = [float(x) for x in example["patterns"][names[-1]][2][:3]]
    labels = strip.locator("button").evaluate_all("all => all.map(one => one.getAttribute('aria-label'))")
    shown = [float(label.rsplit(" ", 1)[1]) for label in labels[:3]]
    assert shown == pytest.approx(weights, abs=0.006)
    assert all(label.endswith("not seen") for label in labels[3:])
    assert strip.locator("button").nth(2).evaluate("one => one === document.activeElement")
    page.locator(f".circuit a[href='#card-{names[0].replace('.', '-')}']").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == f"#card-{names[0].replace('.', '-')}"


def test_theme_follows_the_reader_and_the_button(opened: OpenReport, report: Path) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    light, dark = (opened(report, scheme=scheme) for scheme in ("light", "dark"))
    colours = [page.evaluate(background) for page in (light, dark)]
    assert colours[0] != colours[1]
    buttons = [page.locator("#theme").inner_text() for page in (light, dark)]
    assert buttons == ["Dark colours", "Light colours"], "it says what a press does"
    light.locator("#theme").click()
    assert light.evaluate(background) == colours[1]
    assert light.locator("#theme").inner_text() == "Light colours"
    light.locator("#theme").click()
    assert light.evaluate(background) == colours[0]


def test_a_table_that_is_cut_says_that_it_scrolls(opened: OpenReport, report: Path) -> None:
    narrow, wide = (opened(report, width=width) for width in (380, 1600))
    assert not wide.locator("#cost .sideways").is_visible()
    for section in ("#components", "#cost"):
        fits = wide.locator(f"{section} .scroll").evaluate("one => one.scrollWidth <= one.clientWidth + 1")
        assert wide.locator(f"{section} .sideways").is_visible() is not fits
        assert narrow.locator(f"{section} .sideways").is_visible()
        table = narrow.locator(f"{section} .scroll")
        assert "gradient" in table.evaluate("one => getComputedStyle(one).maskImage")
        table.evaluate("one => one.scrollTo(one.scrollWidth, 0)")
        expect(table).not_to_have_class(re.compile(r"\bcut\b"))  # waits; the page's policy forbids to wait by a script
        assert narrow.locator(f"{section} .sideways").is_visible()


@pytest.mark.parametrize("name", ["report", "hostile"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_scrolls_sideways(opened: OpenReport, request: pytest.FixtureRequest, name: str, width: int) -> None:
    page = opened(request.getfixturevalue(name), width=width, height=740)
    for details in page.locator("details").all():
        details.evaluate("one => one.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("window.scrollTo(1000, 0)")
    assert page.evaluate("window.scrollX") == 0


@pytest.mark.parametrize("name", ["report", "hostile"])
@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_axe_finds_no_serious_violation(
    opened: OpenReport, request: pytest.FixtureRequest, name: str, scheme: str
) -> None:
    page = opened(request.getfixturevalue(name), scheme=scheme)
    for details in page.locator("details").all():
        details.evaluate("one => one.open = true")
    found = Axe().run(page).response["violations"]
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    assert [(one["id"], one["nodes"][0]["html"][:200], one["nodes"][0]["failureSummary"]) for one in serious] == []


def test_keyboard_reaches_and_moves_everything(opened: OpenReport, report: Path) -> None:
    page = opened(report)
    focused = "document.activeElement.id || document.activeElement.parentElement.dataset.key"
    wanted = [
        "theme",
        "k",
        "search",
        "filter",
        "only",
        "component",
        "alone",
        "interaction",
        "order",
        "part",
        "subgroup",
    ]
    for name in wanted:  # in the order in which they are met
        for _ in range(30):
            page.keyboard.press("Tab")
            if page.evaluate(focused) == name:
                break
        assert page.evaluate(focused) == name
        if name == "k":
            for key, k in (("Home", 1), ("ArrowRight", 2), ("End", 4), ("ArrowLeft", 3)):
                page.keyboard.press(key)
                assert f"k = {k}:" in page.locator("#k-words").inner_text()
        if name == "alone":
            page.keyboard.press("Enter")
            assert page.locator("#table th[data-key=alone]").get_attribute("aria-sort") == "descending"


def test_print_is_light_whole_and_without_controls(opened: OpenReport, report: Path) -> None:
    page = opened(report, scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    for control in ("#theme", ".sizer-row", ".controls >> nth=0", "nav"):
        assert not page.locator(control).is_visible()
    table = page.locator(".scroll.tall")
    assert table.evaluate("one => one.scrollHeight <= one.clientHeight + 1")
    assert len(page.pdf()) > 10_000


def test_hostile_texts_are_shown_as_text(opened: OpenReport, hostile: Path) -> None:
    page = opened(hostile)
    page.locator("#more").click()
    assert page.evaluate("window.broken") is None
    assert page.locator("main img, main script").count() == 0
    shown = page.locator("#cards .prompt .text").evaluate_all("texts => texts.map(one => one.textContent)")
    for text in map(visible, TEXTS):
        assert f"{text} base" in shown
        assert f"{text} donor" in shown
        assert text in shown  # as an answer
    ids = page.locator("#cards .id").evaluate_all("ids => ids.map(one => one.textContent)")
    assert {f"0 {TEXTS[0][:60]}", f"1 {TEXTS[1][:60]}"} <= set(ids)
    assert "<script>task</script>" in page.locator("h1").inner_text()
    options = page.locator("#subgroup option").evaluate_all("all => all.map(one => one.textContent)")
    assert f"group = {TEXTS[0]}" in options


def test_hostile_run_has_maps_counts_and_roles(opened: OpenReport, hostile: Path) -> None:
    page = opened(hostile)
    set_size(page, 3)
    page.wait_for_timeout(100)
    assert page.locator("#where h3").all_inner_texts() == [
        *("head_output", "whole layers", "mlp_neuron", "head_output at subject"),
    ]
    assert chosen_cells(page) == {"L1.head2"}
    assert chosen_cells(page, "#chart-map-1") == {"L1.mlp"}
    assert chosen_cells(page, "#chart-map-3") == {"L1.head0@subject"}
    tops = page.locator("#chart-map-2-tops li").all_inner_texts()
    assert [top.split()[0] for top in tops] == ["L2.neuron7", "L2.neuron99"]
    set_size(page, 0)
    assert page.locator("#chart-map-2-tops li").count() == 0


def test_page_without_scripts_still_says_the_verdict(browser: Browser, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert "of 40" in page.locator(".headlines").inner_text()
    assert page.locator("#table tbody tr").count() >= 10
    assert page.locator("#cards .example").first.is_visible()
    context.close()


@pytest.mark.slow
def test_large_run_opens_quickly(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "large.html"
    with path.open("wb") as file:  # a process of its own, without the tests' run-time type checks
        subprocess.run([sys.executable, "-m", "tests.report.large"], stdout=file, check=True, timeout=300)
    assert path.stat().st_size <= 6 * 2**20
    openings = [opening_s(browser, path) for _ in range(3)]
    assert min(openings) < 2, f"{openings} s until every chart is drawn"


def opening_s(browser: Browser, path: Path) -> float:
    """Seconds until every chart is drawn; on a busy machine the page's own processor time, where that is less."""
    page = browser.new_page()
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    began = time.perf_counter()
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-drawn=yes]")
    elapsed_s = time.perf_counter() - began
    metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    assert page.locator("#chart-frontier-heldout svg path").count() > 100
    page.close()
    return float(min(elapsed_s, metrics["ProcessTime"]))
