"""Views of a problem: some of its examples, or its space without some components. Costs stay those of the problem."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cotrace.components import Component, ComponentSpace
from cotrace.errors import InputError
from cotrace.problem.protocol import Cost, Direction, Examples, Loss, Mode, Problem
from cotrace.search.sets import bounds_of
from cotrace.statistics import Units


class Part:
    """A problem on some of its examples; the others, where named, are its held-out pairs.

    For metrics that have an effect of each example. Constraints stay those of the problem, on all pairs of their sides.
    """

    def __init__(self, problem: Problem, examples: Sequence[int], unseen: Sequence[int] | None = None) -> None:
        self._problem, self._examples = problem, [int(i) for i in examples]
        units = Units.of(problem)
        own = units.weight[self._examples]
        self._part = units.of_parts.argmax(0)[self._examples]
        """In a sum, the problem of each example: they count as in the whole sum, whatever was drawn."""
        whole, drawn = units.of_parts @ units.weight, np.bincount(self._part, own, len(units.of_parts))
        grown = np.divide(whole, drawn, out=np.zeros_like(whole), where=drawn > 0)
        self.weights = torch.from_numpy(own * grown[self._part] if len(grown) > 1 else own)
        # Gradients over some examples are scaled as if these weighed as much as all do on average.
        self._counts = np.bincount(self._part, minlength=len(grown))
        self._scales = grown * self._counts / len(units.weight)
        if units.part is not None:
            self.parts = self._part.tolist()
        self.clusters = [str(unit) for unit in units.unit[self._examples]]
        self.heldout = None if unseen is None else Part(problem, unseen)
        self.bounds = bounds_of(problem)

    @property
    def space(self) -> ComponentSpace:
        return self._problem.space

    @property
    def mode(self) -> Mode:
        return self._problem.mode

    @property
    def direction(self) -> Direction:
        return self._problem.direction

    @property
    def metric(self) -> str:
        return self._problem.metric

    @property
    def task(self) -> str:
        return f"{self._problem.task} ({self.size} of {self._problem.size} pairs)"

    @property
    def summary(self) -> str:
        return self._problem.summary

    @property
    def size(self) -> int:
        return len(self._examples)

    @property
    def cost(self) -> Cost:
        """The whole problem's: a part is charged pro rata."""
        return self._problem.cost

    def effects(self, masks: Float[Tensor, "*mask n"], examples: Examples = None) -> Float[Tensor, "*mask example"]:
        """Per-example effects of the part's examples."""
        return self._problem.effects(masks, self._own(examples))

    def value(self, masks: Float[Tensor, "*mask n"]) -> Float[Tensor, "*mask"]:
        """Their weighted mean."""
        return self.value_and_effects(masks)[0]

    def value_and_effects(self, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Both, from one evaluation."""
        effects = self.effects(masks)
        weights = self.weights.to(effects.dtype)
        return (effects * weights).sum(-1) / weights.sum(), effects

    def gradient(
        self, z: Float[Tensor, "n"], objective: Loss | None = None, examples: Examples = None
    ) -> Float[Tensor, "n"]:
        """Exact over the part's examples."""
        places = range(self.size) if examples is None else [int(i) for i in examples]
        slopes = []
        for part, scale in enumerate(self._scales.tolist()):
            some = [self._examples[i] for i in places if self._part[i] == part]
            if some:
                share = len(some) / len(places) * self.size / self._counts[part].item()
                slopes.append(share * scale * self._problem.gradient(z, objective, some))
        return torch.stack(slopes).sum(0)

    def side_values(self, masks: Float[Tensor, "*mask n"]) -> Float[Tensor, "*mask side"]:
        """The problem's own."""
        return self._problem.side_values(masks)

    def _own(self, examples: Examples) -> list[int]:
        return self._examples if examples is None else [self._examples[int(i)] for i in examples]


class Without:
    """A problem over the components that are not forbidden; those are never chosen."""

    heldout = None

    def __init__(self, problem: Problem, forbidden: Collection[Component]) -> None:
        self._problem = problem
        gone = set(forbidden)
        left = [i for i, component in enumerate(problem.space) if component not in gone]
        self._left = torch.tensor(left)
        self.space = ComponentSpace(tuple(problem.space[i] for i in left))
        self.mode, self.direction, self.metric = problem.mode, problem.direction, problem.metric
        self.task, self.summary, self.size = problem.task, problem.summary, problem.size
        self.bounds = bounds_of(problem)

    @property
    def cost(self) -> Cost:
        return self._problem.cost

    def effects(self, masks: Float[Tensor, "*mask n"], examples: Examples = None) -> Float[Tensor, "*mask example"]:
        """Effects, the forbidden never chosen."""
        return self._problem.effects(self._whole(masks), examples)

    def value(self, masks: Float[Tensor, "*mask n"]) -> Float[Tensor, "*mask"]:
        """The problem's own value."""
        return self._problem.value(self._whole(masks))

    def gradient(
        self, z: Float[Tensor, "n"], objective: Loss | None = None, examples: Examples = None
    ) -> Float[Tensor, "n"]:
        """The problem's own gradient at the components that are left."""
        return self._problem.gradient(self._whole(z), objective, examples)[self._left]

    def side_values(self, masks: Float[Tensor, "*mask n"]) -> Float[Tensor, "*mask side"]:
        """The problem's own."""
        return self._problem.side_values(self._whole(masks))

    def _whole(self, masks: Float[Tensor, "*mask n"]) -> Float[Tensor, "*mask whole"]:
        masks = torch.as_tensor(masks)
        unchosen = 0.0 if self.mode == "swap" else 1.0
        whole = torch.full((*masks.shape[:-1], len(self._problem.space)), unchosen, dtype=masks.dtype)
        whole[..., self._left] = masks
        return whole


def strata(units: Units) -> list[Int[np.ndarray, "unit"]]:
    """Units that are drawn among themselves: in a sum of problems those with pairs of the same problems; else all."""
    held = [np.bincount(units.unit, own, minlength=units.count) > 0 for own in units.of_parts]
    kinds = [tuple(row) for row in np.stack(held, 1).tolist()]
    return [np.array([i for i, own in enumerate(kinds) if own == kind]) for kind in dict.fromkeys(kinds)]


def resampled(units: Units, count: int, seed: int) -> Float[np.ndarray, "resample unit"]:
    """How often each unit is drawn in each bootstrap resample, within its stratum."""
    found = strata(units)
    if len(found) == 1:
        return np.concatenate(list(units.resamples(count, seed)))
    draw, drawn = np.random.default_rng(seed), np.zeros((count, units.count))
    for members in found:
        drawn[:, members] = draw.multinomial(len(members), np.full(len(members), 1 / len(members)), size=count)
    return drawn


def folds(problem: Problem, count: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """(searched, unseen) examples of each fold; groups stay whole and are dealt out by size, the largest first.

    Those of each problem of a sum are dealt out by themselves, so that no fold lacks one. Raises InputError.
    """
    units = Units.of(problem)
    draw = np.random.default_rng(seed)
    sizes = np.bincount(units.unit)
    load, fold_of = np.zeros(count), np.zeros(units.count, np.int64)
    for members in strata(units):
        if len(members) < 2:
            raise InputError(
                "folds of a weighted sum need at least 2 groups of pairs of each of its problems, and one has 1: give "
                "more pairs"
            )
        own = np.zeros(count)
        for unit in sorted(draw.permutation(members).tolist(), key=lambda unit: -sizes[unit]):
            fold_of[unit] = np.lexsort((load, own))[0]
            own[fold_of[unit]] += sizes[unit]
            load[fold_of[unit]] += sizes[unit]
    own = fold_of[units.unit]
    return [(np.flatnonzero(own != f).tolist(), np.flatnonzero(own == f).tolist()) for f in range(count)]
