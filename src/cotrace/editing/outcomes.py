"""From score tables before and after an edit to outcomes with intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from cotrace.editing.scored import ScoredTask
from cotrace.errors import InputError
from cotrace.metrics import METRICS, AnyMetric, Metric, metric_named
from cotrace.metrics.answers import Answers
from cotrace.results.outcomes import Outcome
from cotrace.statistics import Interval, Units, mean_intervals, set_interval

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
    """Of the value before, after, and of the change."""
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
