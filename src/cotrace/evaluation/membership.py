"""Minimality and completeness: what is lost when members leave, and what the others can still do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool

from cotrace.evaluation.records import Completeness, Member, Minimality
from cotrace.problem.evaluator import Chosen, Evaluator
from cotrace.problem.masks import mask_of
from cotrace.search.driver import is_clear
from cotrace.statistics import Interval, above_zero

MARGIN = 0.02
"""Share of the selection's effect below which a loss counts as none."""
ALPHA = 0.05


def minimality(judge: Evaluator, chosen: Bool[np.ndarray, "n"], most: int) -> Minimality:
    """What is lost on these pairs when each member leaves in turn. A loss is positive in the search's direction."""
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
    clear = abs(full) > 1e-6 and (judge.problem.mode == "keep" or is_clear(judge.problem))
    return Completeness(rest_effect=rest, full_effect=full, share=rest / full if clear else None)
