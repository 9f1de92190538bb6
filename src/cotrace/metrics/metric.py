"""Metrics: answer scores go in, effects of each example or of the whole set come out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cotrace.components import Direction
from cotrace.prompts import PromptPair
from cotrace.validation import guarded


@guarded("ct.metrics.Answers")
@dataclass(frozen=True, eq=False)
class Answers:
    """The pairs' side of a metric: nothing in it depends on the mask. An index of -1 means that the pair gives none."""

    target: Int[Tensor, "example"]
    """Index of the base prompt's own answer."""
    exists: Bool[Tensor, "example answer"]
    """False in the columns that an example with fewer answers leaves empty."""
    weight: Float[Tensor, "example"]
    """Weight of each example."""
    label: Int[Tensor, "example"]
    """Index of the gold answer."""
    favourable: Int[Tensor, "example"]
    """Index of the favourable answer."""
    group: Int[Tensor, "example"]
    """Index into ``groups``."""
    groups: tuple[str, ...] = ()
    """Names of the groups, sorted."""
    counts: Float[Tensor, "draw example"] | None = None
    """How often each example counts in each of several resamples; a number of the whole set is then one for each."""

    @classmethod
    def of(cls, pairs: Sequence[PromptPair], dtype: torch.dtype) -> Answers:
        """Build the table from prompt pairs; it has as many columns as the pair with most answers.

        Args:
            pairs: The prompt pairs.
            dtype: Number type of the weights.
        """
        columns = max(len(pair.answers) for pair in pairs)
        groups = sorted({pair.group for pair in pairs if pair.group is not None})
        return cls(
            target=torch.tensor([pair.target for pair in pairs]),
            exists=torch.tensor([[a < len(pair.answers) for a in range(columns)] for pair in pairs]),
            weight=torch.tensor([pair.weight for pair in pairs], dtype=dtype),
            label=torch.tensor([-1 if pair.label is None else pair.label for pair in pairs]),
            favourable=torch.tensor([-1 if pair.favourable is None else pair.favourable for pair in pairs]),
            group=torch.tensor([-1 if pair.group is None else groups.index(pair.group) for pair in pairs]),
            groups=tuple(groups),
        )

    def __len__(self) -> int:
        return len(self.target)

    @property
    def right(self) -> Int[Tensor, "example"]:
        """The gold answer where the pair gives one, otherwise the target."""
        return torch.where(self.label >= 0, self.label, self.target)

    def take(self, examples: Int[Tensor, "some"]) -> Answers:
        """The same for some of the examples.

        Args:
            examples: Indices of the examples.
        """
        tensors = ("target", "exists", "weight", "label", "favourable", "group")
        some = copy(self)  # whose fields were checked
        vars(some).update({name: getattr(self, name)[examples] for name in tensors})
        return some

    def drawn(self, counts: Any) -> Answers:
        """The same with each example counting as often as each row [draw, example] says.

        Args:
            counts: Rows [draw, example].
        """
        return replace(self, counts=torch.as_tensor(counts, dtype=self.weight.dtype).reshape(-1, len(self)))

    def means(
        self, values: Float[Tensor, "*mask example"], weight: Float[Tensor, "group example"]
    ) -> Float[Tensor, "*set group"]:
        """Weighted mean of the values in each group, of each mask (and draw); not a number where a draw has none.

        Args:
            values: One number for each example, under each mask.
            weight: Weight of each example in each group.
        """
        if self.counts is None:
            return (values[..., None, :] * weight).sum(-1) / weight.sum(-1)
        return ((values[..., None, :] * weight) @ self.counts.mT).mT / (self.counts @ weight.mT)


def score_of(
    scores: Float[Tensor, "*mask example answer"], index: Int[Tensor, "example"]
) -> Float[Tensor, "*mask example"]:
    """log p(answer) of one answer of each example."""
    return scores.gather(-1, index.expand(scores.shape[:-1])[..., None]).squeeze(-1)


def other_score(scores: Float[Tensor, "*mask example answer"], answers: Answers) -> Float[Tensor, "*mask example"]:
    """log sum of p(others); 0, that is a numerator of 1, where an example has one answer."""
    others = other_answers(answers)
    alone = ~others.any(-1)
    masked = scores.masked_fill(~others, -torch.inf)
    summed = torch.logsumexp(masked.masked_fill(alone[:, None], 0.0), -1)
    return torch.where(alone, torch.zeros_like(summed), summed)


def other_answers(answers: Answers) -> Bool[Tensor, "example answer"]:
    """Which answers are there and are not the target."""
    return answers.exists & (torch.arange(answers.exists.shape[1]) != answers.target[:, None])


def log_odds(scores: Float[Tensor, "*mask example answer"], answers: Answers) -> Float[Tensor, "*mask example"]:
    """log o = log sum p(others) - log p(target); any real number."""
    return other_score(scores, answers) - score_of(scores, answers.target)


def log_share(
    scores: Float[Tensor, "*mask example answer"], answers: Answers, index: Int[Tensor, "example"]
) -> Float[Tensor, "*mask example"]:
    """log of p(one answer) / sum of p(all answers): the soft form of choosing it."""
    total = torch.logsumexp(scores.masked_fill(~answers.exists, -torch.inf), -1)
    return score_of(scores, index) - total


def chosen(scores: Float[Tensor, "*mask example answer"], answers: Answers) -> Int[Tensor, "*mask example"]:
    """Index of the answer with the largest score, the first of equal ones."""
    return scores.masked_fill(~answers.exists, -torch.inf).argmax(-1)


Scores = Float[Tensor, "*mask example answer"]
"""log p(answer | prompt); where a metric reads ``logits``: the logits at the last prompt position, over tokens."""
Reads = Literal["answers", "logits"]
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


@guarded("ct.metrics.Metric")
@dataclass(frozen=True, kw_only=True)
class Metric:
    """A level of each example, and how its change against the base run is expressed.

    Its functions take ``scores`` (of answers, or logits) under the masks, ``base``: the same of the base run, and
    ``answers``: targets, labels, groups and weights of the examples.
    """

    name: str
    """Name of the metric."""
    formula: str
    """The effect, in words that go into tables and reports."""
    lower: float = -torch.inf
    """Smallest effect."""
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
    """Smallest and largest level."""
    reads: Reads = "answers"
    """``answers``: scores of answers; ``logits``: logits after the prompt."""
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


@guarded("ct.metrics.SetMetric")
@dataclass(frozen=True, kw_only=True)
class SetMetric:
    """One number for the whole set of pairs: there is no effect of each example. Its functions take what Metric's do:
    ``scores``, ``base`` and ``answers``.
    """

    name: str
    """Name of the metric."""
    formula: str
    """The number, in words that go into tables and reports."""
    lower: float = -torch.inf
    """Smallest effect."""
    upper: float = torch.inf
    """Range of the effect."""
    soft_level: Aggregate
    """The number that searches see: differentiable in the scores."""
    reported: Aggregate
    """The number that people read."""
    level_range: tuple[float, float] = REAL
    """Smallest and largest level."""
    reads: Reads = "answers"
    """``answers``: scores of answers; ``logits``: logits after the prompt."""
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
