"""Progress of a search: a live bar in a terminal, a plain line every few seconds elsewhere. Keeps the history too."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from rich.progress import BarColumn, Progress, TextColumn

from cotrace.cli.screen import Screen
from cotrace.problem.protocol import Problem
from cotrace.runs.results import Step
from cotrace.search import Search
from cotrace.search.state import SearchState

LINE_EVERY_S = 5.0


@runtime_checkable
class Display(Protocol):
    """Where a step is shown."""

    def show(self, step: Step, state: SearchState, left: str) -> None:
        """Show where the search stands."""


class Watch:
    """What ``solve`` calls after every step: notes the step and shows it."""

    def __init__(self, search: Search, problem: Problem, display: Display) -> None:
        self.steps: list[Step] = []
        self.predicted = search.predicted_cost(len(problem.space))
        self._sign = 1.0 if problem.direction == "maximise" else -1.0
        self._began = time.perf_counter()
        self._display = display

    def __call__(self, state: SearchState) -> None:
        step = step_of(state, self._sign)
        self.steps.append(step)
        self._display.show(step, state, self._left(state))

    def _left(self, state: SearchState) -> str:
        elapsed, done = time.perf_counter() - self._began, share_done(state, self.predicted)
        return duration(elapsed * (1 / done - 1)) if done and elapsed >= 1 else ""


def step_of(state: SearchState, sign: float) -> Step:
    """The row of history.csv for a state."""
    entries = [entry for size in state.archive.sizes if (entry := state.archive.best(size)) is not None]
    best = max(entries, key=lambda entry: (entry.score, -entry.size), default=None)
    return Step(
        search=state.search,
        phase=state.phase,
        step=state.step,
        forward_equivalents=state.spent,
        evaluated=len(state.archive),
        best_k=best.size if best else 0,
        best_effect=sign * best.gain if best else 0.0,
    )


def share_done(state: SearchState, predicted: float) -> float:
    """Share of the search that is done, by cost or by steps; some searches predict more of either than they take."""
    return min(max(state.spent / predicted, state.step / (state.total or 1)), 1.0)


def duration(seconds: float) -> str:
    """``12 s``, ``3 min``, ``2.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@contextmanager
def watching(search: Search, problem: Problem, screen: Screen) -> Iterator[Watch]:
    """A watch over one search, with the display that the screen allows."""
    if screen.quiet:
        yield Watch(search, problem, Silent())
    elif screen.progress.is_terminal:
        with bar(screen) as progress:
            yield Watch(search, problem, Live(progress, search.name, search.predicted_cost(len(problem.space))))
    else:
        yield Watch(search, problem, Lines(screen))


class Silent:
    """Shows nothing."""

    def show(self, step: Step, state: SearchState, left: str) -> None:
        """Nothing."""


class Lines:
    """A plain line at the first step and then every few seconds."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._last = -LINE_EVERY_S

    def show(self, step: Step, state: SearchState, left: str) -> None:
        """A line, if it is time for one."""
        if time.monotonic() - self._last >= LINE_EVERY_S:
            self._last = time.monotonic()
            self._screen.note(f"{step.search}: {told(step, state)}" + (f", about {left} left" if left else ""))


class Live:
    """A bar that moves with the share done."""

    def __init__(self, progress: Progress, name: str, predicted: float) -> None:
        self._progress = progress
        self._predicted = predicted
        self._task = progress.add_task(name, total=1.0, told="", left="")

    def show(self, step: Step, state: SearchState, left: str) -> None:
        """Move the bar."""
        done = share_done(state, self._predicted)
        self._progress.update(self._task, completed=done, told=told(step, state), left=left and f"{left} left")


def told(step: Step, state: SearchState) -> str:
    """Phase, best size and effect so far, cost."""
    return (
        f"{step.phase} {state.step}/{state.total}, best {step.best_effect:+.4g} with k = {step.best_k}, "
        f"{step.forward_equivalents:,.0f} forward-equivalents"
    )


def bar(screen: Screen) -> Progress:
    """The live bar: search, share done, where it stands, time left."""
    return Progress(
        TextColumn("{task.description}", style="bold"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[told]}"),
        TextColumn("{task.fields[left]}", style="dim"),
        console=screen.progress,
        transient=True,
    )
