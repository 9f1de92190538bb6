"""Evaluator: effects of chosen sets on one part of the pairs, each set paid once; and those of single components."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from cotrace.components import Component, sign_of
from cotrace.errors import InputError
from cotrace.problem.protocol import MASK_ELEMENTS, Problem, chosen_of, mask_of
from cotrace.results.effects import EffectTable, Key
from cotrace.results.selection import MEMBER_COLUMNS
from cotrace.statistics import (
    Interval,
    Units,
    counts_of,
    covers,
    interval_of,
    mean_interval,
    mean_intervals,
    median_interval,
    missing,
)
from cotrace.text.progress_bar import Counted, counting

if TYPE_CHECKING:
    import pandas as pd

Chosen = Bool[np.ndarray, "set n"]


class Evaluator:
    """Values and per-example effects of chosen sets on one list of pairs. Effects are signed as the metric is."""

    def __init__(self, problem: Problem, stored: EffectTable | None = None) -> None:
        self.problem = problem
        self.n = len(problem.space)
        self.units = Units.of(problem)
        self.spent = 0
        """Masks evaluated: one on all of these pairs is one forward-equivalent."""
        self.stored = stored if stored is not None and stored.n == self.n else None
        self._effects: dict[Key, Float[np.ndarray, "example"]] = {}
        self._values: dict[Key, float] = {}
        self._draws: dict[Key, Float[np.ndarray, "draw"]] = {}
        self._intervals: dict[Key, Interval | None] = {}
        self._has_effects: bool | None = None

    @cached_property
    def sign(self) -> float:
        """+1 where larger effects are preferred, -1 where smaller ones are; needs a direction."""
        return sign_of(self.problem.direction)

    @property
    def has_effects(self) -> bool:
        """Whether the metric has an effect of each example; found out by the first evaluation."""
        if self._has_effects is None:
            self.values(np.ones((1, self.n), bool))
        return bool(self._has_effects)

    def measures_pairs(self, chosen: Bool[np.ndarray, "n"]) -> bool:
        """Whether the metric has an effect of each example, found out by evaluating this set."""
        self.values(chosen[None])
        return bool(self._has_effects)

    def rows(self, sets: Sequence[Sequence[Component]]) -> Chosen:
        """Chosen indicators of these sets. Raises InputError for a component outside the space."""
        return np.array([self.problem.space.indicator(members) for members in sets], bool).reshape(-1, self.n)

    @property
    def knows_singles(self) -> bool:
        """Whether every set of one component has been paid for."""
        known = set() if self.stored is None else {self.stored.keys[i].tobytes() for i in self._single_rows}
        known |= {key for key in self._values if _number(key).bit_count() == 1}
        return len(known) == self.n

    def left(self, chosen: Bool[np.ndarray, "n"]) -> list[int]:
        """The members without which, one at a time, the set has been paid for; ascending."""
        whole, bits = _number(_keys(chosen[None])[0]), 8 * -(-self.n // 8)
        known = set(self._values)
        if self.stored is not None:
            known |= {self.stored.keys[i].tobytes() for i in np.flatnonzero(self.stored.sizes == chosen.sum() - 1)}
        gone = {whole ^ _number(key) for key in known}
        return sorted(bits - one.bit_length() for one in gone if one & whole == one and one.bit_count() == 1)

    @cached_property
    def _single_rows(self) -> list[int]:
        """The stored sets of one component."""
        return [] if self.stored is None else np.flatnonzero(self.stored.sizes == 1).tolist()

    def unknown(self, chosen: Chosen) -> int:
        """How many of these sets would have to be paid for."""
        return len({key for key in _keys(chosen) if not self._known(key)})

    def values(self, chosen: Chosen) -> Float[np.ndarray, "set"]:
        """The aggregate effect of each set."""
        self._evaluate(chosen)
        return np.array([self._values[key] for key in _keys(chosen)])

    def effects(self, chosen: Chosen) -> Float[np.ndarray, "set example"]:
        """The effect of each set on every example. Raises InputError where the metric has none."""
        self._evaluate(chosen)
        if not self.has_effects:
            raise InputError(f"{self.problem.metric} is one number for the whole set, without an effect of each pair")
        return np.stack([self._effects[key] for key in _keys(chosen)])

    @property
    def has_intervals(self) -> bool:
        """Whether intervals can be had: from effects of each example, or by drawing the whole set again."""
        return self.has_effects or self.problem.redraws

    @cached_property
    def restored(self) -> Float[np.ndarray, "example"] | None:
        """Return the divisor of faithfulness in ``keep`` mode: what each pair restores when everything is kept."""
        return self.effects(np.ones((1, self.n), bool))[0] if self.problem.mode == "keep" else None

    @cached_property
    def no_ratio(self) -> bool:
        """Whether what faithfulness is divided by may be 0: then it has no interval."""
        if self.problem.mode == "swap" or not self.has_effects or self.restored is None:
            return False
        return covers(mean_interval(self.restored, self.units))

    def interval(self, chosen: Bool[np.ndarray, "n"]) -> Interval | None:
        """Interval of the effect of one set; in ``keep`` mode of the ratio."""
        return self.intervals(chosen[None])[0]

    def intervals(self, chosen: Chosen) -> list[Interval | None]:
        """The same of several sets, each once, in one pass over the resamples."""
        fresh = {key: i for i, key in enumerate(_keys(chosen)) if key not in self._intervals}
        if fresh:
            self._intervals |= zip(fresh, self._fresh(chosen[list(fresh.values())]), strict=True)
        return [self._intervals[key] for key in _keys(chosen)]

    def _fresh(self, chosen: Chosen) -> list[Interval | None]:
        if self.has_effects:
            return self.intervals_of_effects(self.effects(chosen))
        if not self.has_intervals:
            return [None] * len(chosen)
        return [interval_of(row, self.units) for row in self.draws(chosen)]

    def interval_of_effects(self, effects: Float[np.ndarray, "example"]) -> Interval | None:
        """Interval of the mean of effects on these pairs, or of sums and differences of some."""
        return self.intervals_of_effects(effects[None])[0]

    def intervals_of_effects(self, effects: Float[np.ndarray, "set example"]) -> list[Interval | None]:
        """The same of several."""
        if self.no_ratio:
            return [None] * len(effects)
        return mean_intervals(effects, self.units, self.restored)

    def median_interval(self, chosen: Bool[np.ndarray, "n"]) -> Interval | None:
        """Interval of the median effect of one set; None where there are no effects of each pair."""
        if not self.has_effects or self.no_ratio:
            return None
        return median_interval(self.effects(chosen[None])[0], self.units, self.restored)

    def gain_interval(
        self, more: Bool[np.ndarray, "n"], less: Bool[np.ndarray, "n"], theirs: Evaluator | None = None
    ) -> Interval | None:
        """Interval of how much more one set does than another (known to ``theirs``), paired; above 0 is better."""
        other = theirs or self
        if self.has_effects:
            change = self.effects(more[None])[0] - other.effects(less[None])[0]
            return self.interval_of_effects(self.sign * change)
        if not self.has_intervals:
            return None
        return interval_of(self.sign * (self.draws(more[None])[0] - other.draws(less[None])[0]), self.units)

    @property
    def missing(self) -> int:
        """Largest number of resamples in which a metric of the whole set has no value."""
        return max((missing(row, self.units) for row in self._draws.values()), default=0)

    def draws(self, chosen: Chosen) -> Float[np.ndarray, "set draw"]:
        """The value of each set on ``counts_of`` the units. Gives the value too, at no further cost."""
        fresh = [key for key in dict.fromkeys(_keys(chosen)) if key not in self._draws]
        for start in range(0, len(fresh), batch := max(1, MASK_ELEMENTS // self.n)):
            keys = fresh[start : start + batch]
            sets = torch.stack([chosen_of(key, self.n) for key in keys])
            found = self.problem.redrawn(mask_of(self.problem, sets.float()), counts_of(self.units))
            self.spent += len(keys)
            for key, row in zip(keys, found.detach().double().cpu().numpy(), strict=True):
                self._draws[key] = row
                self._values.setdefault(key, float(row[0]))
        return np.stack([self._draws[key] for key in _keys(chosen)])

    def prepare(self, chosen: Chosen) -> None:
        """Pay for what intervals of these sets need, in batches, before each is asked for."""
        if self.has_effects or not self.has_intervals:
            self.values(chosen)
        else:
            self.draws(chosen)

    def _known(self, key: Key) -> bool:
        if key not in self._values and self.stored is not None and (row := self.stored.find(key)) is not None:
            self._keep(key, row.astype(np.float64), None)
        return key in self._values

    def _evaluate(self, chosen: Chosen) -> None:
        fresh = [key for key in dict.fromkeys(_keys(chosen)) if not self._known(key)]
        batch = max(1, MASK_ELEMENTS // self.n)
        for start in range(0, len(fresh), batch):
            self._pay(fresh[start : start + batch])

    def _pay(self, keys: list[Key]) -> None:
        sets = torch.stack([chosen_of(key, self.n) for key in keys])
        masks = mask_of(self.problem, sets.float())
        self.spent += len(keys)
        if self._has_effects is not False:
            try:
                effects = self.problem.effects(masks).detach().double().cpu().numpy()
            except InputError:
                self._has_effects = False
            else:
                for key, row in zip(keys, effects, strict=True):
                    self._keep(key, row, None)
                return
        for key, value in zip(keys, self.problem.value(masks).double().tolist(), strict=True):
            self._keep(key, None, value)

    def _keep(self, key: Key, effects: Float[np.ndarray, "example"] | None, value: float | None) -> None:
        if effects is not None:
            self._has_effects = True
            self._effects[key] = effects
            value = self.units.mean(effects)
        assert value is not None
        self._values[key] = value


def singles(n: int) -> Iterator[Chosen]:
    """Every component alone, as many at a time as one batch of masks holds: N x N numbers may have no room."""
    batch = max(1, MASK_ELEMENTS // n)
    for start in range(0, n, batch):
        rows = np.arange(start, min(start + batch, n))
        chosen = np.zeros((len(rows), n), bool)
        chosen[np.arange(len(rows)), rows] = True
        yield chosen


def _number(key: Key) -> int:
    """The set's bits as one number, the first component the highest."""
    return int.from_bytes(key, "big")


def _keys(chosen: Chosen) -> list[Key]:
    return [row.tobytes() for row in np.packbits(chosen, axis=1)]


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

    parts = [part for part in (problem.searched, problem.heldout) if part is not None]
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
    """Effects of each component by itself, on one part of the data."""

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
    """Return first-order effects from the empty set: the gradient there, as a mean for each group of pairs."""
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
