"""What an edit cost: every metric of its task, the loss on a neutral text and other tasks, before and after."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from torch import Tensor

from cotrace.donors import DonorSource
from cotrace.editing.apply import apply
from cotrace.editing.outcomes import all_outcomes, outcome
from cotrace.editing.scored import ScoredTask
from cotrace.editing.sides import Side
from cotrace.editing.tradeoff import Parts
from cotrace.metrics import AnyMetric, metric_named
from cotrace.models import LanguageModel
from cotrace.problem import LanguageProblem
from cotrace.prompts import Task
from cotrace.results import Selection
from cotrace.results.outcomes import Outcome


def measure_edit(
    model: LanguageModel,
    task: Task,
    selection: Selection | Sequence[str],
    donor: str | DonorSource = "zero",
    *,
    metric: str | AnyMetric | None = None,
    sides: Sequence[Side] = (),
    ids: Collection[str] | None = None,
    reference: Task | None = None,
    clusters: Mapping[str, str] | None = None,
    parts: Parts | LanguageProblem | None = None,
) -> list[Outcome]:
    """Before and after: the traced metric, the task's other metrics, and each side, with bootstrap intervals.

    ``parts`` is the problem that was searched: its held-out pairs are measured, and ``mean=task`` is taken over its
    training pairs, as the search took it. Without it ``ids`` names the pairs that are measured (held-out ones; all
    where None), ``reference`` what ``mean=task`` is taken over (default: the pairs not measured; all where all are),
    and ``clusters`` (id -> label) which pairs intervals resample together, by default those of one ``split_group``.
    """
    if parts is not None:
        parts = Parts.settled(parts, task, 0.0, 0)
        ids, clusters = parts.heldout if ids is None else ids, parts.clusters if clusters is None else clusters
        reference = reference or parts.reference(task)
    with_edit = apply(model, selection, donor, reference=reference or unmeasured(task, ids))
    return compare(model, task, with_edit, metric=metric, sides=sides, ids=ids, clusters=clusters)


def compare(
    model: LanguageModel,
    task: Task,
    edited: AbstractContextManager[object] | LanguageModel,
    *,
    metric: str | AnyMetric | None = None,
    sides: Sequence[Side] = (),
    ids: Collection[str] | None = None,
    clusters: Mapping[str, str] | None = None,
) -> list[Outcome]:
    """The same for a model that is edited inside a context, or for another model of the same tokenizer."""
    sides = [side.of(model) for side in sides]
    parts = [ScoredTask(model, task, ids, clusters=clusters), *(ScoredTask(model, side.task) for side in sides)]
    before = [part.scores() for part in parts]
    after = list(_after(parts, edited))
    found = all_outcomes(metric or task.metric, parts[0], before[0], after[0])
    rest = zip(sides, parts[1:], before[1:], after[1:], strict=True)
    return found + [outcome(metric_named(side.metric), part, one, two) for side, part, one, two in rest]


def unmeasured(task: Task, ids: Collection[str] | None) -> Task:
    """The task with the pairs that are not measured; all of them where all are."""
    rest = () if ids is None else tuple(pair for pair in task.pairs if pair.id not in ids)
    return replace(task, pairs=rest) if rest else task


def _after(parts: Sequence[ScoredTask], edited: AbstractContextManager[object] | LanguageModel) -> Iterator[Tensor]:
    if isinstance(edited, LanguageModel):
        yield from (part.scores(edited) for part in parts)
        return
    with edited:
        yield from [part.scores() for part in parts]
