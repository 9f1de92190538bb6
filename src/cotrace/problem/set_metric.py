"""Problems whose metric is of the whole set of pairs; and which way a search is to go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cotrace.errors import InputError, NonFiniteError, unknown
from cotrace.metrics import Answers, AnyMetric, Metric, SetMetric, towards
from cotrace.problem.losses import BatchLoss, LevelLoss, ScoreLoss
from cotrace.problem.protocol import Direction, Examples, Loss, Mode
from cotrace.problem.scored import Masks, PairProblem, Reading, ScoredPairs, piece_rows
from cotrace.problem.scorer import Scorer


class SetProblem(ScoredPairs[SetMetric]):
    """Values and gradients of one number for the whole list of pairs. A gradient costs 3: its scores, then itself."""

    @cached_property
    def number(self) -> SetMetric:
        """The metric, as it is made of ``tables``."""
        return self.metric if self._each is None else self._each[1]

    @cached_property
    def _each(self) -> tuple[Metric, SetMetric] | None:
        """Return the levels that stand for logits, for which no table would have room; else None."""
        each, of_levels = self.metric.each, self.metric.of_levels
        return (each, of_levels) if self.metric.reads == "logits" and each and of_levels else None

    @cached_property
    def base_table(self) -> Float[Tensor, "example column"]:
        """Table of the base run that the number is made of: scores, or levels."""
        base = self.scorer.base
        return base if self._each is None else self._levels_of(torch.split(base, piece_rows(base)))

    @cached_property
    def full_table(self) -> Float[Tensor, "example column"]:
        """The same under the full swap. Not counted as search cost: it is part of the question."""
        if self._each is None:
            return self.full_scores
        return self._measured(torch.ones(1, len(self.space), dtype=self.dtype), self._each[0])[0]

    def tables(self, z: Masks) -> Iterator[Float[Tensor, "mask example column"]]:
        """The same under one mask or several, as many at a time as fit in memory. Counts as an evaluation."""
        if self._each is None:
            yield from (self.scorer.scores(rows) for rows in self.chunks(z))
            return
        rows = z.reshape(-1, z.shape[-1])
        self.charge(len(rows))
        yield self._measured(rows, self._each[0])

    def _measured(self, z: Tensor, each: Metric) -> Float[Tensor, "mask example column"]:
        return self.scorer.scores(z, None, Reading(each, self.scorer.base, self.answers, "levels"))[..., None]

    def _levels_of(self, pieces: Iterable[Tensor]) -> Float[Tensor, "example column"]:
        """The levels of these scores [some, answer], given piece by piece."""
        assert self._each is not None, "scores alone make the number"
        found: list[Tensor] = []
        start = 0
        for scores in pieces:
            index = torch.arange(start, start + len(scores))
            found.append(self._each[0].levels(scores, self.scorer.base[index], self.answers.take(index)))
            start += len(scores)
        return torch.cat(found)[:, None]

    @cached_property
    def reported_base(self) -> float:
        """The metric's own level in the base run, as people read it."""
        return float(self.number.reported(self.base_table, self.base_table, self.answers))

    @cached_property
    def full_swap(self) -> Float[Tensor, ""]:
        """Change of the metric when every component takes the donor's value."""
        return self._finite(self.number.value(self.full_table, self.base_table, self.answers))

    @cached_property
    def swing(self) -> Tensor:
        """Effect of the full swap: the denominator of faithfulness. Raises DegenerateError where it is near 0."""
        return self.check_swing(self.full_swap)

    def change(self, pieces: Iterable[Float[Tensor, "some answer"]]) -> Float[Tensor, ""]:
        """Change of the number that these scores make."""
        table = torch.cat(list(pieces)) if self._each is None else self._levels_of(pieces)
        return self.number.value(table, self.base_table, self.answers)

    def effects(self, z: Masks, examples: Examples = None) -> Float[Tensor, "*mask example"]:
        """Raises InputError: there is no effect of each example."""
        raise InputError(
            f"{self.metric.name} is one number for the whole set, without an effect of each pair: use value"
        )

    def value_and_effects(self, z: Masks) -> tuple[Float[Tensor, "*mask"], None]:
        """Change of the metric, from its soft form (in ``keep`` mode the faithfulness); no effect of each example."""
        values = torch.cat([self._value(table) for table in self.tables(z)])
        return self._finite(values.reshape(z.shape[:-1])), None

    def reported(self, z: Masks) -> Float[Tensor, "*mask"]:
        """The metric's own level, as people read it."""
        levels = [self.number.reported(table, self.base_table, self.answers) for table in self.tables(z)]
        return torch.cat(levels).reshape(z.shape[:-1])

    @property
    def strata(self) -> list[int]:
        """The kind of each pair, as many of which every resample must hold."""
        found: list[int] = self.metric.strata(self.answers).tolist()
        return found

    def redrawn(self, z: Masks, counts: Iterable[Any]) -> Float[Tensor, "mask draw"]:
        """The value with each example counting as often as each row [draw, example] of these blocks says; not a number
        where it has none (a group that is not drawn). The pairs are scored only once."""
        table = torch.cat(list(self.tables(z)))
        return torch.cat([self.drawn(table, self.answers.drawn(block)) for block in counts], -1)

    def drawn(self, table: Float[Tensor, "*mask example column"], answers: Answers) -> Float[Tensor, "*mask draw"]:
        """The value of this table on drawn answers; in ``keep`` mode only where the full swap keeps its sign."""
        base = self.base_table
        change = self.number.value(table, base, answers)
        if self.mode == "swap":
            return change
        full = self.number.value(self.full_table, base, answers)
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
        slope = self._slope(z, objective)
        loss: BatchLoss = ScoreLoss(slope)
        if self._each is not None:
            loss = LevelLoss(self._each[0], self.scorer.base, self.answers, slope[:, 0])
        total = self.scorer.slope(z, loss, some)
        if not bool(torch.isfinite(total).all()):
            raise NonFiniteError(f"the gradient of {self.metric.name} is not finite; try dtype='float32'")
        return total / self.share(some)

    def input_gradient(self, share: float, examples: Examples = None) -> Float[Tensor, "n"]:
        """Raises InputError: there is no effect of each example to have a gradient of."""
        raise InputError(
            f"{self.metric.name} is one number for the whole set: interpolated inputs need effects of pairs"
        )

    def _slope(self, z: Float[Tensor, "n"], objective: Loss | None) -> Float[Tensor, "example column"]:
        """Gradient with respect to the table, which is computed without one."""
        one = self.scorer.scores(z[None]) if self._each is None else self._measured(z[None], self._each[0])
        table = one[0].requires_grad_()
        value = self._value(table)[None]
        loss = (value if objective is None else objective(value)).sum()
        return torch.autograd.grad(loss, table)[0]

    def _value(self, table: Float[Tensor, "*mask example column"]) -> Float[Tensor, "*mask"]:
        change = self.number.value(table, self.base_table, self.answers)
        return change if self.mode == "swap" else (self.full_swap - change) / self.swing

    def _finite(self, value: Tensor) -> Tensor:
        if not bool(torch.isfinite(value).all()):
            raise NonFiniteError(f"the effect on {self.metric.name} is not finite: check the scores and the dtype")
        return value


