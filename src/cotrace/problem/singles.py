"""Single effects: the table that everybody makes first, one component at a time, exact or by gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from cotrace.errors import InputError
from cotrace.problem.evaluator import Evaluator
from cotrace.problem.masks import MASK_ELEMENTS, mask_of
from cotrace.problem.protocol import Problem
from cotrace.results.frames import MEMBER_COLUMNS
from cotrace.showing import Counted, counting
from cotrace.statistics import Interval, Units, mean_intervals

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (*MEMBER_COLUMNS, "effect", "ci_low", "ci_high", "effect_heldout")
STEPS = 25
"""How often the exact effects say how far they are."""
FEWEST_MASKS = 16
"""Masks in one evaluation: fewer share too little of the layers below them."""
MOST_GROUPS = 64
"""Groups of units that a gradient is taken of, each by itself; their means are what is resampled."""


def single_effects(problem: Problem, exact: bool = True, *, progress: Counted = None) -> pd.DataFrame:
    """The effect of each component by itself: see ``LanguageProblem.single_effects``. For any problem."""
    import pandas as pd

    searched: Problem = getattr(problem, "searched", problem)
    parts = [part for part in (searched, problem.heldout) if part is not None]
    n = len(problem.space)
    with counting("single effects", len(parts) * (n if exact else 1), progress) as count:
        found = [_exact(part, count) if exact else _by_gradient(part, count) for part in parts]
    table: dict[str, Any] = {name: [_field(one, name) for one in problem.space] for name in MEMBER_COLUMNS}
    table["effect"] = found[0].effects.tolist()
    ends = np.array([interval or (math.nan, math.nan) for interval in found[0].intervals])
    table |= {"ci_low": ends[:, 0], "ci_high": ends[:, 1]}
    table["effect_heldout"] = found[1].effects.tolist() if len(found) > 1 else [math.nan] * n
    frame = pd.DataFrame(table, columns=list(COLUMNS)).astype({"unit": "Int64"})
    frame.attrs |= {"task": problem.task, "metric": problem.metric, "mode": problem.mode, "exact": exact}
    return frame


def _field(component: Any, name: str) -> Any:
    return (
        str(component) if name == "component" else component.site.value if name == "site" else getattr(component, name)
    )


@dataclass(frozen=True)
class _Effects:
    """Of each component by itself, on one part of the data."""

    effects: Float[np.ndarray, "n"]
    intervals: Sequence[Interval | None]


def _exact(part: Problem, count: Callable[[int], None]) -> _Effects:
    judge, n = Evaluator(part), len(part.space)
    step = min(max(FEWEST_MASKS, -(-n // STEPS)), max(1, MASK_ELEMENTS // n))
    values: list[float] = []
    intervals: list[Interval | None] = []
    for start in range(0, n, step):
        alone = np.arange(start, min(start + step, n))[:, None] == np.arange(n)
        judge.measures_pairs(alone[0])  # found out by a set that is wanted, not by one more
        judge.prepare(alone)
        values += judge.values(alone).tolist()
        intervals += judge.intervals(alone)
        count(len(alone))
    return _Effects(np.array(values), intervals)


def _by_gradient(part: Problem, count: Callable[[int], None]) -> _Effects:
    """To first order from the empty set: the gradient there, of which each group of pairs gives its mean."""
    empty = mask_of(part, torch.zeros(len(part.space)))
    towards = (1 - 2 * empty).double().numpy()
    if not _has_effects(part, empty):
        count(1)
        return _Effects(part.gradient(empty).double().numpy() * towards, [None] * len(part.space))
    judge = Evaluator(part)
    groups = list(_groups(judge.units))
    weight = np.array([judge.units.weight[group].sum() for group in groups])
    rows = [_mean_slope(part, empty, group, judge.units) * towards for group in groups]
    means = np.stack(rows, axis=1)
    count(1)
    units, over = Units.made(len(groups), weight), judge.restored
    if over is not None:
        over = np.array([np.average(over[group], weights=judge.units.weight[group]) for group in groups])
    unknown = judge.no_ratio or judge.units.part is not None
    intervals = [None] * len(means) if unknown else mean_intervals(means, units, over)
    return _Effects(means @ weight / weight.sum(), intervals)


def _groups(units: Units) -> Iterator[list[int]]:
    """Examples of at most so many groups of units, in order; units without weight say nothing."""
    for some in np.array_split(np.flatnonzero(units.weighed), min(MOST_GROUPS, int(units.weighed.sum()))):
        yield np.flatnonzero(np.isin(units.unit, some)).tolist()


def _mean_slope(part: Problem, at: torch.Tensor, group: list[int], units: Units) -> Float[np.ndarray, "n"]:
    """The gradient of a group's own mean: ``Problem.gradient`` gives its part in the whole, times size / count."""
    slope = part.gradient(at, examples=group).double().numpy()
    scale: float = len(group) / len(units.weight) * units.weight.sum() / units.weight[group].sum()
    return np.asarray(slope * scale)


def _has_effects(part: Problem, empty: torch.Tensor) -> bool:
    try:
        part.effects(empty, [0])
    except InputError:
        return False
    return True
