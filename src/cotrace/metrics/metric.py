"""The two kinds of metric: of each example, and of the whole set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cotrace.metrics.answers import Answers

Scores = Float[Tensor, "*mask example answer"]
"""log p(answer | prompt); where a metric reads ``logits``: the logits at the last prompt position, over tokens."""
Reads = Literal["answers", "logits"]
Direction = Literal["maximise", "minimise"]
Level = Callable[[Tensor, Answers], Tensor]
Change = Callable[[Tensor, Tensor], Tensor]
Aggregate = Callable[[Tensor, Tensor, Answers], Tensor]
"""(scores under the masks, scores of the base run, answers) -> one number for each mask."""
Check = Callable[[Answers], None]
REAL = (-torch.inf, torch.inf)


def anything(answers: Answers) -> None:
    """A check that every data set passes."""


def alike(answers: Answers) -> Int[Tensor, "example"]:
    """One kind of all examples."""
    return torch.zeros_like(answers.group)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A level of each example, and how its change against the base run is expressed."""

    name: str
    formula: str
    """The effect, in words that go into tables and reports."""
    lower: float = -torch.inf
    upper: float = torch.inf
    """Range of the effect."""
    inner: Level
    """The quantity that is compared, in a form that is exact to subtract (log-odds for odds)."""
    change: Change = torch.sub
    """(inner under the mask, inner of the base run) -> effect."""
    level: Change = lambda inner, base: inner
    """(inner under the mask, inner of the base run) -> the level that people read."""
    hard: Level | None = None
    """The level that is reported where ``level`` is a soft surrogate that searches can follow."""
    level_range: tuple[float, float] = REAL
    reads: Reads = "answers"
    check: Check = anything
    """Raises InputError where the pairs lack what the metric needs."""

    def effects(self, scores: Scores, base: Float[Tensor, "example answer"], answers: Answers) -> Tensor:
        """Per-example effect [*mask, example] of scores against the base run's."""
        return self.change(self.inner(scores, answers), self.inner(base, answers))

    def levels(self, scores: Scores, base: Float[Tensor, "example answer"], answers: Answers) -> Tensor:
        """Per-example level [*mask, example], as searches see it."""
        return self.level(self.inner(scores, answers), self.inner(base, answers))

    def reported_levels(self, scores: Scores, base: Float[Tensor, "example answer"], answers: Answers) -> Tensor:
        """Per-example level [*mask, example], as people read it."""
        return self.levels(scores, base, answers) if self.hard is None else self.hard(scores, answers)

    def soft_level(self, scores: Scores, base: Float[Tensor, "example answer"], answers: Answers) -> Tensor:
        """Weighted mean level [*mask], as searches see it."""
        return weighted_mean(self.levels(scores, base, answers), answers)

    def reported(self, scores: Scores, base: Float[Tensor, "example answer"], answers: Answers) -> Tensor:
        """Weighted mean level [*mask], as people read it."""
        return weighted_mean(self.reported_levels(scores, base, answers), answers)

    @property
    def surrogate(self) -> bool:
        """Whether searches see another quantity than the one that is reported."""
        return self.hard is not None


@dataclass(frozen=True, kw_only=True)
class SetMetric:
    """One number for the whole set of pairs: there is no effect of each example."""

    name: str
    formula: str
    lower: float = -torch.inf
    upper: float = torch.inf
    """Range of the effect."""
    soft_level: Aggregate
    """The number that searches see: differentiable in the scores."""
    reported: Aggregate
    """The number that people read."""
    level_range: tuple[float, float] = REAL
    reads: Reads = "answers"
    check: Check = anything
    """Raises InputError where the pairs lack what the metric needs."""
    rates: Level | None = None
    """The share of each example that the number is made of, hard, for tables by group."""
    direction: Direction | None = None
    """The way that is wanted unless told otherwise; None: the way of the full swap."""
    target: float | None = None
    """The value of ``reported`` that is aimed at, where effects say how much nearer to it a mask comes."""
    strata: Callable[[Answers], Tensor] = alike
    """The kind of each example, as many of which every resample must hold."""
    of_levels: SetMetric | None = None
    """The same number, made of a table with one column: the levels of ``each``. None where scores alone make it."""
    each: Metric | None = None
    """The metric of each example whose levels those are."""

    surrogate = True

    def value(self, scores: Scores, base: Float[Tensor, "example answer"], answers: Answers) -> Tensor:
        """Effect [*mask] of scores against the base run's: the change of the level."""
        return self.soft_level(scores, base, answers) - self.soft_level(base, base, answers)


AnyMetric = Metric | SetMetric


def weighted_mean(levels: Float[Tensor, "*mask example"], answers: Answers) -> Float[Tensor, "*set"]:
    """Mean over examples by their weight; of each resample, where the answers are drawn."""
    return answers.means(levels, answers.weight[None])[..., 0]
