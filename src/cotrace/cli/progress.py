"""Progress of a search: a live bar in a terminal, a plain line every few seconds elsewhere. Keeps the history too."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import psutil
from rich.console import Group
from rich.live import Live as RichLive
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from cotrace.cli.dry_run import size
from cotrace.cli.screen import Screen
from cotrace.components import sign_of
from cotrace.problem.protocol import Problem
from cotrace.runs.results import Step
from cotrace.search import Search
from cotrace.search.progress import best_of, share_done
from cotrace.search.state import SearchState
from cotrace.showing import Steps, duration, left

if TYPE_CHECKING:
    from cotrace.workers import Workers

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
        self._sign = sign_of(problem.direction)
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
    best = best_of(state)
    return Step(
        search=state.search,
        phase=state.phase,
        step=state.step,
        forward_equivalents=state.spent,
        evaluated=len(state.archive),
        best_k=best.size if best else 0,
        best_effect=sign * best.gain if best else 0.0,
    )


@contextmanager
def watching(search: Search, problem: Problem, screen: Screen, workers: Workers | None = None) -> Iterator[Watch]:
    """A watch over one search, with the display that the screen allows, and where its workers stand."""
    if screen.quiet:
        yield Watch(search, problem, Silent())
    elif screen.progress.is_terminal:
        display = Live(search.name, search.predicted_cost(len(problem.space)), workers)
        with RichLive(display, console=screen.progress, transient=True, refresh_per_second=8):
            yield Watch(search, problem, display)
    else:
        yield Watch(search, problem, Lines(screen, workers))


class Silent:
    """Shows nothing."""

    def show(self, step: Step, state: SearchState, left: str) -> None:
        """Nothing."""


class Lines:
    """A plain line at the first step and then every few seconds."""

    def __init__(self, screen: Screen, workers: Workers | None = None) -> None:
        self._screen, self._workers = screen, workers
        self._last = -LINE_EVERY_S

    def show(self, step: Step, state: SearchState, left: str) -> None:
        """A line, if it is time for one."""
        if time.monotonic() - self._last >= LINE_EVERY_S:
            self._last = time.monotonic()
            self._screen.note(
                f"{step.search}: {told(step, state, self._workers)}" + (f", about {left} left" if left else "")
            )


class Live:
    """Two lines that stay in place: a bar with the share done and the time left, and below it where the search is."""

    def __init__(self, name: str, predicted: float, workers: Workers | None = None) -> None:
        self._predicted, self._workers = predicted, workers
        self._bar, self._told = bar(), Text(style="dim", no_wrap=True, overflow="ellipsis")
        self._task = self._bar.add_task(name, total=1.0, left="")

    def __rich__(self) -> Group:
        return Group(self._bar, self._told)

    def show(self, step: Step, state: SearchState, left: str) -> None:
        """Move the bar."""
        done = share_done(state, self._predicted)
        self._bar.update(self._task, completed=done, left=left and f"{left} left")
        self._told.plain = f"  {told(step, state, self._workers)}"


@contextmanager
def steps(screen: Screen) -> Iterator[Steps]:
    """What is called before every part of some work: a bar in a terminal, elsewhere a line every few seconds."""
    if screen.quiet:
        yield lambda what, done, of: None
    elif screen.progress.is_terminal:
        shown = bar()
        task, began = shown.add_task("", total=1.0, left=""), time.perf_counter()

        def move(what: str, done: int, of: int) -> None:
            words = left(began, done, of).lstrip(", ")
            shown.update(task, description=what, completed=done / max(1, of), left=words)

        with RichLive(shown, console=screen.progress, transient=True, refresh_per_second=8):
            yield move
    else:
        yield StepLines(screen)


class StepLines:
    """A plain line at the first step and then every few seconds."""

    def __init__(self, screen: Screen) -> None:
        self._screen, self._began, self._last = screen, time.perf_counter(), -LINE_EVERY_S

    def __call__(self, what: str, done: int, of: int) -> None:
        """A line, if it is time for one."""
        if time.monotonic() - self._last >= LINE_EVERY_S:
            self._last = time.monotonic()
            self._screen.note(f"{what} ({done + 1} of {of}){left(self._began, done, of)}")


def told(step: Step, state: SearchState, workers: Workers | None = None) -> str:
    """Phase, best size and effect so far, cost, and workers."""
    return (
        f"{step.phase} {state.step}/{state.total}, best {step.best_effect:+.4g} with k = {step.best_k}, "
        f"{step.forward_equivalents:,.0f} forward-equivalents, {size(resident_bytes())} held"
        + ("" if workers is None else f"; {workers.words}")
    )


def resident_bytes() -> int:
    """Memory that the process holds now."""
    return int(psutil.Process().memory_info().rss)


def bar() -> Progress:
    """The bar: search, share done, time left."""
    return Progress(
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=40),
        TaskProgressColumn(),
        TextColumn("{task.fields[left]}", style="dim"),
    )
