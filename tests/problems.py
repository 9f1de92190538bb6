"""Closed-form problems: the effect of every mask is a formula, so the best set of every size is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from cotrace.components import Component, ComponentSpace, Site
from cotrace.problem.protocol import Cost, Direction, Examples, Loss, Mode, Problem

Formula = Callable[[Tensor], Tensor]
"""Soft chosen indicators [set, n] -> effects [set, example], differentiable."""


def heads(n: int, per_layer: int = 4) -> ComponentSpace:
    """A space of n heads."""
    return ComponentSpace(tuple(Component(Site.HEAD_OUTPUT, i // per_layer, i % per_layer) for i in range(n)))


@dataclass
class ClosedForm(Problem):
    """A problem whose effects are a formula of the chosen indicators, which are 1 - mask in ``keep`` mode."""

    formula: Formula
    n: int
    size: int = 8
    mode: Mode = "swap"
    direction: Direction = "maximise"
    metric: str = "log_odds"
    task: str = "closed form"
    summary: str = "a closed form"
    heldout: Any = None
    cost: Cost = field(default_factory=Cost)

    @cached_property
    def space(self) -> ComponentSpace:
        """n heads."""
        return heads(self.n)

    def effects(self, masks: Tensor, examples: Examples = None) -> Tensor:
        """Effects [*mask, example]."""
        rows = masks.reshape(-1, self.n)
        picked = list(range(self.size)) if examples is None else list(examples)
        self.cost.charge(len(rows) * len(picked) / self.size)
        return self._formula(rows)[:, picked].reshape(*masks.shape[:-1], len(picked))

    def value(self, masks: Tensor) -> Tensor:
        """Mean effect."""
        return self.effects(masks).mean(-1)

    def gradient(self, z: Tensor, objective: Loss | None = None, examples: Examples = None) -> Tensor:
        """By autograd."""
        picked = list(range(self.size)) if examples is None else list(examples)
        self.cost.charge(2 * len(picked) / self.size)
        leaf = z.detach().double().requires_grad_()
        effects = self._formula(leaf[None])[0, picked]
        (objective(effects) if objective else effects).mean().backward()
        assert leaf.grad is not None
        return leaf.grad.to(z.dtype)

    def _formula(self, masks: Tensor) -> Tensor:
        chosen = masks.double() if self.mode == "swap" else 1 - masks.double()
        effects = self.formula(chosen)
        sign = 1 if self.direction == "maximise" else -1
        return sign * (effects[:, None].expand(-1, self.size) if effects.ndim == 1 else effects)


def modular(weights: Sequence[float]) -> Formula:
    """Each component adds its weight."""
    w = torch.tensor(weights, dtype=torch.float64)
    return lambda s: s @ w


def all_of(s: Tensor, members: Sequence[int]) -> Tensor:
    """AND: 1 where every member is chosen, multilinear between."""
    return s[:, list(members)].prod(1)


def any_of(s: Tensor, members: Sequence[int]) -> Tensor:
    """OR: 1 where some member is chosen, multilinear between."""
    return 1 - (1 - s[:, list(members)]).prod(1)


def pairwise(n: int, strength: float, seed: int, size: int = 8) -> Formula:
    """Random weights and random pairwise interactions, different for each example around a common part."""
    draw = torch.Generator().manual_seed(seed)
    linear = torch.randn(n, generator=draw, dtype=torch.float64)
    own = 0.3 * torch.randn(size, n, generator=draw, dtype=torch.float64)
    pairs = torch.triu(torch.randn(n, n, generator=draw, dtype=torch.float64), 1) * strength / n**0.5

    def effects(s: Tensor) -> Tensor:
        return s @ (linear + own).T + torch.einsum("si,ij,sj->s", s, pairs, s)[:, None]

    return effects


def saturating(n: int, seed: int, layers: int = 4, size: int = 8) -> Formula:
    """A small network of the chosen: layers of tanh units that pass on what the layers before let through."""
    draw = torch.Generator().manual_seed(seed)
    width = n // layers
    into = [torch.randn(width, i * width + 4, generator=draw, dtype=torch.float64) for i in range(layers)]
    readout = torch.randn(n, generator=draw, dtype=torch.float64)
    base = torch.randn(size, 4, generator=draw, dtype=torch.float64)
    donor = torch.randn(size, 4, generator=draw, dtype=torch.float64)

    def run(start: Tensor, other: list[Tensor] | None, s: Tensor) -> tuple[list[Tensor], Tensor]:
        stream = start.expand(len(s), size, 4)
        units: list[Tensor] = []
        for i, weight in enumerate(into):
            own = torch.tanh(stream @ weight.T)
            if other is not None:
                own = torch.lerp(own, other[i], s[:, None, i * width : (i + 1) * width])
            units.append(own)
            stream = torch.cat([stream, own], -1)
        return units, torch.cat(units, -1) @ readout

    def effects(s: Tensor) -> Tensor:
        donors, _ = run(donor, None, s[:1])
        _, plain = run(base, None, s[:1])
        _, mixed = run(base, donors, s)
        return mixed - plain

    return effects
