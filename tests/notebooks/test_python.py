"""Python as people use it: few public names, reprs in one line, warnings at their line, progress where it is seen."""

from __future__ import annotations

import inspect
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

import cotrace as ct
from cotrace.text import progress_bar
from cotrace.text.progress_bar import stepping
from tests import tiny

MOST = 20


@pytest.fixture(scope="module")
def problem() -> ct.LanguageProblem:
    return ct.LanguageProblem(tiny.model("gpt2"), tiny.task(48), holdout=0.25, direction="maximise")


def test_a_problem_has_few_public_attributes_and_each_is_documented(problem: ct.LanguageProblem) -> None:
    names = [name for name in dir(problem) if not name.startswith("_")]
    assert len(names) <= MOST, names
    functions = [name for name in names if inspect.isfunction(getattr(type(problem), name, None))]
    assert all(inspect.getdoc(getattr(type(problem), name)) for name in functions)
    assert {"effects", "value", "gradient", "heldout", "space", "summary"} <= set(names)


def test_reprs_are_one_short_line(problem: ct.LanguageProblem) -> None:
    model, task = problem.model, problem.source_task
    found = ct.search.TopK(max_size=3)(problem)
    judged = ct.evaluate(problem, found, level="quick")
    measured = ct.measure(model, task)
    shown: list[Any] = [model, task, problem, problem.space, found, found.best(), judged, measured]
    shown += [ct.check(model, sites=["head_output"]), problem.breakdown(found.best(), by="target")]
    for one in shown:
        line = repr(one)
        assert "\n" not in line
        assert len(line) < 200, line
        assert line.startswith(type(one).__name__)


def test_warnings_are_at_the_line_of_the_user() -> None:
    pairs = [*tiny.task(8).pairs]
    pairs[0] = ct.PromptPair(id="odd", base="w1 w2 w3", counterfactual="w1", answers=(" w1", " w2"))
    task = ct.Task(name="words", pairs=tuple(pairs))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ct.LanguageProblem(tiny.model("gpt2"), task, direction="maximise")
        ct.trace(tiny.model("gpt2"), task, search="topk", direction="maximise", max_size=2)
    said = [one for one in caught if one.category.__module__.startswith("cotrace")]
    assert {one.category.__name__ for one in said} >= {"RefusedPairs", "TooFewPairs"}
    for one in said:
        assert Path(one.filename) == Path(__file__), one.category
        assert "ct." in Path(__file__).read_text().splitlines()[one.lineno - 1]


def test_loading_shows_no_bars_of_the_loader(tiny_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    before = (logging.is_progress_bar_enabled(), logging.get_verbosity())
    logging.enable_progress_bar()
    try:
        ct.load_model(tiny_folder)
        assert logging.is_progress_bar_enabled(), "as it was"
    finally:
        if not before[0]:
            logging.disable_progress_bar()
    assert logging.get_verbosity() == before[1]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("watched", [True, False])
def test_progress_is_shown_where_somebody_may_look(
    watched: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a search, and of a measurement, when nothing is said of it."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: watched)
    ct.measure(tiny.model("gpt2"), tiny.task(8))
    assert ("measure: done in" in capfd.readouterr().err) == watched
    problem = ct.LanguageProblem(tiny.model("gpt2"), tiny.task(8), direction="maximise")
    ct.search.TopK(max_size=2)(problem)
    assert ("topk: " in capfd.readouterr().err) == watched
    ct.search.TopK(max_size=2)(problem, False)
    assert capfd.readouterr().err == ""


def test_steps_are_told_with_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock of one second a step: two of five are done in two seconds, three are left."""
    seen: list[tuple[str, int, int]] = []
    ct.measure(tiny.model("gpt2"), tiny.task(8), batch_tokens=16, progress=lambda *told: seen.append(told))
    assert {what for what, _, _ in seen} == {"base prompts", "counterfactual prompts"}
    assert len(seen) > 2
    assert all(0 <= done < of for _, done, of in seen)
    drawn: list[tuple[float | None, str]] = []
    now = [0.0]
    monkeypatch.setattr(progress_bar, "drawer", lambda: lambda *told: drawn.append(told))
    monkeypatch.setattr(progress_bar.time, "perf_counter", lambda: now[0])
    with stepping("work", True) as step:
        for done in range(3):
            step("part", done, 5)
            now[0] += 1.0
    assert drawn[2] == (0.4, "work: part, 3 s left")
    assert drawn[-1] == (None, "work: done in 3 s")
