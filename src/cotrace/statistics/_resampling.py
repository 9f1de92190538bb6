"""Resampled units, permutation tests, and adjustments for many of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from cotrace.errors import InputError

Effects = Float[np.ndarray, "example"]
RESAMPLES = 2_000
FEWEST_UNITS = 10
"""Fewest pairs, or groups of pairs, from which an interval is given."""
MOST_LEFT_OUT = 2_000
"""Above so many units the jackknife of a number of the whole set leaves out groups of them."""
BLOCK = 1 << 20
"""Most numbers in one block of resamples."""


@dataclass(frozen=True, eq=False)
class Units:
    """Examples with their weights, and the unit that each belongs to."""

    weight: Float[np.ndarray, "example"]
    unit: Int[np.ndarray, "example"]
    """Number of the unit of each example, from 0."""
    part: Int[np.ndarray, "example"] | None = None
    """Number of each example's problem in a sum of problems: a mean is then the sum of the parts' means."""
    stratum: Int[np.ndarray, "example"] | None = None
    """Kind of each example where every resample must hold as many of each (groups that a gap compares)."""

    @classmethod
    def of(cls, problem: Any) -> Units:
        """Return the units of a ``Problem``, by the ``weights``, ``clusters``, ``strata`` and ``parts`` of its
        examples.
        """
        made = cls.made(problem.size, np.asarray(problem.weights, np.float64), problem.clusters, problem.strata)
        return made if problem.parts is None else replace(made, part=np.asarray(problem.parts, np.int64))

    @classmethod
    def made(
        cls,
        size: int,
        weight: Float[np.ndarray, "example"] | None = None,
        labels: Sequence[str] | None = None,
        strata: Sequence[int] | None = None,
    ) -> Units:
        """Equal weights, examples of their own and one stratum unless told."""
        own = np.arange(size) if labels is None else np.unique(np.array(labels), return_inverse=True)[1]
        kinds = None if strata is None else np.asarray(strata, np.int64)
        return cls(np.ones(size) if weight is None else weight, own.reshape(-1), stratum=kinds)

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
        """Return words such as ``48 pairs in 6 groups``."""
        pairs = f"{len(self.unit)} pairs"
        return f"{pairs} in {self.count} groups" if self.clustered else pairs

    def mean(self, effects: Effects) -> float:
        """The weighted mean: the aggregate that problems report."""
        return float((effects * self.weight).sum() / self.weight.sum())

    def sums(self, effects: Float[np.ndarray, "*set example"]) -> Float[np.ndarray, "*set unit"]:
        """Weighted sum of the effects in each unit."""
        rows = (effects * self.weight).reshape(-1, len(self.unit))
        table = np.stack([np.bincount(self.unit, row, minlength=self.count) for row in rows])
        return table.reshape(*effects.shape[:-1], self.count)

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
        """The units that count: the others are never drawn, for a resample of them alone would have no mean."""
        return np.asarray(self.totals > 0)

    @property
    def enough(self) -> bool:
        """Whether there are enough of them for an interval."""
        return int(self.weighed.sum()) >= FEWEST_UNITS

    def unit_means(self, effects: Float[np.ndarray, "*set example"]) -> Float[np.ndarray, "*set unit"]:
        """Each unit's share of the mean: their plain mean is the aggregate."""
        return np.asarray(self.sums(effects) / self.totals.mean())

    @cached_property
    def strata(self) -> Int[np.ndarray, "unit"]:
        """Units whose examples are of the same kinds are drawn among themselves.

        Kinds of one unit are drawn together, a single one with the most common kind: nothing tells how it varies, and
        it may then be missing from a resample.
        """
        if self.stratum is None:
            return np.zeros(self.count, np.int64)
        kinds: list[set[int]] = [set() for _ in range(self.count)]
        for unit, kind in np.unique(np.stack([self.unit, self.stratum], 1), axis=0).tolist():
            kinds[unit].add(kind)
        number: dict[tuple[int, ...], int] = {}
        own = np.array([number.setdefault(tuple(sorted(some)), len(number)) for some in kinds])
        counts = np.bincount(own[self.weighed], minlength=len(number))
        together = counts.argmax() if (counts == 1).sum() == 1 else len(number)
        return np.where(counts[own] < 2, together, own)

    @cached_property
    def _drawing(self) -> tuple[Int[np.ndarray, "some"], Int[np.ndarray, "some"], Int[np.ndarray, "some"]]:
        """The units that count, stratum by stratum; where the stratum of each begins, and how many it has."""
        there = np.flatnonzero(self.weighed)
        order = there[np.argsort(self.strata[there], kind="stable")]
        _, first, size = np.unique(self.strata[order], return_index=True, return_counts=True)
        return order, np.repeat(first, size), np.repeat(size, size)

    def resamples(self, count: int = RESAMPLES, seed: Any = 0) -> Iterator[Float[np.ndarray, "resample unit"]]:
        """How often each unit is drawn in each bootstrap resample, in blocks of resamples."""
        order, first, size = self._drawing
        draw = np.random.default_rng(seed)
        for rows in blocks(count, self.count):
            drawn = order[first + (draw.random((rows, len(order))) * size).astype(np.int64)]
            drawn += self.count * np.arange(rows)[:, None]
            yield np.bincount(drawn.ravel(), minlength=rows * self.count).reshape(rows, -1).astype(np.float64)

    @cached_property
    def left_out(self) -> tuple[Int[np.ndarray, "unit"], Int[np.ndarray, "group"]]:
        """The jackknife: the group that each unit is left out with (-1: never), and the stratum of each group.

        A unit is a group of its own up to 2,000 units; above, a stratum has groups as its share of the units is.
        """
        order, first, size = self._drawing
        share = min(1.0, MOST_LEFT_OUT / len(order))
        groups = np.minimum(size, np.maximum(2, (share * size).astype(np.int64)))
        inside = (np.arange(len(order)) - first) * groups // size
        number = np.unique(np.stack([first, inside], 1), axis=0, return_inverse=True)[1].reshape(-1)
        group = np.full(self.count, -1)
        group[order] = number
        return group, self.strata[order[np.unique(number, return_index=True)[1]]]


