"""PairProblem: the Problem protocol over one fixed list of pairs, for metrics with an effect of each example."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cotrace.errors import NonFiniteError
from cotrace.metrics import Metric
from cotrace.problem.protocol import Cost, Examples, Loss, Mode
from cotrace.problem.scored import ScoredPairs
from cotrace.problem.scorer import Scorer


class PairProblem(ScoredPairs[Metric]):
    """Effects, values and gradients on one list of pairs, and their count.

    Several scorers are several draws of the donors: effects are averaged over them, activations never are.
    """

    def __init__(self, scorer: Scorer, metric: Metric, mode: Mode, draws: Sequence[Scorer] = ()) -> None:
        super().__init__(scorer, metric, mode)
        self.draws = [PairProblem(draw, metric, mode) for draw in draws]
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
        return self._averaged([self.own_full_swap, *(draw.own_full_swap for draw in self.draws)])

    @cached_property
    def own_full_swap(self) -> Float[Tensor, "example"]:
        """The same for this draw of the donors."""
        return self._finite(self.metric.effects(self.full_scores, self.scorer.base, self.answers), None)

    @cached_property
    def swing(self) -> Tensor:
        """Mean effect of the full swap: the denominator of faithfulness. Raises DegenerateError where it is near 0."""
        return self.check_swing(self._mean(self.own_full_swap))

    def change(self, scores: Float[Tensor, "example answer"]) -> Float[Tensor, ""]:
        """The weighted mean effect of these scores."""
        return self._mean(self.metric.effects(scores, self.scorer.base, self.answers))

    def effects(self, masks: Any, examples: Examples = None) -> Float[Tensor, "*mask example"]:
        """Per-example effect of one mask or several. In ``keep`` mode their mean is the faithfulness."""
        some = self.some(examples)
        effects = [self._effects(scores, some) for scores in self.chunks(masks, some)]
        own = self._finite(self._shaped(effects, masks), some)
        return self._averaged([own, *(draw.effects(masks, some) for draw in self.draws)])

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
        base = self.scorer.base
        own = self._shaped([self.metric.reported(scores, base, self.answers) for scores in self.chunks(masks)], masks)
        return self._averaged([own, *(draw.reported(masks) for draw in self.draws)])

    def reported_levels(self, masks: Any) -> Float[Tensor, "*mask example"]:
        """The same of each pair."""
        base = self.scorer.base
        levels = [self.metric.reported_levels(scores, base, self.answers) for scores in self.chunks(masks)]
        return self._averaged([self._shaped(levels, masks), *(draw.reported_levels(masks) for draw in self.draws)])

    def gradient(
        self, z: Float[Tensor, "n"], objective: Loss | None = None, examples: Examples = None
    ) -> Float[Tensor, "n"]:
        """Exact gradient of the mean of ``objective(effects)``, or of the mean effect where None.

        Over some ``examples``: their part in it, scaled by size / count, so that the mean over equal batches is exact.
        """
        some = self.some(examples)
        self.charge(2 * self.share(some))
        weight = self.answers.weight
        whole = weight.sum() * self.share(some)

        def loss(scores: Tensor, examples: Sequence[int]) -> Tensor:
            effects = self._effects(scores, examples)
            losses = effects if objective is None else objective(effects)
            return (losses * weight[list(examples)]).sum() / whole

        total = self.scorer.slope(self.masks(z), loss, some)
        if not bool(torch.isfinite(total).all()):
            raise NonFiniteError(
                f"the gradient of {self.metric.name} is not finite; try dtype='float32' or another metric"
            )
        return self._averaged([total, *(draw.gradient(z, objective, some) for draw in self.draws)])

    def _effects(self, scores: Tensor, some: Sequence[int] | None) -> Tensor:
        index = torch.arange(self.size) if some is None else torch.tensor(list(some))
        change = self.metric.effects(scores, self.scorer.base[index], self.answers.take(index))
        return change if self.mode == "swap" else (self.own_full_swap[index] - change) / self.swing

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
