"""Progress of a search: a live bar in a terminal, a plain line every few seconds elsewhere; and what a dry run says."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import psutil
import torch
from rich.console import Group
from rich.live import Live as RichLive
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from cotrace.cli.console import Screen
from cotrace.components import sign_of
from cotrace.problem.divided import Plan
from cotrace.problem.goals import language_problems
from cotrace.problem.protocol import Problem
from cotrace.results import Table
from cotrace.runs.forecast import FORECAST_WITHIN, Forecast, forecast
from cotrace.runs.prepare import Prepared
from cotrace.runs.result_files import Step
from cotrace.search import Search
from cotrace.search.archive import SearchState
from cotrace.search.progress import best_of, share_done
from cotrace.text.progress_bar import Steps, duration, left

if TYPE_CHECKING:
    from cotrace.workers import Workers
    from cotrace.workers.shares import Costs

UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


def dry_run_tables(prepared: Prepared) -> Iterator[Table]:
    """The plan, and what each search and the evaluation would cost."""
    found = forecast_of(prepared)
    time = f"{_time(found.seconds)}, within {FORECAST_WITHIN:.0%}"
    yield Table("Plan", ("", ""), [*plan_rows(prepared), ("predicted time", time)], frozenset({0}))
    columns = ("search", "forward-equivalents", "at most", "time")
    yield Table("Predicted cost", columns, cost_rows(prepared, found), frozenset({0}))
    if prepared.config.workers:
        from cotrace.workers.shares import costs

        with_workers = costs(prepared.problem, found.seconds, prepared.config.workers)
        yield Table("With workers", ("", ""), worker_rows(prepared, with_workers), frozenset({0}))


def forecast_of(prepared: Prepared) -> Forecast:
    """The forecast of a run."""
    return forecast(
        prepared.problem,
        prepared.searches,
        prepared.config.evaluation,
        others=list(language_problems(prepared.other or prepared.problem))[1:],
    )


def plan_line(prepared: Prepared) -> str:
    """The plan in one line, for the beginning of a run."""
    plan, found = prepared.problem.plan, forecast_of(prepared)
    cost = sum(search.forward_equivalents for search in found.searches.values())
    passes = _count(plan.batches, "forward pass", "forward passes")
    passes += f" of {_rows(plan)} and {_count(plan.tokens, 'token')}"
    return (
        f"plan: {plan.searched_pairs:,} pairs, {passes} ({plan.padded_tokens:,} with padding) on "
        f"{_count(torch.get_num_threads(), 'thread')}; to search about "
        f"{cost:,.0f} forward-equivalents, to judge at most {found.evaluation:,.0f}; {_time(found.seconds)}, within "
        f"{FORECAST_WITHIN:.0%}; weights {size(weight_bytes(prepared))}, donor values {size(plan.donor_bytes)}"
    )


def _count(number: int, one: str, many: str = "") -> str:
    """A number with its word."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _rows(plan: Plan) -> str:
    """How many rows, and whether each holds several examples."""
    return _count(plan.rows, *(f"{'packed' if plan.packed else 'plain'} row{s}" for s in ("", "s")))


def plan_rows(prepared: Prepared) -> list[tuple[str, str]]:
    """Pairs, tokens, components and memory."""
    plan = prepared.problem.plan
    padding = 1 - plan.tokens / plan.padded_tokens
    return [
        ("pairs searched", f"{plan.searched_pairs:,}" + _of(plan.searched_pairs, plan.pairs)),
        ("pairs held out", f"{plan.heldout_pairs:,}"),
        ("pairs that judge", f"{plan.judged_pairs:,}" + _of(plan.judged_pairs, plan.heldout_pairs)),
        ("pairs refused", f"{plan.refused_pairs:,}"),
        ("components N", f"{plan.components:,}"),
        ("tokens of one forward-equivalent", f"{plan.tokens:,} ({padding:.0%} padding besides)"),
        ("forward passes of one forward-equivalent", f"{plan.batches:,} of {_rows(plan)} together"),
        ("threads", f"{torch.get_num_threads():,}"),
        ("memory of the weights", size(weight_bytes(prepared))),
        ("memory of the donor values", size(plan.donor_bytes)),
        ("donor values and prefixes kept", _kept(prepared)),
    ]


def _of(some: int, whole: int) -> str:
    return f" of {whole:,}" if some != whole else ""


def _kept(prepared: Prepared) -> str:
    """Return in words where values that are computed once are kept."""
    plan = prepared.problem.plan
    parts = (("in memory", plan.memory_bytes), ("on disk", plan.disk_bytes), ("computed anew", plan.recomputed_bytes))
    return ", ".join(f"{size(count)} {where}" for where, count in parts if count) or "nothing"


def cost_rows(prepared: Prepared, found: Forecast) -> list[tuple[str, ...]]:
    """One row for each search, and one for judging the result."""
    rows: list[tuple[str, ...]] = [
        (name, f"{search.forward_equivalents:,.0f}", _bound(search.at_most), _time(search.seconds))
        for name, search in found.searches.items()
    ]
    if found.evaluation:
        name = f"evaluation, {prepared.config.evaluation}"
        rows.append((name, f"{found.evaluation:,.0f}", f"{found.evaluation:,.0f}", _time(found.evaluation_s)))
    return rows


def _bound(cost: float) -> str:
    return f"{cost:,.0f}" if math.isfinite(cost) else "no bound"


def worker_rows(prepared: Prepared, found: Costs) -> list[tuple[str, str]]:
    """Rows of the plan for workers: seconds, memory and object store; no worker is started."""
    gpus = prepared.config.worker_gpus
    whole = prepared.problem.plan.batches
    return [
        ("workers", f"{found.workers:,}" + (f" of {gpus:g} GPUs each" if gpus else "")),
        ("predicted time", f"{_time(found.seconds)}, where each is as fast as this process"),
        ("work that is left to the busiest", f"{found.share_s:.0%} ({whole:,} batches of one forward-equivalent)"),
        ("memory of each worker", f"{size(found.worker_bytes)}, and the activations of one forward pass"),
        ("object store", size(found.store_bytes)),
        ("sent and brought by one gradient", size(found.round_bytes)),
    ]


def _time(seconds: float) -> str:
    return f"about {duration(seconds)}"


def weight_bytes(prepared: Prepared) -> int:
    """Bytes of the model's parameters and buffers."""
    return int(prepared.model.module.get_memory_footprint())


def size(count: int) -> str:
    """A number of bytes for people."""
    for unit, scale in UNITS:
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"


LINE_EVERY_S = 5.0


@runtime_checkable
class Display(Protocol):
    """A display of a search's steps."""

    def show(self, step: Step, state: SearchState, left: str) -> None:
        """Show where the search stands."""


class Watch:
    """Callback of ``solve``: notes each step and shows it."""

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
        """Show nothing."""


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
    """Return a callback for each part of some work: a bar in a terminal, elsewhere a line every few seconds."""
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
