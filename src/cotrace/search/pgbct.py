"""PGBCT: penalised gradient-based causal tracing, as published; and its Adam.

Source: Kingma and Ba, Adam: a method for stochastic optimization, ICLR 2015; operations ordered as in torch.optim.Adam.

Source: Yan, Wei, Katz, Sattigeri, Tajer, Multi-component Causal Tracing in Large Language Models, ACL 2026
(arXiv 2606.03085).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cotrace.errors import InputError
from cotrace.objectives import Loss, penalty, transformation
from cotrace.problem.protocol import Problem
from cotrace.search.archive import SearchState
from cotrace.search.hyperparameters import at_least, positive
from cotrace.search.sets import SetFunction
from cotrace.search.solve import Search


@dataclass(frozen=True, kw_only=True)
class Adam:
    """A point with its first and second moment after t steps."""

    z: Float[Tensor, "n"]
    first: Float[Tensor, "n"]
    second: Float[Tensor, "n"]
    t: int = 0

    @classmethod
    def at(cls, z: Float[Tensor, "n"]) -> Adam:
        """Adam that has not taken a step yet."""
        return cls(z=z, first=torch.zeros_like(z), second=torch.zeros_like(z))

    def step(
        self, gradient: Float[Tensor, "n"], lr: float, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
    ) -> Adam:
        """Adam after one step against this gradient."""
        t = self.t + 1
        first = self.first.lerp(gradient, 1 - beta1)
        second = (self.second * beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = (second.sqrt() / math.sqrt(1 - beta2**t)).add_(eps)
        z = self.z.addcdiv(first, scale, value=-lr / (1 - beta1**t))
        return Adam(z=z, first=first, second=second, t=t)

    def clamped(self) -> Adam:
        """The same with z projected to [0, 1]."""
        return Adam(z=self.z.clamp(0, 1), first=self.first, second=self.second, t=self.t)

    def to_tensors(self) -> dict[str, Tensor]:
        """Plain tensors; t is not among them."""
        return {"z": self.z, "first": self.first, "second": self.second}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], t: int) -> Adam:
        """Inverse of ``to_tensors``."""
        return cls(z=tensors["z"].clone(), first=tensors["first"].clone(), second=tensors["second"].clone(), t=t)


Run = tuple[float, float, int]
"""A finished optimisation: l1, l2, how many components it selected."""

PATH_ENDS = (0.03, 30.0)
"""Normalised penalties between which a path looks: about everything and about nothing selected."""


@dataclass(frozen=True, kw_only=True)
class PGBCT(Search):
    """Adam on a soft set from 0.5; mean g(m) + (e + 1) (l1 sum |z| + l2 sum z (1 - z)); clamped; truncated at 0.5.

    One (l1, l2) gives one selection; tuples of equal length, or one tuple and one number, are a sweep and give a
    partial frontier; ``path`` looks for penalties that give distinct sizes. Costs 2 epochs + 1 forward-equivalents for
    each (l1, l2), and 2 where penalties are normalised or a scale has to be suggested. In ``keep`` mode the variable
    is the indicator of the chosen, so the mask is 1 - z. Deterministic under its seed.
    """

    l1: float | tuple[float, ...] = 1e-3
    """Weight of the sparsity penalty."""
    l2: float | tuple[float, ...] = 1e-3
    """Weight of the binary penalty."""
    normalised: bool = False
    """Take l1 and l2 in units of |J(all) - J(none)| / (N epochs), J the mean loss g; 1 is then a middling penalty."""
    path: int | None = None
    """Ignore l1 and l2, and try this many normalised penalties, each halving the widest gap between sizes found."""
    lr: float = 0.1
    """Learning rate of Adam."""
    epochs: int = 3
    """Passes over the training pairs."""
    batch_size: int = 32
    """Pairs in a batch."""
    order: Sequence[Sequence[int]] | None = None
    """Indices of the pairs in each epoch, cut into batches as they stand; None shuffles by ``seed``."""
    transformation: str | None = None
    """Name of the metric transformation g; None takes the metric's own."""
    seed: int = 0
    """Seed of the batches."""

    name: ClassVar[str] = "pgbct"

    def __post_init__(self) -> None:
        super().__post_init__()
        for l1, l2 in self.penalties:
            at_least(self.name, "l1", l1, 0)
            at_least(self.name, "l2", l2, 0)
        positive(self.name, "lr", self.lr)
        at_least(self.name, "epochs", self.epochs, 1)
        at_least(self.name, "batch_size", self.batch_size, 1)
        at_least(self.name, "path", 2 if self.path is None else self.path, 2)
        if self.order is not None and len(self.order) != self.epochs:
            raise InputError(f"pgbct: order has {len(self.order)} epochs, not {self.epochs}; give one list for each")

    @property
    def penalties(self) -> list[tuple[float, float]]:
        """The (l1, l2) of the sweep."""
        l1, l2 = _tuple(self.l1), _tuple(self.l2)
        count = max(len(l1), len(l2))
        if {len(l1), len(l2)} - {1, count}:
            raise InputError(f"pgbct: {len(l1)} values of l1 and {len(l2)} of l2; give as many of each, or one of one")
        return list(zip(l1 * (count // len(l1)), l2 * (count // len(l2)), strict=True))

    def predicted_cost(self, n: int) -> float:
        """Forward-equivalents, whatever the number of components.

        Args:
            n: Number of components.
        """
        runs = self.path or len(self.penalties)
        return runs * (2.0 * self.epochs + 1) + (2 if self._in_units else 0)

    @property
    def _in_units(self) -> bool:
        return self.normalised or self.path is not None

    def steps(self, problem: Problem, state: SearchState | None = None) -> Iterator[SearchState]:
        """One state after each step of Adam and one after each truncation; ``state.z`` is the soft set."""
        function = SetFunction(self.name, problem, state)
        loss = transformation(problem.metric, problem.mode, problem.direction, self.transformation)
        begun = state if state and state.step else None
        runs: list[Run] = [_run(run) for run in begun.numbers["runs"]] if begun else []
        unit: float = begun.numbers["unit"] if begun else self._unit(problem, loss)
        under_way = begun and begun.numbers["t"]
        adam = Adam.from_tensors(begun.tensors, begun.numbers["t"]) if begun and under_way else _start(function.n)
        while (pair := self._next(runs, function.n)) is not None:
            for t in range(adam.t, self._length(problem)):
                adam = self._step(function, loss, (pair[0] * unit, pair[1] * unit), adam, len(runs))
                yield self._state(function, "descent", runs, unit, adam, t + 1)
            function.score(adam.z >= 0.5)
            runs.append((*pair, int((adam.z >= 0.5).sum())))
            advice = self._advice(problem, loss, runs, unit) if self._next(runs, function.n) is None else ""
            yield self._state(function, "truncated", runs, unit, replace(adam, t=0), 0, advice)
            adam = _start(function.n)

    def _step(self, function: SetFunction, loss: Loss, weights: tuple[float, float], adam: Adam, run: int) -> Adam:
        """One step of Adam on one batch: the gradient of g over its pairs, and that of the penalties."""
        epoch, batch = divmod(adam.t, self._batches(function.problem.size))
        order = self._order(function.problem.size, run, epoch)
        examples = order[batch * self.batch_size : (batch + 1) * self.batch_size]
        slope = function.loss_gradient(adam.z, loss, examples)
        return adam.step(slope + penalty_slope(adam.z, *weights, epoch), self.lr).clamped()

    def _order(self, size: int, run: int, epoch: int) -> list[int]:
        """The pairs of an epoch. Each epoch has a stream of its own, so that a resumed run draws the same."""
        if self.order is not None:
            return list(self.order[epoch])
        order: list[int] = np.random.default_rng([self.seed, run, epoch]).permutation(size).tolist()
        return order

    def _batches(self, size: int) -> int:
        return math.ceil((size if self.order is None else len(self.order[0])) / self.batch_size)

    def _length(self, problem: Problem) -> int:
        return self.epochs * self._batches(problem.size)

    def _next(self, runs: list[Run], n: int) -> tuple[float, float] | None:
        """The next (l1, l2); None where there is none."""
        if self.path is None:
            return self.penalties[len(runs)] if len(runs) < len(self.penalties) else None
        if len(runs) < len(PATH_ENDS):
            return (PATH_ENDS[len(runs)],) * 2
        c = (beyond(runs, n) or widest(runs, n)) if len(runs) < self.path else None
        return None if c is None else (c, c)

    def _unit(self, problem: Problem, loss: Loss) -> float:
        """Return the unit of the penalties."""
        return penalty_unit(problem, loss, self.epochs) if self._in_units else 1.0

    def _advice(self, problem: Problem, loss: Loss, runs: list[Run], unit: float) -> str:
        """Return a hint for penalties that select nothing or everything; else empty."""
        n = len(problem.space)
        sizes = {size for _, _, size in runs}
        if sizes not in ({0}, {n}):
            return ""
        scale = unit if self._in_units else penalty_unit(problem, loss, self.epochs)
        l1, l2, size = runs[-1]
        return (
            f"pgbct: l1={l1 * unit:.3g}, l2={l2 * unit:.3g} select {size} of {n} components: "
            f"try {'smaller' if size == 0 else 'larger'} penalties, about {scale:.2g} here, or PGBCT(path=12)"
        )

    def _state(
        self, function: SetFunction, phase: str, runs: list[Run], unit: float, adam: Adam, t: int, advice: str = ""
    ) -> SearchState:
        length = self._length(function.problem) + 1
        step = len(runs) * length + t
        total = (self.path or len(self.penalties)) * length
        numbers: dict[str, Any] = {"runs": [list(run) for run in runs], "unit": unit, "t": t, "advice": advice}
        return function.state(phase, step, total, numbers, adam.to_tensors())


def penalty_slope(z: Float[Tensor, "n"], l1: float, l2: float, epoch: int) -> Float[Tensor, "n"]:
    """Gradient of both penalties."""
    leaf = z.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(penalty(leaf, l1, l2, epoch), leaf)
    return slope


def penalty_unit(problem: Problem, loss: Loss, epochs: int) -> float:
    """|J(all) - J(none)| / (N epochs): the sparsity weight at which all components just pay."""
    n = len(problem.space)
    ends = torch.stack([torch.zeros(n), torch.ones(n)])
    weight = torch.as_tensor(problem.weights).double().cpu()
    try:
        items = problem.effects(ends)
    except InputError:  # a metric of the whole set: its one value is the only item
        items, weight = problem.value(ends)[:, None], torch.ones(1, dtype=torch.float64)
    j_none, j_all = (loss(items).double().cpu() @ weight / weight.sum()).tolist()
    return float(abs(j_all - j_none) / (n * epochs))


def widest(runs: list[Run], n: int) -> float | None:
    """The penalty between the two neighbours whose sizes lie furthest apart; None where all sizes are found."""
    ordered = sorted((c, size) for c, _, size in runs)
    gaps = [(abs(b[1] - a[1]), a[0], b[0]) for a, b in pairwise(ordered) if b[0] / a[0] > 1 + 1e-4]
    gap, low, high = max(gaps, key=lambda item: (item[0], -item[1]), default=(0, 0.0, 0.0))
    return math.sqrt(low * high) if gap > 1 else None


def beyond(runs: list[Run], n: int) -> float | None:
    """A penalty further out, where all so far select nothing, or everything; None where some select something else."""
    sizes, cs = {size for _, _, size in runs}, [c for c, _, _ in runs]
    return min(cs) / 30 if sizes == {0} else max(cs) * 30 if sizes == {n} else None


def _start(n: int) -> Adam:
    return Adam.at(torch.full((n,), 0.5))


def _run(values: list[Any]) -> Run:
    return float(values[0]), float(values[1]), int(values[2])


def _tuple(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)
