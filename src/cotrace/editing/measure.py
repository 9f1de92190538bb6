"""What an edit cost: every metric of its task, the loss on a neutral text and other tasks, before and after."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

from torch import Tensor

from cotrace.donors import DonorSource
from cotrace.editing.apply import apply
from cotrace.editing.outcomes import all_outcomes, outcome
from cotrace.editing.scored import ScoredTask
from cotrace.editing.sides import Side
from cotrace.metrics import AnyMetric, metric_named
from cotrace.models import LanguageModel
from cotrace.prompts import Task
from cotrace.results import Selection
from cotrace.results.outcomes import Outcome


def measure_edit(
    model: LanguageModel,
    task: Task,
    selection: Selection,
    donor: str | DonorSource = "zero",
    *,
    metric: str | AnyMetric | None = None,
    sides: Sequence[Side] = (),
    ids: Collection[str] | None = None,
    reference: Task | None = None,
    clusters: Mapping[str, str] | None = None,
) -> list[Outcome]:
    """Before and after: the traced metric, the task's other metrics, and each side, with bootstrap intervals.

    ``ids`` takes some of the task's pairs (held-out ones); ``reference`` is what ``mean=task`` is taken over;
    ``clusters`` (id -> label) says which pairs intervals resample together, by default those of one ``split_group``.
    """
    with_edit = apply(model, selection, donor, reference=reference or task)
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


def _after(parts: Sequence[ScoredTask], edited: AbstractContextManager[object] | LanguageModel) -> Iterator[Tensor]:
    if isinstance(edited, LanguageModel):
        yield from (part.scores(edited) for part in parts)
        return
    with edited:
        yield from [part.scores() for part in parts]
