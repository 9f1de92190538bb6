"""Annealing: simulated annealing over sets of each size.

Source: simulated annealing over sets of heads, as in Attention Pruning, arXiv 2503.15815; here one chain for each size,
started from the chain before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from cotrace.problem.protocol import Problem
from cotrace.search.archive import SearchState
from cotrace.search.hyperparameters import at_least, largest, positive
from cotrace.search.random import distinct
from cotrace.search.sets import SetFunction
from cotrace.search.solve import Search


@dataclass(frozen=True, kw_only=True)
class Annealing(Search):
    """At each size exchanges one member at random; keeps a worse set with probability exp(change / temperature).

    The temperature falls geometrically from ``hot`` to ``cold`` times the effect of everything. Costs at most
    (proposals + 1) K + 1 forward-equivalents up to size K; sets met again are free. Deterministic under its seed.
    """

    max_size: int | None = None
    """Largest k; None for N."""
    proposals: int = 40
    """Exchanges tried at each size."""
    hot: float = 0.05
    cold: float = 0.001
    seed: int = 0

    name: ClassVar[str] = "annealing"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self.name, "proposals", self.proposals, 1)
        positive(self.name, "cold", self.cold)
        at_least(self.name, "hot", self.hot, self.cold)

    def predicted_cost(self, n: int) -> float:
        """Forward-equivalents for n components, as a rule: as of draws, of which some meet a set again."""
        return 1 + sum(distinct(n, k, self.proposals + 1) for k in range(1, min(self.max_size or n, n) + 1))

    def most_cost(self, n: int) -> float:
        """Forward-equivalents for n components, at most."""
        return (self.proposals + 1.0) * min(self.max_size or n, n) + 1

    def steps(self, problem: Problem, state: SearchState | None = None) -> Iterator[SearchState]:
        """One state for each size."""
        function = SetFunction(self.name, problem, state)
        most = largest(self.name, self.max_size, function.n)
        begun = state if state and state.step else None
        chosen = begun.tensors["chosen"].clone() if begun else function.empty()
        unit = abs(function.score(~function.empty()))
        for step in range(begun.step if begun else 0, most):
            stream = np.random.default_rng([self.seed, step])
            chosen[int(stream.choice((~chosen).nonzero()[:, 0].numpy()))] = True
            chosen = self._chain(function, chosen, unit, stream)
            yield function.state(f"size {step + 1}", step + 1, most, tensors={"chosen": chosen})

    def _chain(
        self, function: SetFunction, chosen: Bool[Tensor, "n"], unit: float, stream: np.random.Generator
    ) -> Bool[Tensor, "n"]:
        """The best set of a chain that cools down."""
        score = best = function.score(chosen)
        kept = chosen
        for i in range(self.proposals if not bool(chosen.all()) else 0):
            temperature = unit * self.hot * (self.cold / self.hot) ** (i / self.proposals)
            other = exchanged(chosen, stream)
            change = function.score(other) - score
            if stream.random() < accepted(change, temperature):
                chosen, score = other, score + change
            if score > best:
                kept, best = chosen, score
        return kept.clone()


def exchanged(chosen: Bool[Tensor, "n"], stream: np.random.Generator) -> Bool[Tensor, "n"]:
    """The set with one member, drawn at random, in another's place."""
    other = chosen.clone()
    other[int(stream.choice(chosen.nonzero()[:, 0].numpy()))] = False
    other[int(stream.choice((~chosen).nonzero()[:, 0].numpy()))] = True
    return other


def accepted(change: float, temperature: float) -> float:
    """Probability of keeping a set that is worse by ``-change``. (Metropolis et al. 1953.)"""
    return 1.0 if change >= 0 else math.exp(change / temperature) if temperature > 0 else 0.0
