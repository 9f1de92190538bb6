"""The way through the code: functions, files and depth that one greedy step and one problem pass."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import cotrace as ct
from cotrace.search import Greedy

PACKAGE = str(Path(ct.__file__).parent)
STEP = {"functions": 86, "files": 18, "depth": 19}
"""Most that a greedy step passes, with what checks of types add (84, 17, 19 without). The aim is 70, 15, 15."""
MADE = {"functions": 206, "files": 29, "depth": 26}
"""What making a problem passes at most. The aim is 200 functions in 30 files."""


@dataclass
class Way:
    """What of this package is called while a profile is in force."""

    seen: set[CodeType] = field(default_factory=set)
    depth: int = 0
    now: int = 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event not in ("call", "return") or not frame.f_code.co_filename.startswith(PACKAGE):
            return
        if frame.f_code.co_name.startswith("<"):  # comprehensions are lines of their function
            return
        self.now += 1 if event == "call" else -1
        self.depth = max(self.depth, self.now)
        self.seen.add(frame.f_code)

    @property
    def figures(self) -> dict[str, int]:
        """By name."""
        files = {code.co_filename for code in self.seen}
        return {"functions": len(self.seen), "files": len(files), "depth": self.depth}


def way_of(work: Callable[[], Any]) -> dict[str, int]:
    found = Way()
    sys.setprofile(found)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found.figures


def test_a_greedy_step_passes_few_functions_and_files() -> None:
    problem = ct.LanguageProblem(ct.load_model("shipped"), ct.tasks.demo_bias())
    search = Greedy(max_size=3)
    states = search.steps(problem)
    next(states)
    found = way_of(lambda: next(states))
    assert found["functions"] > 20, "the step is not seen"
    assert {name: found[name] for name in STEP if found[name] > STEP[name]} == {}


def test_a_problem_is_made_by_few_functions_and_files() -> None:
    model, task = ct.load_model("shipped"), ct.tasks.demo_bias()
    ct.LanguageProblem(model, task)  # what is found out about a model once stays
    found = way_of(lambda: ct.LanguageProblem(model, task))
    assert found["functions"] > 50, "nothing is seen"
    assert {name: found[name] for name in MADE if found[name] > MADE[name]} == {}
