"""Bootstrap intervals of mean effects and of their differences, units resampled (BCa: Efron 1987), and sign flips."""

from __future__ import annotations

import warnings

import numpy as np
from jaxtyping import Float
from scipy import stats

from cotrace.errors import InputError
from cotrace.evaluation.units import Units

Interval = tuple[float, float]
CONFIDENCE = 0.95
RESAMPLES = 2_000
FEWEST_UNITS = 10
"""Fewest pairs, or groups of pairs, from which an interval is given."""


def mean_interval(
    effects: Float[np.ndarray, "example"], units: Units, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval | None:
    """BCa interval of the weighted mean; of a difference, give the differences. None where there are too few units.

    Where the acceleration is undefined (all units alike but one) it is the percentile interval.
    """
    if units.count < FEWEST_UNITS:
        return None
    sums, totals = units.sums(effects), units.totals
    mean = float(sums.sum() / totals.sum())
    if np.ptp(sums / totals) < 1e-12 * max(1.0, abs(mean)):
        return mean, mean
    for method in ("BCa", "percentile"):
        low, high = _scipy_interval(sums, totals, method, resamples, seed)
        if np.isfinite([low, high]).all():
            return low, high
    return None


def _scipy_interval(
    sums: Float[np.ndarray, "unit"], totals: Float[np.ndarray, "unit"], method: str, resamples: int, seed: int
) -> Interval:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy's note on degenerate data: the caller falls back
        result = stats.bootstrap(
            (sums, totals),
            lambda top, bottom, axis: top.sum(axis) / bottom.sum(axis),
            paired=True,
            vectorized=True,
            n_resamples=resamples,
            batch=500,
            confidence_level=widened(len(sums)),
            method=method,
            rng=np.random.default_rng(seed),
        )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def widened(count: int) -> float:
    """The level whose normal quantile is Student's at 95 %, times sqrt(n / (n - 1)).

    Resampling n units understates the spread by that factor and takes it as known (Hesterberg 2015, arXiv 1411.5279,
    the expanded percentile interval).
    """
    quantile = np.sqrt(count / (count - 1)) * stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)
    return float(2 * stats.norm.cdf(quantile) - 1)


def median_interval(effects: Float[np.ndarray, "example"], units: Units, *, resamples: int = 500) -> Interval | None:
    """Percentile interval of the median over examples, units resampled."""
    if units.count < FEWEST_UNITS:
        return None
    members = [np.flatnonzero(units.unit == unit) for unit in range(units.count)]
    result = stats.bootstrap(
        (np.arange(units.count),),
        lambda drawn: np.median(effects[np.concatenate([members[int(unit)] for unit in drawn])]),
        vectorized=False,
        n_resamples=resamples,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def need_units(units: Units, what: str, fewest: int = FEWEST_UNITS) -> None:
    """Raise InputError, saying how many are needed, where there are too few for what was asked for."""
    if units.count < fewest:
        unit = "groups of pairs" if units.clustered else "pairs"
        raise InputError(
            f"{what} needs at least {fewest} {unit}, and these are {units.count}: give more, or hold out more"
        )


def above_zero(effects: Float[np.ndarray, "test example"], units: Units) -> Float[np.ndarray, "test"]:
    """One-sided p-values that the means are above 0, adjusted for their number: sign flips, then Holm.

    The more tests, the more flips, so that the adjustment leaves p-values below 0.05 within reach.
    """
    flips = max(1_999, 100 * len(effects))
    return holm(np.array([sign_flip_p(row, units, resamples=flips) for row in effects]))


def sign_flip_p(effects: Float[np.ndarray, "example"], units: Units, *, resamples: int = 1_999, seed: int = 0) -> float:
    """One-sided p-value that the mean is above 0: the signs of the units' shares flipped (exact where they are few)."""
    shares = units.unit_means(effects)
    if np.all(shares == 0):
        return 1.0
    result = stats.permutation_test(
        (shares, np.zeros_like(shares)),
        lambda own, other, axis: (own - other).mean(axis),
        permutation_type="samples",
        alternative="greater",
        vectorized=True,
        n_resamples=resamples,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def holm(p_values: Float[np.ndarray, "test"]) -> Float[np.ndarray, "test"]:
    """Holm's adjusted p-values (1979): the i-th smallest times the number of those not smaller, made monotone."""
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    adjusted = np.empty_like(stepped)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
