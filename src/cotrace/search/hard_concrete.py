"""HardConcrete: a learned stochastic mask with an L0 penalty.

Sources: Louizos, Welling, Kingma, Learning sparse neural networks through L0 regularization, ICLR 2018 (the gates);
Cao, Sanh, Rush, Low-complexity probing via finding subnetworks, NAACL 2021 (subnetwork probing).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cotrace.objectives import Loss, transformation
from cotrace.problem.protocol import Problem
from cotrace.search.archive import SearchState
from cotrace.search.hyperparameters import at_least, gaps, largest, nested_sizes, positive
from cotrace.search.pgbct import Adam, penalty_unit
from cotrace.search.sets import SetFunction, prefixes, ranked
from cotrace.search.solve import Search

BETA = 2 / 3
LOW, HIGH = -0.1, 1.1
"""Temperature and stretch interval of the published gates."""


@dataclass(frozen=True, kw_only=True)
class HardConcrete(Search):
    """Stochastic gates z with log odds a, trained on mean g(m) + lambda (expected number of open gates).

    For each lambda trains the gates with Adam, ranks components by a, and evaluates the nested sets of every size (of
    60 sizes where the largest is above 256).
    Costs 2 + lambdas (2 epochs + K) forward-equivalents up to size K. Deterministic under its seed.
    """

    max_size: int | None = None
    """Largest k; None for N."""
    lambdas: tuple[float, ...] = (0.3, 1.0, 3.0)
    """Weights of the L0 penalty, in units of |J(all) - J(none)| / N, J the mean loss g."""
    lr: float = 0.1
    """Learning rate of Adam."""
    epochs: int = 30
    """Passes over the training pairs for each lambda."""
    batch_size: int = 32
    """Pairs in a batch."""
    transformation: str | None = None
    """Name of the metric transformation g; None takes the metric's own."""
    seed: int = 0
    """Seed of batches and gates."""

    name: ClassVar[str] = "hardconcrete"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self.name, "number of lambdas", len(self.lambdas), 1)
        for value in self.lambdas:
            at_least(self.name, "lambda", value, 0)
        positive(self.name, "lr", self.lr)
        at_least(self.name, "epochs", self.epochs, 1)
        at_least(self.name, "batch_size", self.batch_size, 1)

    def predicted_cost(self, n: int) -> float:
        """Forward-equivalents for n components."""
        return 2 + len(self.lambdas) * (2.0 * self.epochs + len(self._grid(n)))

    def steps(self, problem: Problem, state: SearchState | None = None) -> Iterator[SearchState]:
        """One state after each epoch and after each lambda's nested sets; ``state.z`` is a, the gates' log odds."""
        function = SetFunction(self.name, problem, state)
        loss = transformation(problem.metric, problem.mode, problem.direction, self.transformation)
        begun = state if state and state.step else None
        unit = float(begun.numbers["unit"]) if begun else penalty_unit(problem, loss, 1)
        adam = Adam.from_tensors(begun.tensors, begun.numbers["t"]) if begun else Adam.at(torch.zeros(function.n))
        rounds = self.epochs + 1
        total = rounds * len(self.lambdas)
        grid = self._grid(function.n)
        for step in range(begun.step if begun else 0, total):
            run, epoch = divmod(step, rounds)
            if epoch == 0:
                adam = Adam.at(torch.zeros(function.n))
            if epoch < self.epochs:
                adam = self._epoch(function, loss, adam, self.lambdas[run] * unit, (run, epoch))
            else:
                function.scores(prefixes(ranked(adam.z), grid, function.n))
            numbers: dict[str, Any] = {"unit": unit, "t": adam.t, "advice": gaps(grid, None, grid[-1])}
            yield function.state("gates", step + 1, total, numbers, adam.to_tensors())

    def _grid(self, n: int) -> list[int]:
        return nested_sizes(self.name, None, largest(self.name, self.max_size, n))

    def _epoch(self, function: SetFunction, loss: Loss, adam: Adam, weight: float, place: tuple[int, int]) -> Adam:
        """One pass over the pairs. Each epoch has a stream of its own, so that a resumed run draws the same."""
        stream = np.random.default_rng([self.seed, *place])
        order = stream.permutation(function.problem.size).tolist()
        for start in range(0, len(order), self.batch_size):
            noise = torch.from_numpy(stream.uniform(1e-6, 1 - 1e-6, function.n)).float()
            leaf = adam.z.clone().requires_grad_()
            z = gates(leaf, noise)
            slope = function.loss_gradient(z.detach(), loss, order[start : start + self.batch_size])
            total = (z * slope).sum() + weight * open_gates(leaf)
            adam = adam.step(torch.autograd.grad(total, leaf)[0], self.lr)
        return replace(adam)


def gates(a: Float[Tensor, "n"], noise: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Hard concrete gates: clip((HIGH - LOW) sigmoid((logit(u) + a) / beta) + LOW, 0, 1). (Louizos et al. 2018.)"""
    return (torch.sigmoid((torch.logit(noise) + a) / BETA) * (HIGH - LOW) + LOW).clamp(0, 1)


def open_gates(a: Float[Tensor, "n"]) -> Float[Tensor, ""]:
    """Expected number of gates that are not 0: sum sigmoid(a - beta log(-LOW / HIGH)). (Louizos et al. 2018.)"""
    return torch.sigmoid(a - BETA * math.log(-LOW / HIGH)).sum()
