"""Belonging: effects that came with a result are used only where they are of the problem that it is judged on.

A result may have been found with another metric, other donors or another split. Its sets can be judged here all the
same, but not by what was measured there: one set is measured again, and where it does not agree nothing stored is used.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cotrace.evaluation.case import Case, fitting
from cotrace.problem.evaluator import Evaluator
from cotrace.problem.protocol import Problem
from cotrace.results.effects import EffectTable
from cotrace.search.origin import is_of

CLOSE = 0.05
"""Largest difference, as a share of the largest effect, that rounding and other batches may make in half precision."""


def belonging(case: Case) -> Case:
    """The case without the effects that are of another problem, and a note that says so.

    Costs one mask on each list of pairs, and nothing where the effects were measured in this process.
    """
    judge = judge_on(case.judge.problem, case.judge.stored, case.problem)
    same = case.judged_on == "training"
    training = judge if same else judge_on(case.problem, case.training.stored, case.problem)
    dropped = case.judge.stored is not judge.stored or case.training.stored is not training.stored
    if not dropped and not _other_value(case, training):
        return case
    note = (
        f"the effects that came with the result are not those of this problem ({case.frontier.metric} there, "
        f"{case.problem.metric} here, or other donors or pairs): all are measured anew, and only a k that was not "
        "given was chosen by them"
    )
    return replace(case, judge=judge, training=training, foreign_effects=True, notes=(*case.notes, note))


def judge_on(judged: Problem, stored: EffectTable | None, problem: Problem) -> Evaluator:
    """A judge on some pairs of a problem that knows the stored effects, where they are of these pairs."""
    stored = fitting(stored, judged)
    if stored is None or is_of(stored, problem):
        return Evaluator(judged, stored)
    afresh = Evaluator(judged)
    row = int(np.abs(stored.sizes - stored.n / 2).argmin())  # the empty set and the full tell the least
    chosen = stored.sets([row])
    if afresh.measures_pairs(chosen[0]) and _close(stored.effects[row], afresh.effects(chosen)[0]):
        return Evaluator(judged, stored)
    return afresh


def _close(stored: np.ndarray, fresh: np.ndarray) -> bool:
    return bool(np.abs(stored - fresh).max() <= CLOSE * np.abs(fresh).max() + 1e-6)


def _other_value(case: Case, training: Evaluator) -> bool:
    """Whether the selection's stored effect is another than it has here; looked at where no effects of pairs tell."""
    stored = case.selection.effect
    if stored is None or training.stored is not None:
        return False
    return not _close(np.array([stored]), training.values(case.chosen([case.k])))
