"""An edit measured: by the task's metric, by another metric, and by lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from cotrace.donors import DonorSource
from cotrace.editing.apply import apply, changed, changes, described, stand_alone
from cotrace.editing.scoring import Parts, ScoredTask, all_outcomes, outcome
from cotrace.editing.scoring import Table as Scores
from cotrace.editing.side_effects import Side
from cotrace.errors import InputError
from cotrace.metrics import AnyMetric, Metric, metric_named
from cotrace.metrics.metric import weighted_mean
from cotrace.models import LanguageModel
from cotrace.problem import LanguageProblem
from cotrace.prompts import Task
from cotrace.results import Frontier, Selection, Table
from cotrace.results.outcomes import Outcome
from cotrace.results.table import number
from cotrace.statistics import Interval

if TYPE_CHECKING:
    import pandas as pd


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

    Args:
        model: The base model.
        task: The traced task.
        selection: Components to edit: a Selection or names.
        donor: Donor that stands alone, such as ``zero`` or ``scale=0.2``.
        metric: The traced metric; None for the task's.
        sides: Tasks that should stay as they are.
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


COLUMNS = ("k", "donor", "effect", "effect_heldout")
SWAPPED = "as searched"
Row = tuple[int, str, float | None, float | None]


@dataclass(frozen=True)
class Rescored:
    """Effects of selections as they were found, and under donors that stand alone."""

    metric: str
    """Name of the metric."""
    task: str
    """Name of the task."""
    rows: tuple[Row, ...]
    """(k, donor, effect on the pairs searched, on held-out pairs)."""

    def table(self) -> Table:
        """One row for each selection and donor."""
        rows = [(str(k), donor, number(seen), number(unseen)) for k, donor, seen, unseen in self.rows]
        heads = ("k", "donor", "effect", "held out")
        return Table(f"{self.metric} on {self.task}: the same sets under each donor", heads, rows, frozenset({1}))

    def to_frame(self) -> pd.DataFrame:
        """The rows as a DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.rows, columns=list(COLUMNS))


def rescore(
    model: LanguageModel,
    task: Task,
    selections: Frontier | Selection | Sequence[Selection],
    donors: Sequence[str | DonorSource] = ("zero", "mean=task"),
    *,
    metric: str | AnyMetric | None = None,
    parts: Parts | LanguageProblem | None = None,
    holdout: float = 0.3,
    seed: int = 0,
) -> Rescored:
    """Effects of selections as stored, and measured under each donor, which acts on prompt and answer positions.

    ``parts`` is the problem that was searched. Without it the whole task is split by ``holdout`` and ``seed``, which is
    the search's split only where that refused no pair and was given neither ``split_by`` nor ``audit``. Raises
    CotraceError.

    Args:
        model: The base model.
        task: The traced task.
        selections: A frontier, a selection, or several.
        donors: Donors that stand alone.
        metric: The metric; None for the task's.
    """
    chosen = [selections] if isinstance(selections, Selection) else [s for s in selections if s.k]
    if not chosen:
        raise InputError("there is no selection to score again")
    judged, parts = metric_named(metric or task.metric), Parts.settled(parts, task, holdout, seed)
    scored = [ScoredTask(model, task, ids) for ids in (parts.training, parts.heldout)]
    before = [part.scores() for part in scored]
    reference = parts.reference(task)
    rows: list[Row] = []
    for selection in chosen:
        rows.append((selection.k, SWAPPED, selection.effect, selection.effect_heldout))
        for donor in donors:
            with changed(model, changes(model, selection, stand_alone(donor, model, reference))):
                after = [part.scores() for part in scored]
            seen, unseen = (effect(judged, *found) for found in zip(scored, before, after, strict=True))
            rows.append((selection.k, described(donor), seen, unseen))
    return Rescored(judged.name, task.name, tuple(rows))


def effect(metric: AnyMetric, part: ScoredTask, before: Scores, after: Scores) -> float:
    """The aggregate effect, as searches see it."""
    if isinstance(metric, Metric):
        return float(weighted_mean(metric.effects(after, before, part.answers), part.answers))
    return float(metric.value(after, before, part.answers))


NORMAL_95 = 1.96


def harness(
    model: LanguageModel,
    selection: Selection | Sequence[str],
    donor: str | DonorSource = "zero",
    *,
    tasks: Sequence[str],
    limit: int | None = None,
    batch_size: int = 8,
    reference: Task | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Outcome]:
    """Every metric that the harness reports for these tasks, before and after, with its own standard errors.

    ``options`` go to ``lm_eval.simple_evaluate``. Raises InputError where lm-eval is not installed.

    Args:
        model: The base model.
        selection: Components to edit: a Selection or names.
        donor: Donor that stands alone, such as ``zero`` or ``scale=0.2``.
        tasks: Names of the harness's tasks.
        limit: Most examples of each task; None for all.
        batch_size: Examples in a batch.
        reference: Task over whose base prompts ``mean`` is taken; needed for it alone.
    """
    evaluate = _evaluator()
    asked = {"tasks": list(tasks), "limit": limit, "batch_size": batch_size, **(options or {})}
    before = evaluate(model, asked)
    with apply(model, selection, donor, reference=reference):
        after = evaluate(model, asked)
    return list(outcomes(before, after))


def installed() -> tuple[ModuleType, ModuleType]:
    """The harness and its backend for Hugging Face. Raises InputError where they are not installed."""
    try:
        return import_module("lm_eval"), import_module("lm_eval.models.huggingface")
    except ImportError:
        raise InputError("lm-evaluation-harness is not installed: pip install 'cotrace[harness]'") from None


def _evaluator() -> Any:
    lm_eval, backend = installed()

    def evaluate(model: LanguageModel, asked: Mapping[str, Any]) -> Any:
        wrapped = backend.HFLM(
            pretrained=model.module, tokenizer=model.require_tokenizer(), batch_size=asked["batch_size"]
        )
        return lm_eval.simple_evaluate(model=wrapped, **asked)

    return evaluate


def outcomes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Outcome]:
    """The harness's results, task by task; entries are named ``metric,filter`` and have a ``metric_stderr,filter``."""
    for task, measured in before["results"].items():
        count = before.get("n-samples", {}).get(task, {}).get("effective", 0)
        for key, value in measured.items():
            name, metric, _ = key.partition(",")  # what has no filter is no metric, such as the count of samples
            counted = metric and isinstance(value, float | int) and key in after["results"][task]
            if not counted or name.endswith("_stderr"):
                continue
            yield Outcome(
                task=task,
                metric=name,
                pairs=int(count),
                before=float(value),
                after=float(after["results"][task][key]),
                before_interval=_interval(measured, key),
                after_interval=_interval(after["results"][task], key),
            )


def _interval(measured: Mapping[str, Any], key: str) -> Interval | None:
    """value +- 1.96 standard errors, where the harness gives one."""
    name, _, chosen = key.partition(",")
    error = measured.get(f"{name}_stderr,{chosen}")
    if not isinstance(error, float | int):
        return None
    return float(measured[key] - NORMAL_95 * error), float(measured[key] + NORMAL_95 * error)
