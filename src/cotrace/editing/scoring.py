"""A model's scores on the parts of a task before and after an edit, and the outcomes made of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cotrace.batches import answer_layouts, encode_task
from cotrace.errors import InputError, NonFiniteError
from cotrace.interventions.forward import answer_lengths, answer_scores, forward
from cotrace.metrics import METRICS, Answers, AnyMetric, Metric, metric_named
from cotrace.models import LanguageModel
from cotrace.problem import LanguageProblem
from cotrace.problem.passes import choose_packing
from cotrace.prompts import Task
from cotrace.prompts.task import groups, split
from cotrace.results.outcomes import Outcome
from cotrace.statistics import Interval, Units, mean_intervals, set_interval


@dataclass(frozen=True)
class Parts:
    """Which pairs of the task a search saw, and which are held out."""

    training: Collection[str]
    heldout: Collection[str]
    clusters: Mapping[str, str] = field(default_factory=dict)
    """Id -> what the pair stays together with; where there is none, its ``split_group``."""

    @classmethod
    def of(cls, task: Task, holdout: float, seed: int) -> Parts:
        """The split that a problem on the whole task makes, where it refuses no pair and no other option is given."""
        train, held = split(task.pairs, holdout, seed)
        ids = [pair.id for pair in task.pairs]
        return cls({ids[i] for i in train}, {ids[i] for i in held or train})

    @classmethod
    def of_problem(cls, problem: LanguageProblem) -> Parts:
        """The problem's own parts: without refused and audit pairs, split by the field that it was split by."""
        training = problem.training.ids
        heldout = training if problem.heldout is None else problem.heldout.ids
        ids = [*training, *heldout]
        return cls(set(training), set(heldout), dict(zip(ids, problem.groups_of(ids), strict=True)))

    @classmethod
    def settled(cls, given: Parts | LanguageProblem | None, task: Task, holdout: float, seed: int) -> Parts:
        """Return the parts given, those of the problem given, or the split of the whole task."""
        if given is None:
            return cls.of(task, holdout, seed)
        return given if isinstance(given, Parts) else cls.of_problem(given)

    def reference(self, task: Task) -> Task:
        """The task with the pairs that the search saw."""
        return replace(task, pairs=tuple(pair for pair in task.pairs if pair.id in self.training))


class ScoredTask:
    """A task's pairs laid out once, to be scored as often as asked; ``ids`` takes some of them, in file order.

    ``clusters`` says what each id stays together with, where it is not the pair's ``split_group``.
    """

    def __init__(
        self,
        model: LanguageModel,
        task: Task,
        ids: Collection[str] | None = None,
        batch_tokens: int | None = None,
        clusters: Mapping[str, str] | None = None,
    ) -> None:
        encoding = encode_task(
            task, model.require_tokenizer(), paired=False, align="exact", most_tokens=model.most_tokens
        )
        self.pairs = [pair for pair in encoding.pairs if ids is None or pair.pair.id in ids]
        if not self.pairs:
            raise InputError(f"task {task.name}: none of these pairs can be scored")
        self.task, self.model, self._clusters = task, model, clusters or {}
        self.answers = Answers.of([encoded.pair for encoded in self.pairs], model.compute_dtype)
        self._packing = choose_packing(model, self.pairs, batch_tokens)
        self._layouts = answer_layouts(self.pairs, range(len(self.pairs)), self._packing)

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def clusters(self) -> list[str]:
        """Return the group of each pair, which a split keeps together and intervals resample."""
        own = groups([encoded.pair for encoded in self.pairs])
        return [self._clusters.get(pair.pair.id, label) for pair, label in zip(self.pairs, own, strict=True)]

    @property
    def ids(self) -> list[str]:
        """Ids of the pairs, in file order."""
        return [encoded.pair.id for encoded in self.pairs]

    @torch.no_grad()
    def scores(self, model: LanguageModel | None = None) -> Float[Tensor, "example answer"]:
        """log p(answer | prompt) of every answer, now; by another model of the same tokenizer where given.

        Raises NonFiniteError naming the pair."""
        model = model or self.model
        lengths = answer_lengths(self.pairs)
        table = torch.zeros(lengths.shape, dtype=model.compute_dtype)
        for layout in (layout for whole in self._layouts for layout in whole.passes):
            logits = forward(model, layout, []).to(model.compute_dtype)
            table[list(layout.examples)] += answer_scores(logits, layout)[0]
        bad = ~torch.isfinite(table).all(-1)
        if bool(bad.any()):
            pair = self.pairs[int(bad.nonzero()[0])].pair
            raise NonFiniteError(f"pair {pair.id}: a score is not finite; try dtype='float32' or a milder edit")
        return table / lengths if self.task.score == "mean" else table


