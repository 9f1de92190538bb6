"""Judge: effects of chosen sets on the pairs that judge, each set paid once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float

from cotrace.components import Component
from cotrace.errors import InputError
from cotrace.evaluation.units import Units
from cotrace.problem.protocol import Problem
from cotrace.results.effects import EffectTable
from cotrace.search.archive import Key, chosen_of
from cotrace.search.sets import MASK_ELEMENTS, mask_of

Chosen = Bool[np.ndarray, "set n"]


class Judge:
    """Values and per-example effects of chosen sets on one list of pairs. Effects are signed as the metric is."""

    def __init__(self, problem: Problem, stored: EffectTable | None = None) -> None:
        self.problem = problem
        self.n = len(problem.space)
        self.sign = 1.0 if problem.direction == "maximise" else -1.0
        self.units = Units.of(problem)
        self.spent = 0
        """Masks evaluated: one on all of these pairs is one forward-equivalent."""
        self.stored = stored if stored is not None and stored.n == self.n else None
        self._effects: dict[Key, Float[np.ndarray, "example"]] = {}
        self._values: dict[Key, float] = {}
        self._has_effects: bool | None = None

    @property
    def has_effects(self) -> bool:
        """Whether the metric has an effect of each example; found out by the first evaluation."""
        if self._has_effects is None:
            self.values(np.ones((1, self.n), bool))
        return bool(self._has_effects)

    def rows(self, sets: Sequence[Sequence[Component]]) -> Chosen:
        """Chosen indicators of these sets. Raises InputError for a component outside the space."""
        chosen = np.zeros((len(sets), self.n), bool)
        for row, members in zip(chosen, sets, strict=True):
            row[list(self.problem.space.indices(members))] = True
        return chosen

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


def _keys(chosen: Chosen) -> list[Key]:
    return [row.tobytes() for row in np.packbits(chosen, axis=1)]
