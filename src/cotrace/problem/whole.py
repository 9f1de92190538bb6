"""SetProblem: the Problem protocol over one fixed list of pairs, for metrics of the whole set."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cotrace.arguments import guarded
from cotrace.errors import InputError, NonFiniteError
from cotrace.metrics import Answers, SetMetric
from cotrace.problem.executor import ScoreLoss
from cotrace.problem.protocol import Examples, Loss
from cotrace.problem.scored import ScoredPairs


@guarded("SetProblem", fields=False)
class SetProblem(ScoredPairs[SetMetric]):
    """Values and gradients of one number for the whole list of pairs. A gradient costs 3: its scores, then itself."""

    @cached_property
    def full_swap(self) -> Float[Tensor, ""]:
        """Change of the metric when every component takes the donor's value."""
        return self._finite(self.metric.value(self.full_scores, self.scorer.base, self.answers))

    @cached_property
    def swing(self) -> Tensor:
        """Effect of the full swap: the denominator of faithfulness. Raises DegenerateError where it is near 0."""
        return self.check_swing(self.full_swap)

    def change(self, pieces: Iterable[Float[Tensor, "some answer"]]) -> Float[Tensor, ""]:
        """Change of the number that these scores make."""
        return self.metric.value(torch.cat(list(pieces)), self.scorer.base, self.answers)

    def effects(self, masks: Any, examples: Examples = None) -> Float[Tensor, "*mask example"]:
        """Raises InputError: there is no effect of each example."""
        raise InputError(
            f"{self.metric.name} is one number for the whole set, without an effect of each pair: use value"
        )

    def value(self, masks: Any) -> Float[Tensor, "*mask"]:
        """Change of the metric, from its soft form. In ``keep`` mode the faithfulness."""
        return self._finite(self._shaped([self._value(scores) for scores in self.chunks(masks)], masks))

    def value_and_effects(self, masks: Any) -> tuple[Float[Tensor, "*mask"], None]:
        """The value; there is no effect of each example."""
        return self.value(masks), None

    def reported(self, masks: Any) -> Float[Tensor, "*mask"]:
        """The metric's own level, as people read it."""
        base = self.scorer.base
        return self._shaped([self.metric.reported(scores, base, self.answers) for scores in self.chunks(masks)], masks)

    @property
    def strata(self) -> list[int]:
        """The kind of each pair, as many of which every resample must hold."""
        found: list[int] = self.metric.strata(self.answers).tolist()
        return found

    def redrawn(self, masks: Any, counts: Iterable[Any]) -> Float[Tensor, "mask draw"]:
        """The value with each example counting as often as each row [draw, example] of these blocks says; not a number
        where it has none (a group that is not drawn). The pairs are scored only once."""
        scores = torch.cat(list(self.chunks(masks)))
        return torch.cat([self.drawn(scores, self.answers.drawn(block)) for block in counts], -1)

    def drawn(self, scores: Float[Tensor, "*mask example answer"], answers: Answers) -> Float[Tensor, "*mask draw"]:
        """The value of these scores on drawn answers; in ``keep`` mode only where the full swap keeps its sign."""
        base = self.scorer.base
        change = self.metric.value(scores, base, answers)
        if self.mode == "swap":
            return change
        full = self.metric.value(self.full_scores, base, answers)
        return torch.where(full * self.full_swap > 0, (full - change) / full, torch.nan)

    def gradient(
        self, z: Float[Tensor, "n"], objective: Loss | None = None, examples: Examples = None
    ) -> Float[Tensor, "n"]:
        """Exact gradient of ``objective(value)``, or of the value where None, over all pairs.

        Over some ``examples``: their part in it, scaled by size / count. The number depends on all pairs, so all are
        scored; the mean over a partition into equal batches is the full gradient exactly.
        """
        some = self.some(examples)
        self.charge(1 + 2 * self.share(some))
        slope = self._slope(self.masks(z), objective)
        total = self.scorer.slope(self.masks(z), ScoreLoss(slope), some)
        if not bool(torch.isfinite(total).all()):
            raise NonFiniteError(f"the gradient of {self.metric.name} is not finite; try dtype='float32'")
        return total / self.share(some)

    def _slope(self, z: Float[Tensor, "n"], objective: Loss | None) -> Float[Tensor, "example answer"]:
        """Gradient with respect to the scores, which are computed without one."""
        table = self.scorer.scores(z[None])[0].requires_grad_()
        value = self._value(table)[None]
        loss = (value if objective is None else objective(value)).sum()
        return torch.autograd.grad(loss, table)[0]

    def _value(self, scores: Float[Tensor, "*mask example answer"]) -> Float[Tensor, "*mask"]:
        change = self.metric.value(scores, self.scorer.base, self.answers)
        return change if self.mode == "swap" else (self.full_swap - change) / self.swing

    def _finite(self, value: Tensor) -> Tensor:
        if not bool(torch.isfinite(value).all()):
            raise NonFiniteError(f"the effect on {self.metric.name} is not finite: check the scores and the dtype")
        return value
