"""What notebooks show: every text escaped, tables readable on light and dark, a bar without widgets."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import cotrace as ct
from cotrace.results import Table
from cotrace.search import progress
from cotrace.text import escape
from tests import tiny
from tests.problems import ClosedForm

HOSTILE = "<script>alert('x')</script> \"&amp; \u202eRTL 😀 " + "long" * 200
TAGS = {"table", "caption", "thead", "tbody", "tr", "th", "td", "bdi", "p"}


class Reader(HTMLParser):
    """Tags and text of a piece of HTML, as a browser takes it apart."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def read(html: str) -> Reader:
    """The HTML, which must hold nothing but tables and paragraphs, all of them closed."""
    reader = Reader(html)
    assert set(reader.tags) <= TAGS
    assert not reader.open
    return reader


def hostile_task() -> ct.Task:
    pair = ct.PromptPair(id=HOSTILE, base=HOSTILE, counterfactual=HOSTILE, answers=(HOSTILE, " b"))
    return ct.Task(name=HOSTILE, pairs=(pair,), source=HOSTILE, skipped=((HOSTILE, HOSTILE),))


def test_a_hostile_task_shows_as_text() -> None:
    reader = read(hostile_task()._repr_html_())
    assert "<script>alert('x')</script> \"&amp; \\u202eRTL 😀" in reader.words
    assert "longlonglong …" in reader.words


def test_a_chat_shows_what_was_said_last() -> None:
    chat = ({"role": "user", "content": "first"}, {"role": "user", "content": "<b>last</b>"})
    task = ct.Task(name="chat", pairs=(ct.PromptPair(id="a", messages=chat, answers=("x",)),))
    assert "<b>last</b>" in read(task._repr_html_()).words


def test_every_repr_holds_its_figures_and_no_foreign_tag() -> None:
    model = ct.wrap(tiny.model("gpt2").module, tiny.tokenizer(), name=HOSTILE)
    task = ct.Task(name=HOSTILE, pairs=tiny.task(24).pairs)
    problem = ct.LanguageProblem(model, task, holdout=0.5, direction="maximise")
    frontier = ct.search.Greedy(max_size=3)(problem)
    evaluation = ct.evaluate(problem, frontier)
    shown = {
        "problem": (problem, f"{problem.size}"),
        "frontier": (frontier, "components added"),
        "selection": (frontier.at(2), f"{frontier.at(2).effect:+.4g}"),
        "evaluation": (evaluation, evaluation.verdict[0][:40]),
        "check": (ct.check(model), "largest error"),
        "measurement": (ct.measure(model, task), "24"),
    }
    for name, (thing, words) in shown.items():
        reader = read(thing._repr_html_())
        assert words in reader.words, name
    assert "alert('x')" in read(problem._repr_html_()).words


def test_colours_are_the_notebooks_own() -> None:
    """No colour but what is inherited: what is dark on light is light on dark."""
    html = Table("t", ("a", "b"), [("1", "2")])._repr_html_()
    for style in html.split('style="')[1:]:
        for rule in style.split('"')[0].split(";"):
            name, _, value = rule.partition(":")
            if name.strip() in ("color", "background"):
                assert value.strip() in ("inherit", "none")
    assert "currentColor" in html


def test_numbers_stand_right_and_words_left() -> None:
    html = escape.table("", ("k", "name"), [("1", "x")], left=(1,))
    cells = html.split("<td")[1:]
    assert "text-align: right" in cells[0]
    assert "text-align: left" in cells[1]


# ---- progress


def problem() -> ClosedForm:
    return ClosedForm(lambda s: s.sum(-1, keepdim=True).expand(-1, 8).double(), n=6)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A kernel's display as IPython has it; what is shown, update by update."""
    shown: list[str] = []

    class Handle:
        def update(self, html: Any) -> None:
            shown.append(html.data)

    def display(html: Any, display_id: bool) -> Handle:
        assert display_id
        return Handle()

    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object())))
    there = SimpleNamespace(HTML=lambda data: SimpleNamespace(data=data), display=display)
    monkeypatch.setitem(sys.modules, "IPython.display", there)
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    return shown


def test_a_notebook_has_a_bar_by_default(notebook: list[str]) -> None:
    found = ct.search.Greedy()(problem())
    assert "greedy: forward 1/6, best +1 with k = 1, 6 forward-equivalents" in Reader(notebook[0]).words
    assert [html.count("<progress") for html in notebook] == [1] * 6 + [0]
    shares = [float(html.split('value="')[1].split('"')[0]) for html in notebook[:-1]]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert f"greedy: {found.forward_equivalents:.0f} forward-equivalents in" in Reader(notebook[-1]).words


def test_false_shows_nothing_and_a_function_is_called(notebook: list[str]) -> None:
    seen: list[int] = []
    ct.search.Greedy()(problem(), progress=False)
    ct.search.Greedy()(problem(), progress=lambda state: seen.append(state.step))
    assert notebook == []
    assert seen == [1, 2, 3, 4, 5, 6]


def test_outside_a_notebook_a_bar_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    ct.search.Greedy()(problem())
    assert capsys.readouterr() == ("", "")
    ct.search.Greedy()(problem(), progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("greedy: 21 forward-equivalents in ")
    assert err.count("\n") == 1


def test_a_terminal_has_one_line_that_is_written_over(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    ct.search.Greedy()(problem(), progress=True)
    *steps, last, end = capsys.readouterr().err.replace("\n", "\r").split("\r")[1:]
    assert len(steps) == 6
    assert steps[-1].startswith("\x1b[2K100% greedy: forward 6/6")
    assert last.startswith("\x1b[2Kgreedy: 21 forward-equivalents")
    assert end == ""


def test_trace_hands_progress_on() -> None:
    seen: list[str] = []
    ct.trace(
        tiny.model("gpt2", torch.float32),
        tiny.task(),
        search="topk",
        holdout=0,
        evaluation="none",
        progress=lambda state: seen.append(state.phase),
    )
    assert seen
