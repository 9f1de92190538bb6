"""Members: what is lost when each leaves, and how they act together.

Shapley values: Shapley 1953; by sampled orders of joining, Castro, Gomez and Tejada 2009, with each order's reverse.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import factorial

import numpy as np
import torch
from jaxtyping import Bool, Float

from cotrace.evaluation._records import Backup, Completeness, Inhibitor, Interactions, Member, Minimality, Pair, Shapley
from cotrace.evaluation.setup import ALONE
from cotrace.problem.evaluator import Chosen, Evaluator
from cotrace.problem.protocol import mask_of
from cotrace.statistics import Interval, above_zero

MARGIN = 0.02
"""Share of the selection's effect below which a loss counts as none."""
ALPHA = 0.05


def minimality(judge: Evaluator, chosen: Bool[np.ndarray, "n"], most: int) -> Minimality:
    """Measure the loss on these pairs when each member leaves in turn. A loss is positive in the search's direction."""
    members = likeliest_to_leave(judge, chosen, most)
    without = without_each(chosen, members)
    whole = float(judge.values(chosen[None])[0])
    losses = judge.sign * (whole - judge.values(without))
    margin = MARGIN * abs(whole)
    rows = _members(judge, chosen, without, members, losses, margin)
    leaving = [member for member, row in zip(members, rows, strict=True) if row.status == "can leave"]
    return Minimality(
        members=tuple(rows),
        untested=int(chosen.sum()) - len(members),
        margin=margin,
        left_together=_left(judge, chosen, leaving) if leaving else None,
    )


def _members(
    judge: Evaluator,
    chosen: Bool[np.ndarray, "n"],
    without: Chosen,
    members: Sequence[int],
    losses: np.ndarray,
    margin: float,
) -> list[Member]:
    names = [str(judge.problem.space[i]) for i in members]
    if not judge.has_effects:
        return [
            Member(component=name, loss=float(loss), interval=None, p_adjusted=None, status="not tested")
            for name, loss in zip(names, losses, strict=True)
        ]
    change = judge.sign * (judge.effects(chosen[None]) - judge.effects(without))
    adjusted = above_zero(change, judge.units)
    intervals = judge.intervals_of_effects(change)
    return [
        Member(
            component=name, loss=float(loss), interval=interval, p_adjusted=float(p), status=status(interval, p, margin)
        )
        for name, loss, interval, p in zip(names, losses, intervals, adjusted, strict=True)
    ]


def status(interval: Interval | None, p: float, margin: float) -> str:
    """``needed`` by the test, ``can leave`` where the loss's interval ends below the margin, else ``undecided``."""
    if interval is not None and interval[1] <= margin:
        return "can leave"
    return "needed" if p <= ALPHA else "undecided"


def likeliest_to_leave(judge: Evaluator, chosen: Bool[np.ndarray, "n"], most: int) -> list[int]:
    """The members, at most so many; where there are more, those whose leaving costs least to first order."""
    members: list[int] = np.flatnonzero(chosen).tolist()
    if len(members) <= most:
        return members
    problem = judge.problem
    slope = problem.gradient(mask_of(problem, torch.from_numpy(chosen).float())).detach().double().cpu().numpy()
    judge.spent += 2
    gain = judge.sign * (slope if problem.mode == "swap" else -slope)
    return sorted(sorted(members, key=lambda i: (gain[i], i))[:most])


def without_each(chosen: Bool[np.ndarray, "n"], members: Sequence[int]) -> Chosen:
    """The sets that each of these members has left."""
    sets = np.repeat(chosen[None], len(members), 0)
    sets[np.arange(len(members)), list(members)] = False
    return sets


def _left(judge: Evaluator, chosen: Bool[np.ndarray, "n"], leaving: Sequence[int]) -> float:
    rest = chosen.copy()
    rest[list(leaving)] = False
    return float(judge.values(rest[None])[0]) if rest.any() else 0.0


def completeness(judge: Evaluator, chosen: Bool[np.ndarray, "n"]) -> Completeness:
    """The effect of all components outside the selection, against that of everything where the pairs show one."""
    rest, full = judge.values(np.stack([~chosen, np.ones_like(chosen)])).tolist()
    clear = abs(full) > 1e-6 and (judge.problem.mode == "keep" or judge.problem.full_is_clear)
    return Completeness(rest_effect=rest, full_effect=full, share=rest / full if clear else None)


NEGLIGIBLE = 0.05
"""Share of the selection's effect below which an effect counts as none."""
ROUNDING = 1e-4
"""Share of the selection's effect that a second difference must exceed: effects are kept in float32."""
NOT_TESTED = "not tested"


