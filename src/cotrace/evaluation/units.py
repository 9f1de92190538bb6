"""Units: what is resampled. Pairs that stay together in a split are one unit, for their effects are not independent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from cotrace.problem.protocol import Problem


@dataclass(frozen=True, eq=False)
class Units:
    """Examples with their weights, and the unit that each belongs to."""

    weight: Float[np.ndarray, "example"]
    unit: Int[np.ndarray, "example"]
    """Number of the unit of each example, from 0."""
    part: Int[np.ndarray, "example"] | None = None
    """In a sum of problems the number of the problem of each example: a mean is then the sum of the parts' means."""

    @classmethod
    def of(cls, problem: Problem) -> Units:
        """From a problem that may say how much its examples count and which belong together."""
        weights = getattr(problem, "weights", None)
        labels: Sequence[str] | None = getattr(problem, "clusters", None)
        parts = getattr(problem, "parts", None)
        made = cls.made(problem.size, None if weights is None else np.asarray(weights, np.float64), labels)
        return made if parts is None else replace(made, part=np.asarray(parts, np.int64))

    @classmethod
    def made(
        cls,
        size: int,
        weight: Float[np.ndarray, "example"] | None = None,
        labels: Sequence[str] | None = None,
    ) -> Units:
        """Equal weights and examples of their own unless told."""
        own = np.arange(size) if labels is None else np.unique(np.array(labels), return_inverse=True)[1]
        return cls(np.ones(size) if weight is None else weight, own.reshape(-1))

    @property
    def count(self) -> int:
        """How many units there are."""
        return int(self.unit.max()) + 1

    @property
    def clustered(self) -> bool:
        """Whether some unit holds several examples."""
        return self.count < len(self.unit)

    @property
    def words(self) -> str:
        """Such as ``48 pairs in 6 groups``."""
        pairs = f"{len(self.unit)} pairs"
        return f"{pairs} in {self.count} groups" if self.clustered else pairs

    def mean(self, effects: Float[np.ndarray, "example"]) -> float:
        """The weighted mean: the aggregate that problems report."""
        return float((effects * self.weight).sum() / self.weight.sum())

    def sums(self, effects: Float[np.ndarray, "*set example"]) -> Float[np.ndarray, "*set unit"]:
        """Weighted sum of the effects in each unit."""
        table = np.zeros((self.count, *effects.shape[:-1]))
        np.add.at(table, self.unit, np.moveaxis(effects * self.weight, -1, 0))
        return np.moveaxis(table, 0, -1)

    @cached_property
    def totals(self) -> Float[np.ndarray, "unit"]:
        """Weight of each unit."""
        return np.bincount(self.unit, self.weight, minlength=self.count)

    @cached_property
    def of_parts(self) -> Float[np.ndarray, "part example"]:
        """1 where an example belongs to a part; one part of all examples where there are no others."""
        own = np.zeros(len(self.unit), np.int64) if self.part is None else self.part
        return np.asarray(own == np.arange(own.max() + 1)[:, None], np.float64)

    @cached_property
    def weighed(self) -> Bool[np.ndarray, "unit"]:
        """The units that count: a resample of those without weight alone would have no mean."""
        return np.asarray(self.totals > 0)

    def unit_means(self, effects: Float[np.ndarray, "example"]) -> Float[np.ndarray, "unit"]:
        """Each unit's share of the mean: their plain mean is the aggregate."""
        return np.asarray(self.sums(effects) / self.totals.mean())

    def resamples(self, count: int, seed: int) -> Float[np.ndarray, "resample unit"]:
        """How often each unit is drawn in each bootstrap resample."""
        drawn = np.random.default_rng(seed).multinomial(self.count, np.full(self.count, 1 / self.count), size=count)
        return drawn.astype(np.float64)
