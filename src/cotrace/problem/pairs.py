"""PairProblem: the Problem protocol over one fixed list of pairs, for metrics with an effect of each example."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cotrace.arguments import guarded
from cotrace.errors import NonFiniteError
from cotrace.metrics import Metric
from cotrace.problem.executor import ChangeLoss, Linear, Objective
from cotrace.problem.protocol import Cost, Examples, Loss, Mode
from cotrace.problem.scored import ScoredPairs
from cotrace.problem.scorer import Scorer


@guarded("PairProblem", fields=False)
class PairProblem(ScoredPairs[Metric]):
    """Effects, values and gradients on one list of pairs, and their count.

    Several scorers are several draws of the donors: changes of the metric are averaged over them, activations never
    are; faithfulness is a ratio of such averages.
    """

    def __init__(self, scorer: Scorer, metric: Metric, mode: Mode, draws: Sequence[Scorer] = ()) -> None:
        super().__init__(scorer, metric, mode)
        self.draws = [PairProblem(draw, metric, "swap") for draw in draws]
        self.use_cost(self.cost)

    def use_cost(self, cost: Cost, unit: float = 1.0) -> None:
        """Count there, and the draws too."""
        super().use_cost(cost, unit)
        for draw in getattr(self, "draws", ()):
            draw.use_cost(cost, unit)

    @cached_property
    def base_levels(self) -> Float[Tensor, "example"]:
        """The metric's level in the base run."""
        return self.metric.levels(self.scorer.base, self.scorer.base, self.answers)

    @cached_property
    def full_swap(self) -> Float[Tensor, "example"]:
        """Per-example change of the metric when every component takes the donor's value."""
        own = self._finite(self._changes(self.full_scores, None), None)
        return self._averaged([own, *(draw.full_swap for draw in self.draws)])

    @cached_property
    def full_levels(self) -> Float[Tensor, "example"]:
        """The metric's level when every component takes the donor's value."""
        own = self.metric.levels(self.full_scores, self.scorer.base, self.answers)
        return self._averaged([own, *(draw.full_levels for draw in self.draws)])

    @cached_property
    def swing(self) -> Tensor:
        """Mean effect of the full swap: the denominator of faithfulness. Raises DegenerateError where it is near 0."""
        return self.check_swing(self._mean(self.full_swap))

    def change(self, scores: Float[Tensor, "example answer"]) -> Float[Tensor, ""]:
        """The weighted mean effect of these scores."""
        return self._mean(self.metric.effects(scores, self.scorer.base, self.answers))

    def effects(self, masks: Any, examples: Examples = None) -> Float[Tensor, "*mask example"]:
        """Per-example effect of one mask or several. In ``keep`` mode their mean is the faithfulness."""
        some = self.some(examples)
        return self._of_mode(self.changes_of(masks, some), some)

    def changes_of(self, masks: Any, some: Sequence[int] | None) -> Float[Tensor, "*mask example"]:
        """The metric's change from the base run, averaged over the draws."""
        z = self.masks(masks)
        own = self._shaped([self._changes(scores, some) for scores in self.chunks(z, some)], z)
        return self._averaged([self._finite(own, some), *(draw.changes_of(z, some) for draw in self.draws)])

    @staticmethod
    def _averaged(draws: Sequence[Tensor]) -> Tensor:
        return draws[0] if len(draws) == 1 else torch.stack(list(draws)).mean(0)

    def value(self, masks: Any) -> Float[Tensor, "*mask"]:
        """The aggregate that searches see: the weighted mean of the effects."""
        return self._mean(self.effects(masks))

    def value_and_effects(self, masks: Any) -> tuple[Float[Tensor, "*mask"], Float[Tensor, "*mask example"]]:
        """Both, from one evaluation."""
        effects = self.effects(masks)
        return self._mean(effects), effects

    def reported(self, masks: Any) -> Float[Tensor, "*mask"]:
        """The metric's own level, as people read it: its weighted mean over the pairs."""
        z, base = self.masks(masks), self.scorer.base
        own = self._shaped([self.metric.reported(scores, base, self.answers) for scores in self.chunks(z)], z)
        return self._averaged([own, *(draw.reported(z) for draw in self.draws)])

    def reported_levels(self, masks: Any) -> Float[Tensor, "*mask example"]:
        """The same of each pair."""
        z, base = self.masks(masks), self.scorer.base
        levels = [self.metric.reported_levels(scores, base, self.answers) for scores in self.chunks(z)]
        return self._averaged([self._shaped(levels, z), *(draw.reported_levels(z) for draw in self.draws)])

    def gradient(
        self, z: Float[Tensor, "n"], objective: Loss | None = None, examples: Examples = None
    ) -> Float[Tensor, "n"]:
        """Exact gradient of the mean of ``objective(effects)``, or of the mean effect where None.

        Over some ``examples``: their part in it, scaled by size / count, so that the mean over equal batches is exact.
        """
        some, z = self.some(examples), self.masks(z)
        if self.draws and objective is not None:
            return self._averaged_slope(z, objective, some)
        loss = self._objective(objective, some)
        return self._averaged([part.slope(z, loss, some) for part in (self, *self.draws)])

    def _averaged_slope(self, z: Tensor, objective: Loss, some: list[int] | None) -> Float[Tensor, "n"]:
        """By the chain rule, as the objective is of changes averaged over draws. A gradient costs 3 for each draw."""
        index = list(range(self.size)) if some is None else some
        changes = self.changes_of(z, some).requires_grad_()
        (slope,) = torch.autograd.grad(self._objective(objective, some)(changes, index), changes)
        loss = Linear(slope.new_zeros(self.size).index_copy(0, torch.tensor(index), slope))
        return self._averaged([part.slope(z, loss, some) for part in (self, *self.draws)])

    def slope(self, z: Tensor, loss: Objective | Linear, some: list[int] | None) -> Float[Tensor, "n"]:
        """Gradient of a sum over batches of a loss of this draw's changes."""
        self.charge(2 * self.share(some))
        total = self.scorer.slope(z, ChangeLoss(self.metric, self.scorer.base, self.answers, loss), some)
        if not bool(torch.isfinite(total).all()):
            raise NonFiniteError(
                f"the gradient of {self.metric.name} is not finite; try dtype='float32' or another metric"
            )
        return total

    def _objective(self, objective: Loss | None, some: Sequence[int] | None) -> Objective:
        """The part of some of these examples in the mean over them all."""
        weight = self.answers.weight
        keep = (self.full_swap, self.swing) if self.mode == "keep" else ()
        return Objective(objective, weight, weight.sum() * self.share(some), *keep)

    def _changes(self, scores: Tensor, some: Sequence[int] | None) -> Tensor:
        """The metric's change from the base run, of this draw."""
        index = torch.arange(self.size) if some is None else torch.tensor(list(some))
        return self.metric.effects(scores, self.scorer.base[index], self.answers.take(index))

    def _of_mode(self, changes: Tensor, some: Sequence[int] | None) -> Tensor:
        """The changes themselves, or the faithfulness."""
        if self.mode == "swap":
            return changes
        full = self.full_swap if some is None else self.full_swap[list(some)]
        return (full - changes) / self.swing

    def _mean(self, effects: Float[Tensor, "*mask example"]) -> Float[Tensor, "*mask"]:
        return (effects * self.answers.weight).sum(-1) / self.answers.weight.sum()

    def _finite(self, effects: Tensor, some: Sequence[int] | None) -> Tensor:
        bad = ~torch.isfinite(effects)
        if bad.any():
            column = int(bad.reshape(-1, bad.shape[-1]).any(0).nonzero()[0])
            pair = self.scorer.pairs[column if some is None else some[column]].pair
            raise NonFiniteError(
                f"pair {pair.id}: the effect on {self.metric.name} is not finite; metric='log_odds' has no overflow"
            )
        return effects
