"""Sets from elsewhere: published ones beside the result, and results that may be of another problem.

A result may have been found with another metric, other donors or another split. Its sets can be judged here all the
same, but not by what was measured there: one set is measured again, and where it does not agree nothing stored is used.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from cotrace.components import Component, ComponentSpace
from cotrace.errors import InputError
from cotrace.evaluation._records import ForeignSet
from cotrace.evaluation.setup import Case, fitting
from cotrace.evaluation.stability import jaccard
from cotrace.problem.evaluator import Evaluator
from cotrace.problem.protocol import Problem
from cotrace.results import Frontier
from cotrace.results.effects import EffectTable
from cotrace.search.solve import is_of

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


Roles = Mapping[str, Sequence[Component]]


def foreign_set(
    judge: Evaluator, frontier: Frontier | None, name: str, members: Sequence[Component], roles: Roles | None = None
) -> ForeignSet:
    """Judge a set from elsewhere. Raises InputError where the space holds none of it."""
    space = judge.problem.space
    inside = inside_of(space, name, members)
    theirs = judge.rows([inside])
    judge.prepare(theirs)
    effect, k = float(judge.values(theirs)[0]), len(inside)
    own = None if frontier is None or k not in frontier.sizes else frontier.at(k)
    mine = None if own is None else judge.rows([own.members])
    return ForeignSet(
        name=name,
        components=tuple(map(str, inside)),
        outside_space=tuple(str(member) for member in members if member not in space),
        effect=effect,
        interval=judge.interval(theirs[0]),
        own_effect=None if mine is None else float(judge.values(mine)[0]),
        difference=None if mine is None else judge.gain_interval(mine[0], theirs[0]),
        overlap=None if own is None else jaccard(own.members, inside),
        shared=() if own is None else _shared(inside, own.members),
        auroc={} if frontier is None else _aurocs(frontier, roles or {name: inside}),
    )


def inside_of(space: ComponentSpace, name: str, members: Sequence[Component]) -> list[Component]:
    """The members that the space holds, in its order. Raises InputError where it holds none."""
    inside = [space[i] for i in space.indices({member for member in members if member in space})]
    if not inside:
        raise InputError(f"{name}: none of its {len(members)} components is in this space of {space.outline}")
    return inside


def _aurocs(frontier: Frontier, roles: Roles) -> dict[str, float]:
    """Each role against the components of no role."""
    score = taken_in(frontier)
    named = {member for members in roles.values() for member in members}
    others = [score[component] for component in frontier.space if component not in named]
    found = {}
    for role, members in roles.items():
        own = [score[member] for member in members if member in score]
        if own and others:
            found[role] = auroc(own, others)
    return found


def taken_in(frontier: Frontier) -> dict[Component, int]:
    """How many of the frontier's selections hold each component: more, the earlier it is taken in and kept."""
    count = dict.fromkeys(frontier.space, 0)
    for selection in frontier:
        for member in selection.members:
            count[member] += 1
    return count


def auroc(positive: Collection[float], negative: Collection[float]) -> float:
    """Chance that a positive scores above a negative, ties by half: U / (n m) of Mann and Whitney."""
    from scipy import stats

    u = stats.mannwhitneyu(list(positive), list(negative), alternative="two-sided", method="asymptotic").statistic
    return float(u / (len(positive) * len(negative)))


def _shared(inside: Sequence[Component], members: Collection[Component]) -> tuple[str, ...]:
    """The names of those that both hold."""
    own = set(members)
    return tuple(str(member) for member in inside if member in own)
