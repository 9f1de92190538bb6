"""``rescore``: does a set that was found by swapping also carry the effect under donors that stand alone?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotrace.donors import DonorSource
from cotrace.editing.apply import changed
from cotrace.editing.changes import changes
from cotrace.editing.donors import described, stand_alone
from cotrace.editing.outcomes import Table as Scores
from cotrace.editing.scored import ScoredTask
from cotrace.editing.tradeoff import Parts
from cotrace.errors import InputError
from cotrace.metrics import AnyMetric, Metric, metric_named
from cotrace.metrics.metric import weighted_mean
from cotrace.models import LanguageModel
from cotrace.prompts import Task
from cotrace.results import Frontier, Selection, Table
from cotrace.results.tables import number

if TYPE_CHECKING:
    import pandas as pd

    from cotrace.problem import LanguageProblem

COLUMNS = ("k", "donor", "effect", "effect_heldout")
SWAPPED = "as searched"
Row = tuple[int, str, float | None, float | None]


@dataclass(frozen=True)
class Rescored:
    """Effects of selections as they were found, and under donors that stand alone."""

    metric: str
    task: str
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
