"""Progress: how far a search is, and a bar that shows it; in a notebook one that needs no widgets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar, Protocol, runtime_checkable

from cotrace.components import sign_of
from cotrace.problem.protocol import Problem
from cotrace.search.archive import Entry, SearchState
from cotrace.text.progress_bar import EVERY_S, drawer, duration, is_watched

Progress = Callable[[SearchState], None]
Shown = Progress | bool | None
"""A function called after every step; True for a bar, False for none, None for a bar in terminals and notebooks."""


@runtime_checkable
class Costed(Protocol):
    """The facts of a search that a bar shows."""

    name: ClassVar[str]

    def predicted_cost(self, n: int) -> float:
        """Forward-equivalents that it will cost, or at most cost."""


def best_of(state: SearchState) -> Entry | None:
    """The best set of any size so far, the smaller of two alike; None before the first."""
    entries = [entry for size in state.archive.sizes if (entry := state.archive.best(size)) is not None]
    return max(entries, key=lambda entry: (entry.score, -entry.size), default=None)


def share_done(state: SearchState, predicted: float) -> float:
    """Share of the search that is done, by cost or by steps; some searches predict more of either than they take."""
    return min(max(state.spent / predicted, state.step / (state.total or 1)), 1.0)


@contextmanager
def followed(search: Costed, problem: Problem, shown: Shown) -> Iterator[Progress | None]:
    """Return the callback of every step: the function given, a bar, or nothing."""
    if shown is None:
        shown = is_watched()
    if not isinstance(shown, bool):
        yield shown
    elif not shown:
        yield None
    else:
        bar = Bar(search, problem)
        try:
            yield bar
        finally:
            bar.close()


class Bar:
    """The bar of one search: share done, phase, best so far, cost and time left; at the end what it cost."""

    def __init__(self, search: Costed, problem: Problem) -> None:
        self._name, self._predicted = search.name, search.predicted_cost(len(problem.space))
        self._sign = sign_of(problem.direction)
        self._began, self._shown = time.perf_counter(), -EVERY_S
        self._last: SearchState | None = None
        self._draw = drawer()

    def __call__(self, state: SearchState) -> None:
        """Draw the state, a few times a second at most."""
        self._last = state
        if time.perf_counter() - self._shown >= EVERY_S:
            self._shown = time.perf_counter()
            self._draw(share_done(state, self._predicted), self.words(state))

    def words(self, state: SearchState) -> str:
        """Where the search stands."""
        best, elapsed = best_of(state), time.perf_counter() - self._began
        done = share_done(state, self._predicted)
        effect = "" if best is None else f", best {self._sign * best.gain:+.4g} with k = {best.size}"
        left = f", {duration(elapsed * (1 / done - 1))} left" if done and elapsed >= 1 else ""
        cost = f"{state.spent:,.0f} forward-equivalents"
        return f"{self._name}: {state.phase} {state.step}/{state.total}{effect}, {cost}{left}"

    def close(self) -> None:
        """The last words."""
        spent = 0.0 if self._last is None else self._last.spent
        elapsed = duration(time.perf_counter() - self._began)
        self._draw(None, f"{self._name}: {spent:,.0f} forward-equivalents in {elapsed}")
