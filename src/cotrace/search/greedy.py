"""Greedy: exact forward selection; Floating: the same with exact conditional removals.

Source: Pudil, Novovicova, Kittler, Floating search methods in feature selection, Pattern Recognition Letters 1994
(sequential forward floating selection).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool
from torch import Tensor

from cotrace.problem.protocol import Problem
from cotrace.search.archive import SearchState
from cotrace.search.hyperparameters import largest
from cotrace.search.sets import SetFunction, with_each
from cotrace.search.solve import Search

REPEATED = 120
"""Size at which Floating evaluates everything twice over, because what it removed is added anew."""


@dataclass(frozen=True, kw_only=True)
class Greedy(Search):
    """Adds, at each step, the component whose addition has the best effect, all remaining ones evaluated exactly.

    Costs K N - K (K - 1) / 2 forward-equivalents up to size K; N (N + 1) / 2 for all sizes. Deterministic.
    """

    max_size: int | None = None
    """Largest k; None for N."""

    name: ClassVar[str] = "greedy"

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


@dataclass(frozen=True, kw_only=True)
class Floating(Search):
    """Greedy that, after each addition, removes members for as long as that beats the best smaller set known.

    Costs at least greedy's N (N + 1) / 2 forward-equivalents, in the mean twice that in small spaces and four times at
    N = 96; sets met again are free, and every removal that is kept improves some size, so it ends. Deterministic.
    """

    max_size: int | None = None
    """Largest k; None for N."""

    name: ClassVar[str] = "floating"

    def predicted_cost(self, n: int) -> float:
        """Forward-equivalents for n components, in the mean of what was measured: they vary by a factor of four.

        Each size's additions and one round of removals, n in all; and what was removed is added anew, the more often
        the larger the sets are.
        """
        most = min(self.max_size or n, n)
        return n * most * (1 + most / REPEATED)

    def most_cost(self, n: int) -> float:
        """Return infinity, as there is no bound: how often a removal pays depends on the effects."""
        return math.inf

    def steps(self, problem: Problem, state: SearchState | None = None) -> Iterator[SearchState]:
        """One state after each addition or removal; the set itself is the state's ``chosen``."""
        function = SetFunction(self.name, problem, state)
        most = largest(self.name, self.max_size, function.n)
        begun = state if state and state.step else None
        chosen = begun.tensors["chosen"].clone() if begun else function.empty()
        step = begun.step if begun else 0
        while (smaller := _removal(function, chosen)) is not None or int(chosen.sum()) < most:
            chosen = _addition(function, chosen) if smaller is None else smaller
            step += 1
            total = step + most - int(chosen.sum())
            phase = "forward" if smaller is None else "backward"
            yield function.state(phase, step, total, tensors={"chosen": chosen})


def _addition(function: SetFunction, chosen: Bool[Tensor, "n"]) -> Bool[Tensor, "n"]:
    """The set with the best further component."""
    rest = (~chosen).nonzero()[:, 0].tolist()
    return with_each(chosen, [rest[int(function.flipped(chosen, rest).argmax())]])[0]


def _removal(function: SetFunction, chosen: Bool[Tensor, "n"]) -> Bool[Tensor, "n"] | None:
    """The set without its least member, if that beats the best set of its size; None otherwise."""
    size = int(chosen.sum())
    if size < 3:
        return None
    before = function.archive.best(size - 1)
    members = chosen.nonzero()[:, 0].tolist()
    scores = function.flipped(chosen, members)
    best = int(scores.argmax())
    shrunk = with_each(chosen, [members[best]])[0]
    return shrunk if before is None or float(scores[best]) > before.score else None