def interactions(
    judge: Evaluator, chosen: Bool[np.ndarray, "n"], *, pairs: int, subsets: int, outside: int, seed: int = 0
) -> Interactions:
    """Measure interactions of the members that matter most when they leave, and the outsiders that matter most when
    they join.
    """
    members = strongest(judge, chosen, pairs)
    margin = NEGLIGIBLE * abs(float(judge.values(chosen[None])[0]))
    joining = _joining(judge, chosen, outside)
    told = _interval(judge, chosen[None], np.ones(1)) is not None
    backups = (*_backups_within(judge, members, margin), *_backups_outside(judge, chosen, joining, margin))
    return Interactions(
        pairs=tuple(_pair(judge, chosen, i, j) for i, j in combinations(members, 2)),
        shapley=shapley(judge, np.flatnonzero(chosen).tolist(), subsets, seed) if subsets else None,
        backups=backups if told else (),
        inhibitors=_inhibitors(judge, chosen, joining, members, margin) if judge.has_effects else (),
        outside_tested=len(joining),
        roles_untested="" if told else "backups" if judge.has_effects else "backups and inhibitors",
    )


def strongest(judge: Evaluator, chosen: Bool[np.ndarray, "n"], most: int) -> list[int]:
    """The members whose leaving, where it was evaluated, costs most; ascending."""
    members: list[int] = np.flatnonzero(chosen).tolist()
    if len(members) <= most:
        return members
    known = judge.left(chosen) or members[:most]
    left = judge.sign * judge.values(without_each(chosen, known))
    return sorted(known[i] for i in np.argsort(left, kind="stable")[:most])


def _pair(judge: Evaluator, chosen: Bool[np.ndarray, "n"], i: int, j: int) -> Pair:
    """Second differences, in the direction of the search: within the selection, and of the two alone."""
    without = np.repeat(chosen[None], 4, 0)
    without[1, i] = without[2, j] = without[3, [i, j]] = False
    signs = np.array([1.0, -1.0, -1.0, 1.0])
    within = float(judge.sign * signs @ _values(judge, without))
    interval = _interval(judge, without, signs)
    alone = float(judge.sign * np.array([1.0, -1.0, -1.0]) @ _values(judge, _sets(judge.n, [(i, j), (i,), (j,)])))
    kind = _kind(interval, ROUNDING * abs(float(judge.values(chosen[None])[0])))
    return Pair(components=(_name(judge, i), _name(judge, j)), within=within, interval=interval, alone=alone, kind=kind)


def _name(judge: Evaluator, i: int) -> str:
    """The name of one component: those of a large space take long to write."""
    return str(judge.problem.space[i])


def _kind(interval: Interval | None, least: float) -> str:
    """Return the kind by the sign of an interval that lies wholly beyond rounding."""
    if interval is None:
        return NOT_TESTED
    if interval[0] <= least and interval[1] >= -least:
        return "none"
    return "synergy" if interval[0] > least else "redundancy"


def _sets(n: int, members: Sequence[Sequence[int]]) -> Chosen:
    sets = np.zeros((len(members), n), bool)
    for row, some in zip(sets, members, strict=True):
        row[list(some)] = True
    return sets


def _values(judge: Evaluator, sets: Chosen) -> Float[np.ndarray, "set"]:
    """Values, that of the empty set being 0 by definition."""
    found = np.zeros(len(sets))
    some = sets.any(1)
    found[some] = judge.values(sets[some])
    return found


def _effects(judge: Evaluator, sets: Chosen) -> Float[np.ndarray, "set example"]:
    """Effects, those of the empty set being 0 by definition."""
    found = np.zeros((len(sets), judge.problem.size))
    some = sets.any(1)
    if some.any():
        found[some] = judge.effects(sets[some])
    return found


def _interval(judge: Evaluator, sets: Chosen, signs: Float[np.ndarray, "set"]) -> Interval | None:
    if not judge.has_effects:
        return None
    return judge.interval_of_effects(judge.sign * signs @ _effects(judge, sets))


def shapley(judge: Evaluator, members: Sequence[int], most: int, seed: int = 0) -> Shapley | None:
    """Exact where all subsets are at most so many; else over sampled orders and their reverses, while these last.

    None where not even two orders and their reverses can be paid for.
    """
    if 2 ** len(members) - 1 <= most:
        return _exact(judge, members)
    return _sampled(judge, members, most, seed) if 4 * len(members) <= most else None


def _exact(judge: Evaluator, members: Sequence[int]) -> Shapley:
    count = len(members)
    subsets = np.array([[bool(code >> i & 1) for i in range(count)] for code in range(2**count)])
    sets = np.zeros((len(subsets), judge.n), bool)
    sets[:, list(members)] = subsets
    worth = _values(judge, sets)
    size = subsets.sum(1)
    weight = np.array([factorial(s) * factorial(count - s - 1) / factorial(count) for s in range(count)])
    found = {}
    for i, member in enumerate(members):
        codes = np.flatnonzero(~subsets[:, i])
        found[_name(judge, member)] = float((weight[size[codes]] * (worth[codes | 1 << i] - worth[codes])).sum())
    return Shapley(values=found, standard_errors=dict.fromkeys(found, 0.0), permutations=None)


