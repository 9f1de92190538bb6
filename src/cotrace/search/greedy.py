"""Greedy: exact forward selection."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from cotrace.problem.protocol import Problem
from cotrace.results import Frontier
from cotrace.search.checks import largest, settings
from cotrace.search.driver import solve
from cotrace.search.progress import Shown
from cotrace.search.sets import SetFunction
from cotrace.search.state import SearchState


@dataclass(frozen=True, kw_only=True)
class Greedy:
    """Adds, at each step, the component whose addition has the best effect, all remaining ones evaluated exactly.

    Costs K N - K (K - 1) / 2 forward-equivalents up to size K; N (N + 1) / 2 for all sizes. Deterministic.
    """

    max_size: int | None = None
    """Largest k; None for N."""

    name: ClassVar[str] = "greedy"

    def __post_init__(self) -> None:
        settings(self)

    def __call__(self, problem: Problem, progress: Shown = None) -> Frontier:
        """The best selection found for every k."""
        return solve(self, problem, progress=progress)

    def predicted_cost(self, n: int) -> float:
        """Forward-equivalents for n components."""
        most = min(self.max_size or n, n)
        return most * n - most * (most - 1) / 2

    def steps(self, problem: Problem, state: SearchState | None = None) -> Iterator[SearchState]:
        """One state for each size."""
        function = SetFunction(self.name, problem, state)
        total = largest(self.name, self.max_size, function.n)
        chosen = state.tensors["chosen"].clone() if state and state.step else function.empty()
        for step in range(state.step if state else 0, total):
            rest = (~chosen).nonzero()[:, 0].tolist()
            scores = function.flipped(chosen, rest)
            chosen[rest[int(scores.argmax())]] = True
            yield function.state("forward", step + 1, total, tensors={"chosen": chosen})
