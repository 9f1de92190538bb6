"""Evidence written onto frontiers: intervals and p-values in their rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cotrace.evaluation.case import fitting
from cotrace.evaluation.evaluation import Evaluation
from cotrace.evaluation.judge import Judge
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
    if row is None or not unseen:
        return selection
    return replace(
        selection,
        effect_heldout=row.effect if selection.effect_heldout is None else selection.effect_heldout,
        interval=row.interval,
        p_value=row.p_adjusted,
        median_heldout=row.median,
        moved_share=row.moved_share,
    )


def with_intervals(problem: Problem, frontier: Frontier) -> Frontier:
    """The frontier with intervals where its held-out effects were kept: no forward at all."""
    if problem.heldout is None or (stored := fitting(frontier.effects_heldout, problem.heldout)) is None:
        return frontier
    judge = Judge(problem.heldout, stored)
    chosen = judge.rows([selection.members for selection in frontier])
    if judge.unknown(chosen):
        return frontier
    rows = [size_row(judge, row) for row in chosen]
    return replace(
        frontier,
        selections=tuple(_filled(selection, row, unseen=True) for selection, row in zip(frontier, rows, strict=True)),
    )
