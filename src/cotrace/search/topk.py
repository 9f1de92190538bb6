"""TopK: components ranked by their single effects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from cotrace.problem.protocol import Problem
from cotrace.results import Frontier
from cotrace.search.checks import largest, settings
from cotrace.search.driver import solve
from cotrace.search.progress import Shown
from cotrace.search.sets import SetFunction, prefixes, ranked
from cotrace.search.state import SearchState


@dataclass(frozen=True, kw_only=True)
class TopK:
    """Single-component causal tracing: effects of one component at a time, then the nested sets of the k largest.

    Costs N + K - 1 forward-equivalents up to size K. Deterministic.
    """

    max_size: int | None = None
    """Largest k; None for N."""

    name: ClassVar[str] = "topk"

    def __post_init__(self) -> None:
        settings(self)

    def __call__(self, problem: Problem, progress: Shown = None) -> Frontier:
        """The best selection found for every k."""
        return solve(self, problem, progress=progress)

    def predicted_cost(self, n: int) -> float:
        """Forward-equivalents for n components."""
        return n + min(self.max_size or n, n) - 1

    def steps(self, problem: Problem, state: SearchState | None = None) -> Iterator[SearchState]:
        """One state after the single effects, one after the nested sets."""
        function = SetFunction(self.name, problem, state)
        most = largest(self.name, self.max_size, function.n)
        singles = function.flipped(function.empty(), range(function.n))
        if not state or state.step < 1:
            yield function.state("single effects", 1, 2)
        if not state or state.step < 2:
            function.scores(prefixes(ranked(singles), list(range(1, most + 1)), function.n))
            yield function.state("nested sets", 2, 2)
