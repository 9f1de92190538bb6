"""Views of a problem: some of its examples, or its space without some components. Costs stay those of the problem."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cotrace.components import Component, ComponentSpace
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
        self.weights = torch.from_numpy(units.weight[self._examples])
        # Gradients over some examples are scaled as if these weighed as much as all do on average.
        self._scale = float(units.weight.mean() / self.weights.mean())
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
        return self._scale * self._problem.gradient(z, objective, self._own(examples))

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
        left = [i for i, component in enumerate(problem.space) if component not in set(forbidden)]
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


def folds(problem: Problem, count: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """(searched, unseen) examples of each fold; groups stay whole and are dealt out by size, the largest first."""
    units = Units.of(problem)
    draw = np.random.default_rng(seed)
    sizes = np.bincount(units.unit)
    order = sorted(draw.permutation(units.count).tolist(), key=lambda unit: -sizes[unit])
    load, fold_of = np.zeros(count), np.zeros(units.count, np.int64)
    for unit in order:
        fold_of[unit] = load.argmin()
        load[fold_of[unit]] += sizes[unit]
    own = fold_of[units.unit]
    return [(np.flatnonzero(own != f).tolist(), np.flatnonzero(own == f).tolist()) for f in range(count)]
