"""Exhaustive: the true optimum of every size, by evaluating every set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, islice
from math import comb
from typing import ClassVar

import torch

from cotrace.errors import InputError
from cotrace.problem.protocol import Problem
from cotrace.search.archive import SearchState
from cotrace.search.hyperparameters import at_least, largest
from cotrace.search.sets import SetFunction
from cotrace.search.solve import Search

SETS_IN_A_STEP = 4096
COUNTED = 10**15
"""Sets that are counted exactly where they are too many."""


@dataclass(frozen=True, kw_only=True)
class Exhaustive(Search):
    """Evaluates every set of 1 to K components, so that each selection is certainly the best of its size.

    Costs sum over k of C(N, k) forward-equivalents: 2^N - 1 for all sizes. Raises InputError above ``limit`` sets.
    """

    max_size: int | None = None
    """Largest k; None for N."""
    limit: int = 200_000
    """Most sets to evaluate."""

    name: ClassVar[str] = "exhaustive"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self.name, "limit", self.limit, 1)

    def predicted_cost(self, n: int) -> float:
        """Forward-equivalents for n components. Raises InputError above ``limit``, as the search does."""
        return float(sum(self._counts(n, min(self.max_size or n, n))))

    def steps(self, problem: Problem, state: SearchState | None = None) -> Iterator[SearchState]:
        """One state for each 4,096 sets of one size."""
        function = SetFunction(self.name, problem, state)
        plan = self._plan(function.n)
        for step in range(state.step if state else 0, len(plan)):
            size, start = plan[step]
            members = list(islice(combinations(range(function.n), size), start, start + SETS_IN_A_STEP))
            chosen = torch.zeros(len(members), function.n, dtype=torch.bool)
            chosen.scatter_(1, torch.tensor(members), True)
            function.scores(chosen)
            yield function.state(f"size {size}", step + 1, len(plan))

    def _plan(self, n: int) -> list[tuple[int, int]]:
        """The size and the first combination of each step. Raises InputError where there are too many sets."""
        counts = self._counts(n, largest(self.name, self.max_size, n))
        return [(size, start) for size, count in enumerate(counts, 1) for start in range(0, count, SETS_IN_A_STEP)]

    def _counts(self, n: int, most: int) -> list[int]:
        """How many sets there are of each size. Raises InputError where they are more than the limit."""
        counts: list[int] = []
        while len(counts) < most and sum(counts) <= max(self.limit, COUNTED):
            counts.append(comb(n, len(counts) + 1))
        if sum(counts) > self.limit:
            fits = next((k for k in range(len(counts), 0, -1) if sum(counts[:k]) <= self.limit), 0)
            smaller = f"set max_size={fits}, " if fits else ""
            count = f"{sum(counts):,}" if len(counts) == most else f"more than {COUNTED:,}"
            raise InputError(
                f"exhaustive: {count} sets of up to {most} of {n} components, above the limit of "
                f"{self.limit:,}; {smaller}give a larger limit, or use pursuit"
            )
        return counts