TARGET = "target="


def aim(metric: AnyMetric, direction: str | None, mode: Mode) -> tuple[AnyMetric, Direction | None]:
    """The metric and direction that a search sees; ``target=0.5`` makes them nearness to 0.5, to be maximised.

    Raises InputError where the target is not a number or not one that the metric can take; UnknownName.
    """
    if direction is None:
        return metric, None
    if direction.startswith(TARGET):
        if mode == "keep":
            raise InputError("a target value is of the metric itself, and mode='keep' measures faithfulness: use swap")
        return towards(metric, _number(direction)), "maximise"
    directions: dict[str, Direction] = {"maximise": "maximise", "minimise": "minimise"}
    if direction in directions:
        return metric, directions[direction]
    raise unknown("direction", direction, ("maximise", "minimise", "target=NUMBER"))


def _number(direction: str) -> float:
    try:
        return float(direction.removeprefix(TARGET))
    except ValueError:
        raise InputError(f"direction {direction!r}: write the target as a number, as in target=0.5") from None


def target_of(metric: AnyMetric) -> float | None:
    """The level that a metric is to come near; None where it is to rise or fall."""
    return metric.target if isinstance(metric, SetMetric) else None


def part_of(scorers: Sequence[Scorer], metric: AnyMetric, mode: Mode) -> PairProblem | SetProblem:
    """The problem over a list of pairs that fits the metric; one scorer for each draw of the donors."""
    if isinstance(metric, Metric):
        return PairProblem(scorers[0], metric, mode, scorers[1:])
    if len(scorers) > 1:
        raise InputError(f"{metric.name} has no effect of each pair to average over draws of noise: use draws=1")
    return SetProblem(scorers[0], metric, mode)
