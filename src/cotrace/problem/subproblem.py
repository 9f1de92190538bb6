"""Subproblem: a problem on some of its examples, or over its space without some components."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cotrace.components import Component, ComponentSpace
from cotrace.problem.protocol import Examples, Loss, Problem, attribute, inner
from cotrace.statistics import Units


class Subproblem(Problem):
    """A problem on some of its examples, and over the components that are not forbidden; those are never chosen.

    ``unseen`` examples are its held-out pairs. Only metrics that have an effect of each example have some of them.
    Costs, and the pairs on which constraints are kept, are those of the problem.
    """

    mode, direction, metric, summary, cost, bounds = inner("mode", "direction", "metric", "summary", "cost", "bounds")

    def __init__(
        self,
        problem: Problem,
        examples: Sequence[int] | None = None,
        *,
        without: Collection[Component] = (),
        unseen: Sequence[int] | None = None,
    ) -> None:
        self.problem, gone = problem, set(without)
        self._left = [i for i, component in enumerate(problem.space) if component not in gone]
        self._space = ComponentSpace(tuple(problem.space[i] for i in self._left)) if gone else problem.space
        self._some = None if examples is None else _Some(Units.of(problem), examples)
        self._unseen = None if unseen is None else Subproblem(problem, unseen, without=without)

    @property
    def space(self) -> ComponentSpace:
        return self._space

    @property
    def heldout(self) -> Subproblem | None:
        """The unseen examples."""
        return self._unseen

    @property
    def size(self) -> int:
        return self.problem.size if self._some is None else len(self._some.examples)

    @property
    def task(self) -> str:
        return self.problem.task + ("" if self._some is None else f" ({self.size} of {self.problem.size} pairs)")

    @attribute
    def weights(self) -> Float[Tensor, "example"]:
        """How much each example counts: in a sum as in the whole sum, whatever was drawn."""
        return self.problem.weights if self._some is None else self._some.weights

    @property
    def clusters(self) -> Sequence[str] | None:
        """The group of each example."""
        return self.problem.clusters if self._some is None else self._some.clusters

    @property
    def parts(self) -> Sequence[int] | None:
        """In a sum of problems the one that each example is of."""
        if self._some is None or self.problem.parts is None:
            return self.problem.parts
        own: list[int] = self._some.part.tolist()
        return own

    @property
    def strata(self) -> Sequence[int] | None:
        """The kind of each example."""
        return self.problem.strata if self._some is None else None

    def effects(self, masks: Float[Tensor, "*mask n"], examples: Examples = None) -> Float[Tensor, "*mask example"]:
        """Per-example effects of these examples."""
        return self.problem.effects(self._whole(masks), self._own(examples))

    def value(self, masks: Float[Tensor, "*mask n"]) -> Float[Tensor, "*mask"]:
        """Their weighted mean, or the problem's own value."""
        return self.problem.value(self._whole(masks)) if self._some is None else self.value_and_effects(masks)[0]

    def value_and_effects(
        self, masks: Float[Tensor, "*mask n"]
    ) -> tuple[Float[Tensor, "*mask"], Float[Tensor, "*mask example"] | None]:
        """Both, from one evaluation."""
        if self._some is None:
            return self.problem.value_and_effects(self._whole(masks))
        effects = self.effects(masks)
        weights = self.weights.to(effects.dtype)
        return (effects * weights).sum(-1) / weights.sum(), effects

    def gradient(
        self, z: Float[Tensor, "n"], objective: Loss | None = None, examples: Examples = None
    ) -> Float[Tensor, "n"]:
        """Exact over these examples, at the components that are left."""
        whole = self._whole(z)
        if self._some is None:
            slope = self.problem.gradient(whole, objective, examples)
        else:
            shares = self._some.shares(range(self.size) if examples is None else [int(i) for i in examples])
            slope = torch.stack([share * self.problem.gradient(whole, objective, own) for own, share in shares]).sum(0)
        return slope if self._space is self.problem.space else slope[self._left]

    def side_values(self, masks: Float[Tensor, "*mask n"]) -> Float[Tensor, "*mask side"]:
        """The problem's own."""
        return self.problem.side_values(self._whole(masks))

    def _own(self, examples: Examples) -> Examples:
        """Which of the problem's examples these are."""
        if self._some is None:
            return examples
        own = self._some.examples
        return own if examples is None else [own[int(i)] for i in examples]

    def _whole(self, masks: Float[Tensor, "*mask n"]) -> Float[Tensor, "*mask whole"]:
        """The masks over the problem's space, the forbidden components not chosen."""
        if self._space is self.problem.space:
            return masks
        unchosen = 0.0 if self.mode == "swap" else 1.0
        whole = torch.full((*masks.shape[:-1], len(self.problem.space)), unchosen, dtype=masks.dtype)
        whole[..., self._left] = masks
        return whole


class _Some:
    """Some examples of a problem: how much each counts, so that each problem of a sum counts as in the whole sum."""

    def __init__(self, units: Units, examples: Sequence[int]) -> None:
        self.examples = [int(i) for i in examples]
        self.part = units.of_parts.argmax(0)[self.examples]
        own = units.weight[self.examples]
        whole, drawn = units.of_parts @ units.weight, np.bincount(self.part, own, len(units.of_parts))
        grown = np.divide(whole, drawn, out=np.zeros_like(whole), where=drawn > 0)
        self.weights = torch.from_numpy(own * grown[self.part] if len(grown) > 1 else own)
        self.clusters = [str(unit) for unit in units.unit[self.examples]]
        # Gradients over some examples are scaled as if these weighed as much as all do on average.
        self._counts = np.bincount(self.part, minlength=len(grown))
        self._scales = grown * self._counts / len(units.weight)

    def shares(self, places: Sequence[int]) -> list[tuple[list[int], float]]:
        """Return each summed problem's own examples at these places, and the weight of their gradient."""
        found = []
        for part, scale in enumerate(self._scales.tolist()):
            some = [self.examples[i] for i in places if self.part[i] == part]
            if some:
                share = len(some) / len(places) * len(self.examples) / self._counts[part].item()
                found.append((some, share * scale))
        return found
