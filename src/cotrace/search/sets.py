"""SetFunction: a problem as a function of chosen sets, always to be maximised, that pays for no set twice."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cotrace.components import sign_of
from cotrace.errors import InputError, NonFiniteError
from cotrace.problem.protocol import MASK_ELEMENTS, Examples, Loss, Problem, key_of, keys_of, mask_of
from cotrace.search.archive import Archive, Entry, SearchState

EFFECT_NUMBERS = 1 << 26
"""Most per-example effects that an archive keeps: 256 MiB."""


@dataclass(frozen=True)
class Sample:
    """Pairs that a gradient at a set is taken on: a share of them, drawn by the set, so that a resumed run agrees."""

    share: float = 1.0
    seed: int = 0

    def of(self, key: bytes, size: int) -> Examples:
        """Ascending indices; None for all."""
        count = math.ceil(self.share * size)
        if count >= size:
            return None
        stream = np.random.default_rng([self.seed, *hashlib.sha256(key).digest()[:8]])
        return sorted(stream.permutation(size)[:count].tolist())


class SetFunction:
    """Scores and gradients of chosen sets. ``swap``: a chosen component has mask 1; ``keep``: mask 0, the others 1."""

    def __init__(
        self, search: str, problem: Problem, state: SearchState | None = None, *, sample: Sample = Sample()
    ) -> None:
        self.search, self.sample = search, sample
        self.problem = problem
        self.n = len(problem.space)
        self.bounds = problem.bounds
        self.sign = sign_of(problem.direction)
        self.archive = state.archive.snapshot() if state else Archive(self.n)
        if self.archive.n != self.n:
            raise InputError(f"the state is of {self.archive.n} components and this space has {self.n}")
        self._already = (state.spent if state else 0.0) - problem.cost.forward_equivalents
        self._begun = SearchState(search=search, archive=self.archive)

    @property
    def spent(self) -> float:
        """Forward-equivalents spent by this search, over all parts of an interrupted run."""
        # Rounded, so that the parts of an interrupted run add up to the same number as one run.
        return round(self._already + self.problem.cost.forward_equivalents, 6)

    def empty(self) -> Bool[Tensor, "n"]:
        """The set of no component."""
        return torch.zeros(self.n, dtype=torch.bool)

    def mask(self, chosen: Float[Tensor, "*set n"]) -> Float[Tensor, "*set n"]:
        """The mask of chosen indicators, hard or soft."""
        return mask_of(self.problem, chosen)

    def scores(self, chosen: Bool[Tensor, "set n"]) -> Float[Tensor, "set"]:
        """Score of each set; those evaluated before cost nothing."""
        keys = keys_of(chosen)
        fresh = [i for key, i in {key: i for i, key in enumerate(keys)}.items() if self.archive.score(key) is None]
        batch = max(1, MASK_ELEMENTS // self.n)
        for start in range(0, len(fresh), batch):
            self._evaluate(chosen[fresh[start : start + batch]])
        return torch.tensor([self.archive.score(key) for key in keys], dtype=torch.float64)

    def flipped(self, chosen: Bool[Tensor, "n"], others: Sequence[int]) -> Float[Tensor, "set"]:
        """Scores of the sets that flip each of these components in turn, as many at a time as one batch holds."""
        batch = max(1, MASK_ELEMENTS // self.n)
        parts = [others[start : start + batch] for start in range(0, len(others), batch)]
        return torch.cat([self.scores(with_each(chosen, part)) for part in parts])

    def score(self, chosen: Bool[Tensor, "n"]) -> float:
        """Score of one set."""
        return float(self.scores(chosen[None])[0])

    def _evaluate(self, chosen: Bool[Tensor, "set n"]) -> None:
        masks = mask_of(self.problem, chosen.float())
        values, effects = self.problem.value_and_effects(masks)
        nothing, room = [b""] * len(chosen), (len(self.archive) + len(chosen)) * self.problem.size <= EFFECT_NUMBERS
        kept = effects.detach().float().cpu().numpy() if effects is not None and room else nothing
        sides = self.problem.side_values(masks).double().tolist() if self.bounds else [()] * len(chosen)
        spent = self.spent
        rows = zip(
            keys_of(chosen), chosen.sum(1).tolist(), values.double().tolist(), map(tuple, sides), kept, strict=True
        )
        for key, size, value, side, own in rows:
            if not all(map(math.isfinite, (value, *side))):
                raise NonFiniteError(f"the effect of {size} components is {value}: check the metric and the dtype")
            penalty = sum(b.price * b.violation(v, b.margin) for b, v in zip(self.bounds, side, strict=True))
            self.archive.add(Entry(key, size, self.sign * value - penalty, spent, penalty, side, bytes(own)))

    def gradient(self, chosen: Bool[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Gradient of the score with respect to the chosen indicator, at a set; taken once for each set."""
        known = self.archive.gradient(key := key_of(chosen))
        if known is None:
            known = self.soft_gradient(chosen.float(), self.sample.of(key, self.problem.size))
            self.archive.add_gradient(key, known)
        return known

    def has_gradient(self, chosen: Bool[Tensor, "n"]) -> bool:
        """Whether the gradient at this set was taken."""
        return self.archive.gradient(key_of(chosen)) is not None

    def soft_gradient(self, s: Float[Tensor, "n"], examples: Examples = None) -> Float[Tensor, "n"]:
        """Gradient of the score with respect to the soft chosen indicator s."""
        return self.sign * self._slope(s, None, examples)

    def input_gradient(self, share: float, examples: Examples = None) -> Float[Tensor, "n"]:
        """Gradient of the score along donor minus base activations, with inputs so much the donor's. InputError."""
        return self.sign * self._oriented(self.problem.input_gradient(share, examples))

    def loss_gradient(self, s: Float[Tensor, "n"], loss: Loss, examples: Examples = None) -> Float[Tensor, "n"]:
        """Gradient of the mean loss of the effects with respect to s."""
        return self._slope(s, loss, examples)

    def _slope(self, s: Float[Tensor, "n"], loss: Loss | None, examples: Examples) -> Float[Tensor, "n"]:
        return self._oriented(self.problem.gradient(self.mask(s), objective=loss, examples=examples))

    def _oriented(self, slope: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """A gradient along masks as one along chosen indicators. Raises NonFiniteError."""
        slope = slope.detach().float().cpu()
        if not bool(torch.isfinite(slope).all()):
            where = self.problem.space.names[int((~torch.isfinite(slope)).nonzero()[0])]
            raise NonFiniteError(f"the gradient at {where} is not finite: check the metric and the dtype")
        return slope if self.problem.mode == "swap" else -slope

    def state(
        self,
        phase: str,
        step: int,
        total: int,
        numbers: Mapping[str, Any] | None = None,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> SearchState:
        """A snapshot of where the search stands."""
        made = copy(self._begun)  # whose fields were checked
        vars(made).update(
            phase=phase,
            step=step,
            total=total,
            spent=self.spent,
            archive=self.archive.snapshot(),
            numbers=dict(numbers or {}),
            tensors={name: tensor.clone() for name, tensor in (tensors or {}).items()},
        )
        return made


def ranked(score: Float[Tensor, "n"]) -> list[int]:
    """Indices by score, best first; ties by index."""
    order: list[int] = torch.sort(score, descending=True, stable=True).indices.tolist()
    return order


def with_each(chosen: Bool[Tensor, "n"], others: Sequence[int]) -> Bool[Tensor, "set n"]:
    """The sets that flip each of these components in turn."""
    sets = chosen.repeat(len(others), 1)
    rows, columns = torch.arange(len(others)), torch.tensor(others, dtype=torch.long)
    sets[rows, columns] = ~sets[rows, columns]
    return sets


def prefixes(order: list[int], sizes: list[int], n: int) -> Bool[Tensor, "set n"]:
    """The sets of the first k components of an order, for each size k."""
    sets = torch.zeros(len(sizes), n, dtype=torch.bool)
    for row, size in zip(sets, sizes, strict=True):
        row[order[:size]] = True
    return sets