def _sampled(judge: Evaluator, members: Sequence[int], most: int, seed: int) -> Shapley:
    """Each order and its reverse are one draw, whose mean is less spread than that of two orders."""
    draw = np.random.default_rng(seed)
    draws: list[np.ndarray] = []
    room = judge.spent + most - 2 * len(members)
    while len(draws) < 2 or (judge.spent <= room and len(draws) < most):
        order = draw.permutation(len(members))
        draws.append((_marginals(judge, members, order) + _marginals(judge, members, order[::-1])) / 2)
    table = np.stack(draws)
    error = table.std(0, ddof=1) / np.sqrt(len(table))
    names = [_name(judge, i) for i in members]
    return Shapley(
        values=dict(zip(names, table.mean(0).tolist(), strict=True)),
        standard_errors=dict(zip(names, error.tolist(), strict=True)),
        permutations=2 * len(table),
    )


def _marginals(judge: Evaluator, members: Sequence[int], order: np.ndarray) -> Float[np.ndarray, "member"]:
    """Return the gain of each member when they join in this order."""
    joined = [[members[i] for i in order[:count]] for count in range(len(members) + 1)]
    steps = np.diff(_values(judge, _sets(judge.n, joined)))
    found = np.empty(len(members))
    found[order] = steps
    return found


def _joining(judge: Evaluator, chosen: Bool[np.ndarray, "n"], most: int) -> list[int]:
    """The components outside, at most so many; where there are more, those that matter most to first order."""
    outside: list[int] = np.flatnonzero(~chosen).tolist()
    if most == 0 or len(outside) <= most:
        return outside[:most]
    problem = judge.problem
    slope = problem.gradient(mask_of(problem, torch.from_numpy(chosen).float())).detach().abs().cpu().numpy()
    judge.spent += 2
    return sorted(sorted(outside, key=lambda i: (-slope[i], i))[:most])


def _with_each(chosen: Bool[np.ndarray, "n"], joining: Sequence[int]) -> Chosen:
    sets = np.repeat(chosen[None], len(joining), 0)
    sets[np.arange(len(joining)), list(joining)] = True
    return sets


def _backups_within(judge: Evaluator, members: Sequence[int], margin: float) -> list[Backup]:
    """Members that do next to nothing alone and much beside another; for each, the one beside which they do most."""
    if len(members) < 2:
        return []
    found = []
    alone = judge.sign * _values(judge, _sets(judge.n, [(i,) for i in members]))
    together = {pair: judge.sign * float(judge.values(_sets(judge.n, [pair]))[0]) for pair in combinations(members, 2)}
    for a, i in enumerate(members):
        others = [(together[min(i, j), max(i, j)] - alone[b], j) for b, j in enumerate(members) if b != a]
        gain, other = max(others)
        if abs(alone[a]) <= margin < gain and _surely(judge, [(i, other), (other,)], margin):
            own, of, signed = _name(judge, i), _name(judge, other), judge.sign
            found.append(Backup(component=own, of=of, alone=float(signed * alone[a]), with_other=float(signed * gain)))
    return found


def _surely(judge: Evaluator, sets: Sequence[Sequence[int]], margin: float) -> bool:
    """Whether the interval of the gain from the second set to the first lies above the margin."""
    interval = _interval(judge, _sets(judge.n, sets), np.array([1.0, -1.0]))
    return interval is not None and interval[0] > margin


def _backups_outside(
    judge: Evaluator, chosen: Bool[np.ndarray, "n"], joining: list[int], margin: float
) -> list[Backup]:
    """Components outside that do next to nothing alone and much once the selection is chosen."""
    if not joining:
        return []
    gain = judge.sign * (judge.values(_with_each(chosen, joining)) - judge.values(chosen[None])[0])
    likely = [(float(gain[a]), i) for a, i in enumerate(joining) if gain[a] > margin]
    members = np.flatnonzero(chosen).tolist()
    found = []
    for increase, i in sorted(likely, reverse=True)[:ALONE]:
        alone = judge.sign * float(judge.values(_sets(judge.n, [(i,)]))[0])
        if abs(alone) <= margin and _surely(judge, [(*members, i), members], margin):
            found.append(
                Backup(
                    component=_name(judge, i),
                    of="the selection",
                    alone=judge.sign * alone,
                    with_other=judge.sign * increase,
                )
            )
    return found


def _inhibitors(
    judge: Evaluator, chosen: Bool[np.ndarray, "n"], joining: list[int], members: list[int], margin: float
) -> tuple[Inhibitor, ...]:
    """Components whose being chosen takes from the effect: by joining the selection or by staying in it."""
    without = _sets(judge.n, [[i for i in np.flatnonzero(chosen).tolist() if i != m] for m in members])
    who = [*joining, *members]
    if not who:
        return ()
    more = np.concatenate([_with_each(chosen, joining), np.repeat(chosen[None], len(members), 0)])
    less = np.concatenate([np.repeat(chosen[None], len(joining), 0), without])
    change = judge.sign * (_values(judge, more) - _values(judge, less))
    p = above_zero(-judge.sign * (_effects(judge, more) - _effects(judge, less)), judge.units)
    found = [
        Inhibitor(component=_name(judge, i), change=float(judge.sign * change[a]), p_adjusted=float(p[a]))
        for a, i in enumerate(who)
        if change[a] < -margin and p[a] <= ALPHA
    ]
    return tuple(sorted(found, key=lambda row: judge.sign * row.change))
