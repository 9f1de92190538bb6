"""Matryoshka: one score for each component, learned so that its order is good at every size.

Source: Arora, Acharya, Hu, Zhang, Goodman, Jurafsky, Potts, Matryoshka attribution: Learning to attribute language
model outputs to representations and weights, 2026 (arXiv 2609.25518): the sigmoid top-k mask at a size drawn anew in
every step, scores from zero, temperature 0.5, Adam at 0.05, 500 steps, sizes drawn evenly or evenly on a log scale. A
start from attribution scores is the sequential ensemble of Mondorf et al. 2025 (arXiv 2510.06811).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cotrace.errors import unknown
from cotrace.problem.protocol import Problem
from cotrace.search.archive import SearchState
from cotrace.search.attribution import path, slope_at
from cotrace.search.hyperparameters import at_least, gaps, largest, nested_sizes, positive
from cotrace.search.pgbct import Adam
from cotrace.search.sets import SetFunction, prefixes, ranked
from cotrace.search.solve import Search

BUDGETS = ("uniform", "log")
STARTS = ("zero", "integrated", "inputs")
POINTS = 5
"""Midpoints of the gradients that scores may start from."""
HALVINGS = 60
"""Halvings of the interval that holds the threshold: to within rounding of double precision."""
REACH = 40.0
"""Temperatures beyond the lowest and the highest score at which a sigmoid is 0 or 1 to within rounding."""


@dataclass(frozen=True, kw_only=True)
class Matryoshka(Search):
    """Adam on one score a component; in every step a soft set of the best k, for a k drawn anew, is to score high.

    Then evaluates the nested sets of the scores' order at every size (60 sizes where the largest is above 256). What is
    maximised is the reported value on all pairs. Costs 2 forward-equivalents a step, 10 more where scores start from
    integrated gradients, and 1 for each size. Deterministic under its seed.
    """

    max_size: int | None = None
    """Largest k, of the sets and of the sizes drawn; None for N."""
    sizes: tuple[int, ...] | None = None
    """Sizes to evaluate; None for all of them, or 60 in a geometric grid where the largest is above 256."""
    updates: int = 500
    """Steps of Adam."""
    lr: float = 0.05
    """Learning rate of Adam."""
    temperature: float = 0.5
    """Temperature of the sigmoid in the first step, in units of the scores."""
    final_temperature: float | None = None
    """Temperature of the sigmoid in the last step, reached geometrically; None keeps the first."""
    budgets: str = "uniform"
    """How k is drawn from 1 to the largest: ``uniform``, or ``log`` (small ones as often as large ones)."""
    start: str = "zero"
    """Scores before the first step: ``zero``, or ``integrated`` gradients (along masks, or along ``inputs``: EAP-IG),
    scaled to a deviation of 1."""
    seed: int = 0
    """Seed of the sizes drawn."""

    name: ClassVar[str] = "matryoshka"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budgets not in BUDGETS:
            raise unknown("distribution of budgets", self.budgets, BUDGETS)
        if self.start not in STARTS:
            raise unknown("start of matryoshka", self.start, STARTS)
        at_least(self.name, "updates", self.updates, 1)
        for name in ("lr", "temperature", "final_temperature"):
            if getattr(self, name) is not None:
                positive(self.name, name, getattr(self, name))

    def predicted_cost(self, n: int) -> float:
        """Forward-equivalents for n components."""
        return 2.0 * self.updates + 2.0 * POINTS * (self.start != "zero") + len(self._grid(n))

    def steps(self, problem: Problem, state: SearchState | None = None) -> Iterator[SearchState]:
        """One state after each step of Adam, one after the nested sets; ``state.z`` is the scores."""
        function = SetFunction(self.name, problem, state)
        grid, total = self._grid(function.n), self.updates + 1
        begun = state if state and state.step else None
        adam = Adam.from_tensors(begun.tensors, begun.numbers["t"]) if begun else Adam.at(self._start(function))
        for step in range(begun.step if begun else 0, self.updates):
            adam = self._step(function, adam, grid[-1], step)
            yield function.state("descent", step + 1, total, {"t": adam.t}, adam.to_tensors())
        if begun is None or begun.step < total:
            function.scores(prefixes(ranked(adam.z), grid, function.n))
            numbers = {"t": adam.t, "advice": gaps(grid, self.sizes, grid[-1])}
            yield function.state("nested sets", total, total, numbers, adam.to_tensors())

    def _grid(self, n: int) -> list[int]:
        return nested_sizes(self.name, self.sizes, largest(self.name, self.max_size, n))

    def _start(self, function: SetFunction) -> Float[Tensor, "n"]:
        if self.start == "zero":
            return torch.zeros(function.n)
        slopes = torch.stack([slope_at(function, self.start, share) for share in path(self.start, POINTS)]).mean(0)
        return slopes / slopes.std(correction=0).clamp(min=torch.finfo(slopes.dtype).tiny)

    def _step(self, function: SetFunction, adam: Adam, most: int, step: int) -> Adam:
        """One step up the score of a soft set of k. Each step has a stream of its own: a resumed run draws the same."""
        leaf = adam.z.clone().requires_grad_()
        chosen = soft_top(leaf, self._budget(most, step), self._temperature(step))
        slope = function.soft_gradient(chosen.detach())
        return adam.step(-torch.autograd.grad(chosen, leaf, slope)[0], self.lr)

    def _budget(self, most: int, step: int) -> float:
        """How many components this step's soft set holds; between whole numbers too."""
        u = float(np.random.default_rng([self.seed, step]).random())
        return float(most**u) if self.budgets == "log" else 1 + (most - 1) * u

    def _temperature(self, step: int) -> float:
        """Return the temperature of a step, from the first to the last geometrically."""
        if self.final_temperature is None or self.updates == 1:
            return self.temperature
        share = step / (self.updates - 1)
        return float(self.temperature ** (1 - share) * self.final_temperature**share)


def soft_top(scores: Float[Tensor, "n"], k: float, temperature: float) -> Float[Tensor, "n"]:
    """Sigmoid top-k: m_i = sigmoid((s_i - tau) / T) with tau so that sum m = k. (Arora et al. 2026.)

    Differentiable in the scores: the sum stays k, so d tau / d s_i = w_i / sum w with w = m (1 - m). The threshold is
    found by halving, and one Newton step on its tracked value carries exactly that gradient.
    """
    tau = threshold(scores.detach().double() / temperature, k)
    scaled = scores.double() / temperature
    m = torch.sigmoid(scaled.detach() - tau)
    w = m * (1 - m)
    moved = tau + (w * (scaled - scaled.detach())).sum() / w.sum().clamp(min=torch.finfo(w.dtype).tiny)
    return torch.sigmoid(scaled - moved).to(scores.dtype)


def threshold(scaled: Float[Tensor, "n"], k: float) -> float:
    """The tau at which sum sigmoid(s - tau) = k; at k = n far below all."""
    low, high = float(scaled.min()) - REACH, float(scaled.max()) + REACH
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        above = float(torch.sigmoid(scaled - middle).sum()) > k
        low, high = (middle, high) if above else (low, middle)
    return math.fsum((low, high)) / 2
