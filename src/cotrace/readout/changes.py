"""Changes: what held runs do to the metric on one list of pairs, each run paid once, with intervals over pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cotrace.problem import LanguageProblem
from cotrace.problem.scored import TABLE_NUMBERS, PairProblem
from cotrace.problem.scorer import Scorer
from cotrace.problem.set_metric import SetProblem
from cotrace.readout.held import HeldRuns, Run, passes_of
from cotrace.statistics import Interval, Units, joint_intervals, mean_intervals

Progress = Callable[[str, int, int], None]
"""(what is done, how many are done, of how many)"""
Signed = Sequence[tuple[float, Run]]
"""Runs whose changes add up, each with its sign."""


def quiet(what: str, done: int, of: int) -> None:
    """Say nothing."""


def as_it_is(scorer: Scorer) -> Scorer:
    """The scorer itself."""
    return scorer


@dataclass(eq=False)
class Changes:
    """Changes of the metric against the base run. Whatever the problem's mode, 1 in a mask is the donor's value."""

    part: PairProblem | SetProblem
    units: Units
    name: str
    """``held-out`` or ``training``: which pairs these are."""
    progress: Progress = quiet
    seen_by: Callable[[Scorer], Scorer] = as_it_is
    """Makes of a scorer the one that runs: on another space, say."""
    spent: float = 0.0
    """Forward passes over all of these pairs so far."""
    _values: dict[Run, float] = field(default_factory=dict)
    _effects: dict[Run, Float[np.ndarray, "example"]] = field(default_factory=dict)

    @classmethod
    def of(cls, problem: LanguageProblem, name: str, progress: Progress = quiet) -> Changes:
        """Return the changes on the held-out pairs, or the training pairs."""
        part = problem.counted_parts[{"held-out": "heldout"}.get(name, name)]
        strata = part.strata if isinstance(part, SetProblem) else None
        weight = part.weights.double().cpu().numpy()
        return cls(part, Units.made(part.size, weight, problem.groups_of(part.ids), strata), name, progress)

    def on(self, seen_by: Callable[[Scorer], Scorer]) -> Changes:
        """Return the changes on the same pairs by other scorers; nothing is known yet."""
        return Changes(self.part, self.units, self.name, self.progress, seen_by)

    def measure(self, what: str, runs: Sequence[Run]) -> None:
        """Carry out those of the runs that were not yet. ``what`` is told to those who wait."""
        new = [run for run in dict.fromkeys(runs) if run not in self._values and (run.swapped or run.hold)]
        rows = max(1, TABLE_NUMBERS // self.part.scorer.base.numel())
        for at in range(0, len(new), rows):
            some = new[at : at + rows]
            self.part.charge(passes_of(some))
            self.spent += passes_of(some)
            changes = self._changes(some, self.ticking(what))
            if changes.ndim == 2:
                effects = changes.double().cpu().numpy()
                self._effects |= zip(some, effects, strict=True)
                self._values |= {run: self.units.mean(row) for run, row in zip(some, effects, strict=True)}
            else:
                self._values |= zip(some, changes.tolist(), strict=True)

    def ticking(self, what: str) -> Callable[[int], None]:
        """Tells those who wait how many pairs are done."""
        return lambda done: self.progress(what, done, self.part.size)

    def units_mean(self, values: Float[np.ndarray, "pair"], ids: Sequence[str]) -> float:
        """The weighted mean of numbers of some of the pairs."""
        weight = dict(zip(self.part.ids, self.units.weight, strict=True))
        own = np.array([weight[id_] for id_ in ids])
        return float((values * own).sum() / own.sum()) if own.sum() > 0 else float(values.mean())

    def _changes(self, runs: Sequence[Run], tick: Callable[[int], None]) -> Tensor:
        part = self.part
        if isinstance(part, SetProblem):
            return torch.stack([part.change([scores]) for scores in self._held(part.scorer).scores(runs, tick)])
        found = []
        for draw in (part, *part.draws):
            scores = self._held(draw.scorer).scores(runs, tick)
            found.append(part.metric.effects(scores, draw.scorer.base, part.answers))
        return torch.stack(found).mean(0)

    def _held(self, scorer: Scorer) -> HeldRuns:
        return HeldRuns(self.seen_by(scorer))

    def value(self, *signed: tuple[float, Run]) -> float:
        """The sum of the runs' changes, each times its sign; the base run's is 0."""
        return sum(sign * self._values.get(run, 0.0) for sign, run in signed)

    def intervals(self, rows: Sequence[Signed]) -> list[Interval | None]:
        """The interval of each such sum over pairs; None where the metric has no effect of each, or pairs are few."""
        if not rows or not self._effects:
            return [None] * len(rows)
        return mean_intervals(self._sums(rows), self.units)

    def joint_intervals(
        self, rows: Sequence[Signed], beside: Float[np.ndarray, "row example"] | None = None
    ) -> list[Interval | None]:
        """Intervals that hold all at once, of such sums and of effects that were measured otherwise, behind them."""
        if not self._effects:
            return [None] * (len(rows) + (0 if beside is None else len(beside)))
        sums = self._sums(rows)
        return joint_intervals(sums if beside is None else np.concatenate([sums, beside]), self.units)

    def _sums(self, rows: Sequence[Signed]) -> Float[np.ndarray, "row example"]:
        none = np.zeros(len(self.units.unit))
        sums = [sum((sign * self._effects.get(run, none) for sign, run in signed), none) for signed in rows]
        return np.array(sums).reshape(len(rows), len(none))
