"""Somebody else's set: its effect against the frontier's at equal size, their overlap, and AUROC by role."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from scipy import stats

from cotrace.components import Component, ComponentSpace
from cotrace.errors import InputError
from cotrace.evaluation.records import ForeignSet
from cotrace.evaluation.stability import jaccard
from cotrace.problem.evaluator import Evaluator
from cotrace.results import Frontier

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
    u = stats.mannwhitneyu(list(positive), list(negative), alternative="two-sided", method="asymptotic").statistic
    return float(u / (len(positive) * len(negative)))


def _shared(inside: Sequence[Component], members: Collection[Component]) -> tuple[str, ...]:
    """The names of those that both hold."""
    own = set(members)
    return tuple(str(member) for member in inside if member in own)
