"""Evidence written onto frontiers: intervals and p-values in their rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import isclose

from cotrace.evaluation.belonging import CLOSE, judge_on
from cotrace.evaluation.evaluation import Evaluation
from cotrace.evaluation.records import SizeEvidence
from cotrace.evaluation.sizes import size_row
from cotrace.problem.protocol import Problem
from cotrace.results import Frontier, Selection


def applied(frontier: Frontier, evaluation: Evaluation) -> Frontier:
    """The frontier with intervals and p-values filled in; the p-values are those adjusted for all sizes tested."""
    rows: Mapping[int, SizeEvidence] = {row.k: row for row in evaluation.sizes}
    unseen = evaluation.judged_on == "held-out"
    return replace(
        frontier,
        selections=tuple(_filled(selection, rows.get(selection.k), unseen) for selection in frontier),
    )


def _filled(selection: Selection, row: SizeEvidence | None, unseen: bool) -> Selection:
    if not unseen:
        return selection
    if row is None:  # a p-value of an earlier evaluation was adjusted for other sizes
        return replace(selection, p_value=None)
    return replace(
        selection,
        effect_heldout=_same(selection.effect_heldout, row.effect),
        interval=row.interval,
        p_value=row.p_adjusted,
        median_heldout=row.median,
        moved_share=row.moved_share,
    )


def _same(known: float | None, judged: float) -> float:
    """The number as the search had it; the judged one where that is of another problem, for intervals are of it."""
    return known if known is not None and isclose(known, judged, rel_tol=CLOSE, abs_tol=1e-6) else judged


def with_intervals(problem: Problem, frontier: Frontier) -> Frontier:
    """The frontier with intervals where its held-out effects were kept.

    No forward in ``swap`` mode where they were measured in this process, else one to see that they are this problem's;
    one more in ``keep`` mode, for what faithfulness is divided by.
    """
    if problem.heldout is None or frontier.effects_heldout is None:
        return frontier
    judge = judge_on(problem.heldout, frontier.effects_heldout, problem)
    chosen = judge.rows([selection.members for selection in frontier])
    if judge.unknown(chosen):
        return frontier
    judge.intervals(chosen)
    rows = [size_row(judge, row) for row in chosen]
    return replace(
        frontier,
        selections=tuple(_filled(selection, row, unseen=True) for selection, row in zip(frontier, rows, strict=True)),
    )
