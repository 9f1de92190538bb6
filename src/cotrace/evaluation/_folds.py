"""Parts of the pairs, whole groups each: resampled, or dealt out in folds."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from cotrace.errors import InputError
from cotrace.problem.protocol import Problem
from cotrace.statistics import Units


def strata(units: Units) -> list[Int[np.ndarray, "unit"]]:
    """Units that are drawn among themselves: in a sum of problems those with pairs of the same problems; else all."""
    held = [np.bincount(units.unit, own, minlength=units.count) > 0 for own in units.of_parts]
    kinds = [tuple(row) for row in np.stack(held, 1).tolist()]
    return [np.array([i for i, own in enumerate(kinds) if own == kind]) for kind in dict.fromkeys(kinds)]


def resampled(units: Units, count: int, seed: int) -> Float[np.ndarray, "resample unit"]:
    """How often each unit is drawn in each bootstrap resample, within its stratum."""
    found = strata(units)
    if len(found) == 1:
        return np.concatenate(list(units.resamples(count, seed)))
    draw, drawn = np.random.default_rng(seed), np.zeros((count, units.count))
    for members in found:
        drawn[:, members] = draw.multinomial(len(members), np.full(len(members), 1 / len(members)), size=count)
    return drawn


def folds(problem: Problem, count: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """(searched, unseen) examples of each fold; groups stay whole and are dealt out by size, the largest first.

    Those of each problem of a sum are dealt out by themselves, so that no fold lacks one. Raises InputError.
    """
    units = Units.of(problem)
    draw = np.random.default_rng(seed)
    sizes = np.bincount(units.unit)
    load, fold_of = np.zeros(count), np.zeros(units.count, np.int64)
    for members in strata(units):
        if len(members) < 2:
            raise InputError(
                "folds of a weighted sum need at least 2 groups of pairs of each of its problems, and one has 1: give "
                "more pairs"
            )
        own = np.zeros(count)
        for unit in sorted(draw.permutation(members).tolist(), key=lambda unit: -sizes[unit]):
            fold_of[unit] = np.lexsort((load, own))[0]
            own[fold_of[unit]] += sizes[unit]
            load[fold_of[unit]] += sizes[unit]
    own = fold_of[units.unit]
    return [(np.flatnonzero(own != f).tolist(), np.flatnonzero(own == f).tolist()) for f in range(count)]