Table = Float[Tensor, "example answer"]


def outcome(
    metric: AnyMetric, part: ScoredTask, before: Table, after: Table, *, soft: bool = False, intervals: bool = True
) -> Outcome:
    """One metric before and after; ``soft`` takes the form that searches follow where the reported one is hard."""
    name = f"{metric.name} (soft)" if soft and metric.surrogate else metric.name
    levels = [level(metric, part, before, table, soft=soft) for table in (before, after)]
    found = _intervals(metric, part, before, after, soft) if intervals else (None, None, None)
    return Outcome(
        task=part.task.name,
        metric=name,
        pairs=len(part),
        before=levels[0],
        after=levels[1],
        before_interval=found[0],
        after_interval=found[1],
        change_interval=found[2],
    )


def level(metric: AnyMetric, part: ScoredTask, before: Table, after: Table, *, soft: bool = False) -> float:
    """The metric's number after an edit."""
    return float(_level(metric, after, before, part.answers, soft))


def _level(metric: AnyMetric, table: Table, before: Table, answers: Answers, soft: bool) -> Tensor:
    return metric.soft_level(table, before, answers) if soft else metric.reported(table, before, answers)


def _intervals(
    metric: AnyMetric, part: ScoredTask, before: Table, after: Table, soft: bool
) -> tuple[Interval | None, Interval | None, Interval | None]:
    """Return the intervals of the value before, after, and of the change."""
    weight = part.answers.weight.double().numpy()
    if isinstance(metric, Metric):
        form = metric.levels if soft else metric.reported_levels
        one, two = (form(table, before, part.answers).double().numpy() for table in (before, after))
        found = mean_intervals(np.stack([one, two, two - one]), Units.made(len(part), weight, part.clusters))
        return found[0], found[1], found[2]
    units = Units.made(len(part), weight, part.clusters, metric.strata(part.answers).tolist())

    def value(table: Table, counts: object) -> Tensor:
        return _level(metric, table, before, part.answers.drawn(counts), soft)

    return (
        set_interval(lambda counts: value(before, counts), units),
        set_interval(lambda counts: value(after, counts), units),
        set_interval(lambda counts: value(after, counts) - value(before, counts), units),
    )


def other_metrics(part: ScoredTask, besides: Sequence[str]) -> Iterator[AnyMetric]:
    """Every metric of answer scores that the task's pairs have all they need for."""
    for name, metric in METRICS.items():
        if name in besides or metric.reads != "answers":
            continue
        try:
            metric.check(part.answers)
        except InputError:
            continue
        yield metric


def all_outcomes(traced: str | AnyMetric, part: ScoredTask, before: Table, after: Table) -> list[Outcome]:
    """The traced metric first (its soft form too where it has one), then the task's other metrics."""
    metric = metric_named(traced)
    found = [outcome(metric, part, before, after)]
    if metric.surrogate:
        found.append(outcome(metric, part, before, after, soft=True))
    return found + [outcome(other, part, before, after) for other in other_metrics(part, [metric.name])]