def blocks(rows: int, columns: int) -> Iterator[int]:
    """How many rows each block of a table has."""
    most = max(1, BLOCK // columns)
    for start in range(0, rows, most):
        yield min(most, rows - start)


def need_units(units: Units, what: str, fewest: int = FEWEST_UNITS) -> None:
    """Raise InputError, saying how many are needed, where there are too few for what was asked for."""
    count = int(units.weighed.sum())
    if count < fewest:
        unit = "groups of pairs" if units.clustered else "pairs"
        raise InputError(f"{what} needs at least {fewest} {unit}, and these are {count}: give more, or hold out more")


def above_zero(effects: Float[np.ndarray, "test example"], units: Units) -> Float[np.ndarray, "test"]:
    """One-sided p-values that the means are above 0, adjusted for their number: sign flips, then Holm.

    The more tests, the more flips, so that the adjustment leaves p-values below 0.05 within reach.
    """
    return holm(sign_flip_p(effects, units, flips=max(1_999, 100 * len(effects))))


def sign_flip_p(
    effects: Float[np.ndarray, "*test example"], units: Units, *, flips: int = 1_999, seed: int = 0
) -> Float[np.ndarray, "*test"]:
    """One-sided p-values that the means are above 0: the signs of the units' shares flipped (all ways where few)."""
    shares = units.unit_means(effects)
    observed, slack = shares.sum(-1), 1e-12 * np.abs(shares).sum(-1)
    exact = 2.0**units.count <= flips
    reached, tried = np.zeros(observed.shape, np.int64), 0
    for signs in _signs(units.count, 2**units.count if exact else flips, exact, seed):
        reached += (np.moveaxis(shares @ signs.T, -1, 0) >= observed - slack).sum(0)
        tried += len(signs)
    return np.asarray(reached / tried if exact else (1 + reached) / (1 + tried))


def _signs(count: int, flips: int, exact: bool, seed: int) -> Iterator[Float[np.ndarray, "flip unit"]]:
    draw, start = np.random.default_rng(seed), 0
    for rows in blocks(flips, count):
        codes = np.arange(start, start + rows)[:, None] >> np.arange(count) & 1 if exact else None
        ones = codes if codes is not None else draw.integers(0, 2, (rows, count), np.int8)
        yield 2.0 * ones - 1
        start += rows


def holm(p_values: Float[np.ndarray, "test"]) -> Float[np.ndarray, "test"]:
    """Holm's adjusted p-values (1979): the i-th smallest times the number of those not smaller, made monotone."""
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    adjusted = np.empty_like(stepped)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def p_values(
    observed: Float[np.ndarray, "size"], controls: Float[np.ndarray, "chain size"]
) -> Float[np.ndarray, "size"]:
    """For each size the share of sets, the selection among them, with at least its effect. Larger is better."""
    return np.asarray((1 + (controls >= observed).sum(0)) / (1 + len(controls)))


def max_t(observed: Float[np.ndarray, "size"], controls: Float[np.ndarray, "chain size"]) -> Float[np.ndarray, "size"]:
    """p-values adjusted for looking at all sizes, by the largest standardised effect of each chain.

    The single-step max-T of Westfall and Young (1993). Means and deviations are taken over controls and selection
    together, so that under the null hypothesis all of them may change places.
    """
    together = np.concatenate([observed[None], controls])
    scale = together.std(0)
    steps = np.where(scale > 0, (together - together.mean(0)) / np.where(scale > 0, scale, 1.0), 0.0)
    largest = steps[1:].max(1)
    return np.asarray((1 + (largest[:, None] >= steps[0][None] - 1e-12).sum(0)) / (1 + len(controls)))


def smallest_p(count: int) -> float:
    """The smallest p-value that so many controls can give."""
    return 1 / (1 + count)


def controls_needed(p: float) -> int:
    """How many controls can give a p-value as small as this."""
    return int(np.ceil(1 / p - 1e-9)) - 1
