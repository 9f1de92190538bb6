"""Random: sets of the same sizes drawn at random, the control of every other search."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from cotrace.problem.protocol import Problem
from cotrace.search.archive import Archive, SearchState
from cotrace.search.hyperparameters import at_least, largest
from cotrace.search.sets import SetFunction, prefixes
from cotrace.search.solve import Search


@dataclass(frozen=True, kw_only=True)
class Random(Search):
    """Draws sets of every size at random and keeps the best; ``spread`` says what the others were like.

    Costs at most K draws forward-equivalents up to size K; a set drawn twice is paid once.
    """

    max_size: int | None = None
    """Largest k; None for N."""
    draws: int = 8
    """Sets of each size."""
    nested: bool = False
    """Draw chains, each set inside the next, rather than sets of their own."""
    seed: int = 0
    """Seed of the sets."""

    name: ClassVar[str] = "random"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self.name, "draws", self.draws, 1)

    def predicted_cost(self, n: int) -> float:
        """Forward-equivalents for n components, in the mean."""
        return sum(distinct(n, k, self.draws) for k in range(1, min(self.max_size or n, n) + 1))

    def most_cost(self, n: int) -> float:
        """Forward-equivalents for n components, at most."""
        return float(self.draws * min(self.max_size or n, n))

    def steps(self, problem: Problem, state: SearchState | None = None) -> Iterator[SearchState]:
        """One state for each size, or for each chain."""
        function = SetFunction(self.name, problem, state)
        most = largest(self.name, self.max_size, function.n)
        total = self.draws if self.nested else most
        for step in range(state.step if state else 0, total):
            function.scores(self._chain(function.n, step, most) if self.nested else self._sets(function.n, step))
            yield function.state("draws", step + 1, total)

    def _sets(self, n: int, step: int) -> Bool[Tensor, "set n"]:
        """Sets of size step + 1. Each step has a stream of its own, so that a resumed run draws the same."""
        stream = np.random.default_rng([self.seed, step])
        return torch.cat([prefixes(stream.permutation(n).tolist(), [step + 1], n) for _ in range(self.draws)])

    def _chain(self, n: int, step: int, most: int) -> Bool[Tensor, "set n"]:
        order = np.random.default_rng([self.seed, step]).permutation(n).tolist()
        return prefixes(order, list(range(1, most + 1)), n)


def distinct(n: int, k: int, draws: int) -> float:
    """How many different sets of k of n components so many draws give, in the mean."""
    count = math.comb(n, k)
    return -count * math.expm1(draws * math.log1p(-1 / count)) if count > 1 else 1.0


@dataclass(frozen=True)
class Spread:
    """Statistics of random sets of one size."""

    k: int
    """Size of the sets."""
    draws: int
    """Distinct sets."""
    mean: float
    """Mean effect."""
    std: float
    """Standard deviation of the effects."""
    best: float
    """Best effect."""


def spread(archive: Archive) -> list[Spread]:
    """Mean, standard deviation and best score of the sets of every size in an archive."""
    rows = []
    for size in archive.sizes:
        scores = archive.scores(size)
        rows.append(Spread(size, len(scores), fmean(scores), pstdev(scores), max(scores)))
    return rows
