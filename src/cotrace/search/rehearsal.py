"""Rehearsal: a search run on a function that costs nothing, to see how many gradients and evaluations it will ask for.

What a search asks for depends little on what it finds: Pursuit skips sets that its gradients do not promise, and all
others follow a plan. The stand-in saturates and has interactions of both signs, as effects of components have.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from cotrace.components import ComponentSpace
from cotrace.errors import CotraceError
from cotrace.problem.protocol import Cost, Direction, Examples, Loss, Mode, Problem
from cotrace.results import Bound
from cotrace.search.archive import Archive
from cotrace.search.driver import Search
from cotrace.search.state import SearchState

UNITS = 24
"""Saturating units of the stand-in."""
STRENGTH = 0.4
"""How far they saturate: so that Pursuit asks for about as much as on the trained models that it was measured on."""
MOST_NUMBERS = 1 << 25
"""Most numbers in the masks of a rehearsal; what needs more is predicted from the search's own count."""
LONGEST_S = 4.0
"""After this a rehearsal stops, and the rest is taken to be like what was seen."""


@dataclass(frozen=True)
class Call:
    """One thing asked of a problem."""

    share: float
    """Of the pairs."""
    masks: Tensor | None = None
    """The masks [mask, n] of an evaluation, binary ones as such; None for a gradient."""


@dataclass(frozen=True)
class Rehearsal:
    """What a search asked for, and what it took itself."""

    calls: Sequence[Call]
    scale: float
    """By how much the search is longer than what was rehearsed."""
    own_s: float
    """Seconds that the search took besides what it asked for."""
    archive: Archive | None = field(default=None, repr=False)
    largest: int | None = None
    """Largest size that the search reports; None for all."""

    @property
    def forward_equivalents(self) -> float:
        """What the search will cost."""
        return self.scale * sum(call.share * (2 if call.masks is None else len(call.masks)) for call in self.calls)


class StandIn:
    """A problem over the same space whose values are made up."""

    direction: Direction = "maximise"
    metric = task = summary = "stand-in"
    heldout = None

    def __init__(self, problem: Problem, size: int) -> None:
        self.space: ComponentSpace = problem.space
        self.mode: Mode = problem.mode
        self.size, self.cost = size, Cost()
        self.bounds: tuple[Bound, ...] = ()
        self.calls: list[Call] = []
        self.asked_s = 0.0
        n, draw = len(problem.space), torch.Generator().manual_seed(0)
        tails = torch.empty(n).exponential_(generator=draw) ** 2
        self._mixing = (
            torch.randn(n, UNITS, generator=draw) * (tails / tails.mean())[:, None] * STRENGTH * (2 / n) ** 0.5
        )
        self._weights = torch.rand(UNITS, generator=draw) * self._mixing.sum(0).sign()
        self._examples = 1 + 0.5 * torch.randn(size, generator=draw)

    def _values(self, masks: Float[Tensor, "*mask n"]) -> Float[Tensor, "*mask"]:
        values: Tensor = torch.tanh(masks.float() @ self._mixing) @ self._weights
        return values

    def value(self, masks: Float[Tensor, "*mask n"]) -> Float[Tensor, "*mask"]:
        """The made-up value."""
        return self.effects(masks).mean(-1)

    def value_and_effects(self, masks: Float[Tensor, "*mask n"]) -> tuple[Float[Tensor, "*mask"], None]:
        """No effects, so that none are kept."""
        return self.value(masks), None

    def effects(self, masks: Float[Tensor, "*mask n"], examples: Examples = None) -> Float[Tensor, "*mask example"]:
        """The made-up effects of the examples, all of one shape."""
        began = time.perf_counter()
        z = torch.as_tensor(masks)
        rows = z.reshape(-1, z.shape[-1])
        some = self._examples if examples is None else self._examples[torch.as_tensor(examples)]
        self.calls.append(Call(len(some) / self.size, _small(rows)))
        self.cost.charge(len(rows) * len(some) / self.size)
        found = self._values(z)[..., None] * some
        self.asked_s += time.perf_counter() - began
        return found

    def gradient(
        self, z: Float[Tensor, "n"], objective: Loss | None = None, examples: Examples = None
    ) -> Float[Tensor, "n"]:
        """Of the made-up value, or of the mean objective of the effects."""
        began = time.perf_counter()
        some = self._examples if examples is None else self._examples[torch.as_tensor(examples)]
        self.calls.append(Call(len(some) / self.size))
        self.cost.charge(2 * len(some) / self.size)
        variable = torch.as_tensor(z).detach().float().clone().requires_grad_()
        effects = self._values(variable)[..., None] * some
        loss = (effects if objective is None else objective(effects)).mean()
        found = torch.autograd.grad(loss, variable)[0]
        self.asked_s += time.perf_counter() - began
        return found

    def side_values(self, masks: Float[Tensor, "*mask n"]) -> Float[Tensor, "*mask side"]:
        """No constraints."""
        return torch.zeros(*torch.as_tensor(masks).shape[:-1], 0)


def _small(masks: Float[Tensor, "mask n"]) -> Tensor:
    """A copy in little room."""
    return masks.bool() if bool(((masks == 0) | (masks == 1)).all()) else masks.detach().clone()


def rehearse(search: Search, problem: Problem) -> Rehearsal | None:
    """What a search will ask of a problem; None where that would take long to find out, or the search has no steps."""
    n = len(problem.space)
    if search.predicted_cost(n) * n > MOST_NUMBERS:
        return None
    stand_in, began = StandIn(problem, problem.size), time.perf_counter()
    state: SearchState | None = None
    try:
        for last in search.steps(stand_in):
            state = last
            if time.perf_counter() - began > LONGEST_S:
                break
    except CotraceError:
        return None
    if state is None or not stand_in.calls:
        return None
    scale = max(1.0, state.total / state.step) if state.step else 1.0
    own = time.perf_counter() - began - stand_in.asked_s
    return Rehearsal(stand_in.calls, scale, scale * own, state.archive, getattr(search, "max_size", None))
