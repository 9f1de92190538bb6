"""Problems made of scored pairs: what is common to all metrics, and those with an effect of each pair."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from cotrace.components import ComponentSpace
from cotrace.errors import DegenerateError, InputError, NonFiniteError
from cotrace.metrics import Answers, Metric, SetMetric
from cotrace.metrics.metric import weighted_mean
from cotrace.problem.input_path import InputPath
from cotrace.problem.losses import ChangeLoss, Linear, Objective, taken
from cotrace.problem.protocol import Cost, Examples, Loss, Mode
from cotrace.problem.scorer import Scorer
from cotrace.validation import check_kind

TABLE_NUMBERS = 1 << 27
"""Most numbers in one table of scores: 512 MiB in float32. Only tables of logits come near it."""
PIECE_NUMBERS = 1 << 22
"""Most numbers of a table that are looked at together: what is made of them takes several times their room."""
ROUNDINGS, ULPS = 8, 16
"""Times the base scores are rounded anew, and by how many units in the last place of the model's type."""
SMALLEST_SWING = 1e-6
"""Below this effect of the full swap, faithfulness has no denominator."""


def piece_rows(base: Tensor) -> int:
    """Rows of a table of scores that are looked at together."""
    return max(1, PIECE_NUMBERS // base.shape[1])


def rounding(base: Tensor, kind: torch.dtype, change: Callable[[Iterable[Tensor]], Tensor]) -> float:
    """The largest of some changes that these scores make when each is off by as much as rounding in a type may be."""
    draw = torch.Generator().manual_seed(0)

    def noisy(rows: Tensor) -> Tensor:
        unit = ULPS * torch.finfo(kind).eps * rows.abs().clamp(min=1)
        return rows + unit * (2 * torch.rand(rows.shape, generator=draw, dtype=rows.dtype) - 1)

    pieces = torch.split(base, piece_rows(base))
    return max(abs(change(map(noisy, pieces)).item()) for _ in range(ROUNDINGS))


Read = Literal["effects", "levels", "reported_levels"]
"""Readings of scores by a metric, by the name of its method."""


@dataclass(frozen=True, eq=False)
class Reading:
    """Changes of a metric from the base run, or its levels: a measure that travels with its batch."""

    metric: Metric
    base: Float[Tensor, "example answer"]
    answers: Answers
    what: Read

    def __call__(self, scores: Tensor, few: Sequence[int], /) -> Float[Tensor, "*mask some"]:
        base, answers = taken(self.base, self.answers, few)
        found: Tensor = getattr(self.metric, self.what)(scores, base, answers)
        return found

    def among(self, examples: Sequence[int]) -> Reading:
        """Return the loss of these examples alone."""
        index = torch.tensor(list(examples))
        return Reading(self.metric, self.base[index], self.answers.take(index), self.what)


M = TypeVar("M", Metric, SetMetric)
Masks = Float[Tensor, "*mask n"]


class ScoredPairs(Generic[M]):
    """Base of problems of both kinds of metric. Raises InputError where the pairs lack what the metric needs.

    Masks come as tensors of the problem's type: ``LanguageProblem`` has checked them.
    """

    draws: Sequence[PairProblem] = ()
    """The same pairs with other draws of the donors."""

    def __init__(self, scorer: Scorer, metric: M, mode: Mode) -> None:
        self.scorer, self.mode, self.size = scorer, mode, len(scorer.pairs)
        self.metric: M = metric
        self.dtype = scorer.model.compute_dtype
        self.answers = Answers.of([encoded.pair for encoded in scorer.pairs], self.dtype)
        self.use_cost(Cost())
        if not bool(self.answers.weight.sum() > 0):
            raise InputError("the weights of the pairs add up to 0: give at least one pair a weight above 0")
        try:
            metric.check(self.answers)
        except InputError as error:
            raise InputError(f"metric {metric.name}, {self.size} pairs of this part of the data: {error}") from None

    def use_cost(self, cost: Cost, unit: float = 1.0) -> None:
        """Count there; one mask on all pairs of this part is ``unit``."""
        self.cost, self.unit = cost, unit

    def charge(self, amount: float, some: Sequence[int] | None = None) -> None:
        """Count so many masks on all pairs of this part, or on some of them."""
        self.cost.forward_equivalents += self.unit * (self.share(some) * amount if some is not None else amount)

    @property
    def space(self) -> ComponentSpace:
        return self.scorer.space

    @property
    def ids(self) -> list[str]:
        """Ids of the pairs, in file order."""
        return [encoded.pair.id for encoded in self.scorer.pairs]

    @property
    def weights(self) -> Float[Tensor, "example"]:
        """How much each pair counts in the aggregate."""
        return self.answers.weight

    @property
    def strata(self) -> list[int] | None:
        """The kind of each pair, as many of which every resample must hold; None where they are all of one."""
        return None

    @cached_property
    def full_scores(self) -> Float[Tensor, "example answer"]:
        """Scores under the full swap. Not counted as search cost: it is part of the question."""
        return self.scorer.scores(torch.ones(1, len(self.space), dtype=self.dtype))[0]

    @cached_property
    def rounding(self) -> float:
        """Largest aggregate effect that rounding alone can make, by the type of the activations.

        The largest of some changes that scores make when each is off by up to 16 units in the last place, as different
        matrix products leave them; metrics of the user's own are asked as all others are.
        """
        return rounding(self.scorer.base, self.scorer.model.rounding_dtype, self.change)

    def change(self, pieces: Iterable[Float[Tensor, "some answer"]]) -> Float[Tensor, ""]:
        """The aggregate change of the metric that scores, given piece by piece, make against the base run."""
        raise NotImplementedError

    @cached_property
    def reported_base(self) -> float:
        """The metric's own level in the base run, as people read it."""
        return float(self.metric.reported(self.scorer.base, self.scorer.base, self.answers))

    def check_swing(self, swing: Tensor) -> Tensor:
        """The denominator of faithfulness. Raises DegenerateError where it is near 0, or within rounding."""
        if abs(swing.item()) <= max(SMALLEST_SWING, self.rounding):
            raise DegenerateError(
                f"swapping everything moves {self.metric.name} by {swing.item():.2g} on average, which rounding alone "
                "may do: there is no difference between base and donor run to restore; use mode='swap', or pairs that "
                "differ"
            )
        return swing

    def scores(self, z: Masks, examples: Examples = None) -> Float[Tensor, "*mask example answer"]:
        """Scores that the metric reads, under one mask or several. Counts as an evaluation."""
        some = self.some(examples)
        found: Tensor = torch.cat([self.scorer.scores(rows, some) for rows in self.chunks(z, some)])
        return found.reshape((*z.shape[:-1], *found.shape[1:]))

    def chunks(self, z: Masks, some: Sequence[int] | None = None) -> Sequence[Float[Tensor, "some n"]]:
        """The masks, as many at a time as their scores fit in memory. Counts their evaluation."""
        rows = z.reshape(-1, z.shape[-1])
        self.charge(len(rows), some)
        return torch.split(rows, max(1, TABLE_NUMBERS // self.scorer.base.numel()))

    def some(self, examples: Examples) -> list[int] | None:
        """Examples as a list. Raises InputError."""
        if examples is None:
            return None
        check_kind("examples", "the list", examples, Sequence[int])
        some = [int(example) for example in examples]
        if not some or min(some) < 0 or max(some) >= self.size or len(set(some)) != len(some):
            raise InputError(f"examples must be different indices from 0 to {self.size - 1}, at least one")
        return some

    def share(self, some: Sequence[int] | None) -> float:
        """How much of all pairs these are."""
        return 1.0 if some is None else len(some) / self.size


class PairProblem(ScoredPairs[Metric]):
    """Effects, values and gradients on one list of pairs, and their count.

    Several scorers are several draws of the donors: changes of the metric are averaged over them, activations never
    are; faithfulness is a ratio of such averages.
    """

    def __init__(self, scorer: Scorer, metric: Metric, mode: Mode, draws: Sequence[Scorer] = ()) -> None:
        self.draws = [PairProblem(draw, metric, "swap") for draw in draws]
        super().__init__(scorer, metric, mode)

    def use_cost(self, cost: Cost, unit: float = 1.0) -> None:
        """Count there, and the draws too."""
        super().use_cost(cost, unit)
        for draw in self.draws:
            draw.use_cost(cost, unit)

    @cached_property
    def base_levels(self) -> Float[Tensor, "example"]:
        """The metric's level in the base run."""
        return self._of_base("levels")

    @cached_property
    def base_reported(self) -> Float[Tensor, "example"]:
        """The same as people read it."""
        return self._of_base("reported_levels")

    @cached_property
    def reported_base(self) -> float:
        """The metric's own level in the base run, as people read it."""
        return float(weighted_mean(self.base_reported, self.answers))

    def _of_base(self, what: Read) -> Float[Tensor, "example"]:
        """Read the base run, some examples at a time."""
        base = self.scorer.base
        measure = Reading(self.metric, base, self.answers, what)
        pieces = torch.split(torch.arange(len(base)), piece_rows(base))
        return torch.cat([measure(base[piece], piece.tolist()) for piece in pieces])

    @cached_property
    def full_swap(self) -> Float[Tensor, "example"]:
        """Per-example change of the metric when every component takes the donor's value."""
        own = self._finite(self._of_full("effects"), None)
        return self._averaged([own, *(draw.full_swap for draw in self.draws)])

    @cached_property
    def full_levels(self) -> Float[Tensor, "example"]:
        """The metric's level when every component takes the donor's value."""
        return self._averaged([self._of_full("levels"), *(draw.full_levels for draw in self.draws)])

    @cached_property
    def full_reported(self) -> Float[Tensor, ""]:
        """The same as people read it, its weighted mean over the pairs."""
        own = weighted_mean(self._of_full("reported_levels"), self.answers)
        return self._averaged([own, *(draw.full_reported for draw in self.draws)])

    def _of_full(self, what: Read) -> Float[Tensor, "example"]:
        """Read the full swap. Not counted as search cost: it is part of the question."""
        measure = Reading(self.metric, self.scorer.base, self.answers, what)
        if self.metric.reads == "answers":
            return measure(self.full_scores, range(self.size))
        ones = torch.ones(1, len(self.space), dtype=self.dtype)
        return self.scorer.scores(ones, None, measure)[0]

    @cached_property
    def swing(self) -> Tensor:
        """Mean effect of the full swap: the denominator of faithfulness. Raises DegenerateError where it is near 0."""
        return self.check_swing(self._mean(self.full_swap))

    def change(self, pieces: Iterable[Float[Tensor, "some answer"]]) -> Float[Tensor, ""]:
        """The weighted mean effect of these scores."""
        found: list[Tensor] = []
        start, measure = 0, Reading(self.metric, self.scorer.base, self.answers, "effects")
        for scores in pieces:
            found.append(measure(scores, range(start, start + len(scores))))
            start += len(scores)
        return self._mean(torch.cat(found))

    def effects(self, z: Masks, examples: Examples = None) -> Float[Tensor, "*mask example"]:
        """Per-example effect of one mask or several. In ``keep`` mode their mean is the faithfulness."""
        some = self.some(examples)
        changes = self._averaged([part.read(z, some, "effects") for part in (self, *self.draws)])
        if self.mode == "swap":
            return changes
        full = self.full_swap if some is None else self.full_swap[some]
        return (full - changes) / self.swing

    @staticmethod
    def _averaged(draws: Sequence[Tensor]) -> Tensor:
        return draws[0] if len(draws) == 1 else torch.stack(list(draws)).mean(0)

    def value_and_effects(self, z: Masks) -> tuple[Float[Tensor, "*mask"], Float[Tensor, "*mask example"]]:
        """The aggregate that searches see, the weighted mean of the effects, and these, from one evaluation."""
        effects = self.effects(z)
        return self._mean(effects), effects

    def reported(self, z: Masks) -> Float[Tensor, "*mask"]:
        """The metric's own level, as people read it: its weighted mean over the pairs."""
        levels = [part.read(z, None, "reported_levels") for part in (self, *self.draws)]
        return self._averaged([weighted_mean(own, self.answers) for own in levels])

    def reported_levels(self, z: Masks) -> Float[Tensor, "*mask example"]:
        """The same of each pair."""
        return self._averaged([part.read(z, None, "reported_levels") for part in (self, *self.draws)])

    def read(self, z: Masks, some: Sequence[int] | None, what: Read) -> Float[Tensor, "*mask example"]:
        """Read each example of this draw: logits batch by batch, for which no table would have room."""
        measure = Reading(self.metric, self.scorer.base, self.answers, what)
        if self.metric.reads == "answers":
            index = range(self.size) if some is None else some
            found = torch.cat([measure(self.scorer.scores(rows, some), index) for rows in self.chunks(z, some)])
        else:
            rows = z.reshape(-1, z.shape[-1])
            self.charge(len(rows), some)
            found = self.scorer.scores(rows, some, measure)
        found = found.reshape((*z.shape[:-1], found.shape[-1]))
        return self._finite(found, some) if what == "effects" else found

    def gradient(
        self, z: Float[Tensor, "n"], objective: Loss | None = None, examples: Examples = None
    ) -> Float[Tensor, "n"]:
        """Exact gradient of the mean of ``objective(effects)``, or of the mean effect where None.

        Over some ``examples``: their part in it, scaled by size / count, so that the mean over equal batches is exact.
        """
        some = self.some(examples)
        if self.draws and objective is not None:
            return self._averaged_slope(z, objective, some)
        loss = self._objective(objective, some)
        return self._averaged([part.slope(z, loss, some) for part in (self, *self.draws)])

    @cached_property
    def input_path(self) -> InputPath:
        """Return the input path from base to donor prompt. Raises InputError where no donor prompt is aligned."""
        return InputPath.of(self.scorer)

    def input_gradient(self, share: float, examples: Examples = None) -> Float[Tensor, "n"]:
        """Gradient of the mean effect along donor minus base activations, with inputs so much the donor's (EAP-IG)."""
        some = self.some(examples)
        self.charge(2, some)
        loss = ChangeLoss(self.metric, self.scorer.base, self.answers, self._objective(None, some))
        return self.input_path.slope(share, loss, some)

    def _averaged_slope(self, z: Tensor, objective: Loss, some: list[int] | None) -> Float[Tensor, "n"]:
        """Gradient by the chain rule: the objective is of averaged changes. A gradient costs 3 for each draw."""
        index = list(range(self.size)) if some is None else some
        changes = self._averaged([part.read(z, some, "effects") for part in (self, *self.draws)]).requires_grad_()
        (slope,) = torch.autograd.grad(self._objective(objective, some)(changes, index), changes)
        loss = Linear(slope.new_zeros(self.size).index_copy(0, torch.tensor(index), slope))
        return self._averaged([part.slope(z, loss, some) for part in (self, *self.draws)])

    def slope(self, z: Tensor, loss: Objective | Linear, some: list[int] | None) -> Float[Tensor, "n"]:
        """Gradient of a sum over batches of a loss of this draw's changes."""
        self.charge(2, some)
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
