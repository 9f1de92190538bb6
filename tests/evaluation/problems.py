"""Closed-form problems with held-out examples, whose effects differ between examples in a known way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tests.problems import ClosedForm, Formula


@dataclass
class Judged(ClosedForm):
    """A formula times a factor of each example: 1 plus noise, so the mean effect is near the formula's."""

    noise: float = 0.2
    seed: int = 0
    clusters: Sequence[str] | None = None
    factors: Tensor = field(init=False)

    def __post_init__(self) -> None:
        draw = torch.Generator().manual_seed(self.seed)
        self.factors = 1 + self.noise * torch.randn(self.size, generator=draw, dtype=torch.float64)
        inner: Callable[[Tensor], Tensor] = self.formula
        self.formula = lambda s: inner(s)[:, None] * self.factors

    def value_and_effects(self, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Both, for one price."""
        effects = self.effects(masks)
        return effects.mean(-1), effects


def judged(formula: Formula, n: int, *, size: int = 40, unseen: int = 30, **options: Any) -> Judged:
    """A problem with its held-out part; the examples' factors differ between the two."""
    groups = options.pop("groups", None)
    seen = [f"g{i % groups}" for i in range(size)] if groups else None
    others = [f"h{i % groups}" for i in range(unseen)] if groups else None
    heldout = Judged(formula, n, unseen, clusters=others, seed=1, **options)
    return Judged(formula, n, size, heldout=heldout, clusters=seen, **options)
