"""Intervals of a number for the whole set (a gap between groups): recomputed on resampled units, BCa (Efron 1987)."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from scipy import stats

from cotrace.evaluation.bootstrap import FEWEST_UNITS, Interval, widened
from cotrace.evaluation.units import Units

DRAWS = 2_000
MOST_MISSING = 0.05
"""Share of the resamples that may have no value, as where a group is not drawn; with more there is no interval."""


@runtime_checkable
class Redrawn(Protocol):
    """A problem whose value can be had again with its examples counted otherwise, at the cost of one evaluation."""

    def redrawn(self, masks: Any, counts: Any) -> Any:
        """Value [mask, draw] of each mask, every example counting as often as a row of ``counts`` says."""


def counts_of(units: Units, seed: int = 0) -> Float[np.ndarray, "draw example"]:
    """The data as they are, then each unit left out, then the resamples; the same for every set, so they pair."""
    left_out = 1.0 - np.eye(units.count)
    draws = np.concatenate([np.ones((1, units.count)), left_out, units.resamples(DRAWS, seed)])
    return np.asarray(draws[:, units.unit])


def interval_of(values: Float[np.ndarray, "draw"], units: Units) -> Interval | None:
    """BCa interval from the values that ``counts_of`` gives. None where there are too few units or values."""
    value, left_out, drawn = values[0], values[1 : 1 + units.count], values[1 + units.count :]
    there = drawn[np.isfinite(drawn)]
    if units.count < FEWEST_UNITS or len(there) < (1 - MOST_MISSING) * len(drawn):
        return None
    if np.ptp(there) < 1e-12:
        return float(value), float(value)
    below = (np.sum(there < value) + np.sum(there == value) / 2) / len(there)
    centre = stats.norm.ppf(np.clip(below, 1 / len(there), 1 - 1 / len(there)))
    tails = np.array([-1, 1]) * stats.norm.ppf((1 + widened(units.count)) / 2)
    shifted = centre + tails
    at = stats.norm.cdf(centre + shifted / (1 - acceleration(left_out) * shifted))
    low, high = np.quantile(there, at)
    return float(low), float(high)


def acceleration(left_out: Float[np.ndarray, "unit"]) -> float:
    """Skewness of the values with each unit left out; 0 where they are alike or one has no value."""
    distance = left_out.mean() - left_out
    spread = float((distance**2).sum())
    return 0.0 if not spread > 0 else float((distance**3).sum() / (6 * spread**1.5))
