"""Losses and measures of batches, as data that can be run anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from cotrace.metrics import Answers, Metric
    from cotrace.problem.protocol import Loss


@runtime_checkable
class BatchLoss(Protocol):
    """A loss that is a sum over batches."""

    def __call__(self, scores: Tensor, few: Sequence[int], /) -> Tensor:
        """The part of these examples, from their scores [example, answer]."""

    def among(self, examples: Sequence[int]) -> BatchLoss:
        """The same of these examples alone, which are numbered from 0 in that order; nothing of others is in it."""


@runtime_checkable
class Measure(Protocol):
    """A function of each example's scores."""

    def __call__(self, scores: Tensor, few: Sequence[int], /) -> Tensor:
        """Return the loss of these examples, [..., example] from scores [..., example, answer]."""

    def among(self, examples: Sequence[int]) -> Measure:
        """The same of these examples alone, which are numbered from 0 in that order; nothing of others is in it."""


def taken(
    base: Float[Tensor, "example answer"], answers: Answers, few: Sequence[int]
) -> tuple[Float[Tensor, "some answer"], Answers]:
    """Base scores and answers of these examples; as they are where these are all, in order."""
    index = list(few)
    return (base, answers) if index == list(range(len(base))) else (base[index], answers.take(torch.tensor(index)))


@dataclass(frozen=True, eq=False)
class SumLoss:
    """The sum of all scores: what a gradient costs can be seen on it."""

    def __call__(self, scores: Tensor, few: Sequence[int], /) -> Tensor:
        return scores.sum()

    def among(self, examples: Sequence[int]) -> SumLoss:
        """The same."""
        return self


@dataclass(frozen=True, eq=False)
class ScoreLoss:
    """Scores, each times a number of its own."""

    slope: Float[Tensor, "example answer"]

    def __call__(self, scores: Tensor, few: Sequence[int], /) -> Tensor:
        return (scores * self.slope[list(few)]).sum()

    def among(self, examples: Sequence[int]) -> ScoreLoss:
        """Return the loss of these examples alone."""
        return ScoreLoss(self.slope[list(examples)])


@dataclass(frozen=True, eq=False)
class LevelLoss:
    """Levels of a metric, each times a number of its own."""

    metric: Metric
    base: Float[Tensor, "example answer"]
    answers: Answers
    slope: Float[Tensor, "example"]

    def __call__(self, scores: Tensor, few: Sequence[int], /) -> Tensor:
        levels = self.metric.levels(scores, *taken(self.base, self.answers, few))
        return (levels * self.slope[list(few)]).sum()

    def among(self, examples: Sequence[int]) -> LevelLoss:
        """Return the loss of these examples alone."""
        index = torch.tensor(list(examples))
        return LevelLoss(self.metric, self.base[index], self.answers.take(index), self.slope[index])


@dataclass(frozen=True, eq=False)
class Objective:
    """The part of some examples in the weighted mean of an objective of their effects."""

    objective: Loss | None
    """Objective; None for the effect itself."""
    weight: Float[Tensor, "example"]
    total: Tensor
    """Divisor of the sum over examples."""
    full: Float[Tensor, "example"] | None = None
    swing: Tensor | None = None
    """Changes of the full swap and their mean, in ``keep`` mode: the effect is the faithfulness."""

    def __call__(self, changes: Float[Tensor, "some"], few: Sequence[int], /) -> Float[Tensor, ""]:
        effects = changes
        if self.full is not None and self.swing is not None:
            effects = (self.full[list(few)] - changes) / self.swing
        losses = effects if self.objective is None else self.objective(effects)
        return (losses * self.weight[list(few)]).sum() / self.total

    def among(self, examples: Sequence[int]) -> Objective:
        """Return the loss of these examples alone."""
        some = list(examples)
        full = None if self.full is None else self.full[some]
        return Objective(self.objective, self.weight[some], self.total, full, self.swing)


@dataclass(frozen=True, eq=False)
class Linear:
    """Changes, each times a number of its own."""

    slope: Float[Tensor, "example"]

    def __call__(self, changes: Float[Tensor, "some"], few: Sequence[int], /) -> Float[Tensor, ""]:
        return (changes * self.slope[list(few)]).sum()

    def among(self, examples: Sequence[int]) -> Linear:
        """Return the loss of these examples alone."""
        return Linear(self.slope[list(examples)])


@dataclass(frozen=True, eq=False)
class ChangeLoss:
    """A loss of the changes of a metric from the base run."""

    metric: Metric
    base: Float[Tensor, "example answer"]
    answers: Answers
    of_changes: Objective | Linear

    def __call__(self, scores: Tensor, few: Sequence[int], /) -> Float[Tensor, ""]:
        changes = self.metric.effects(scores, *taken(self.base, self.answers, few))
        return self.of_changes(changes, few)

    def among(self, examples: Sequence[int]) -> ChangeLoss:
        """Return the loss of these examples alone."""
        index = torch.tensor(list(examples))
        return ChangeLoss(self.metric, self.base[index], self.answers.take(index), self.of_changes.among(examples))
