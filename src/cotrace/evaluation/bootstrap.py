"""Bootstrap intervals of means, ratios and differences of effects, units resampled (BCa: Efron 1987); sign flips."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence

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


Effects = Float[np.ndarray, "example"]


def mean_interval(
    effects: Effects, units: Units, over: Effects | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval | None:
    """BCa interval of the weighted mean; of a difference, give the differences. None where there are too few units.

    Faithfulness is a ratio: its effects are shares of what all pairs together would restore, which is as uncertain as
    they are. ``over`` holds what each pair would restore (the effects of everything), and is resampled with them.
    Where the acceleration is undefined (all units alike but one) it is the percentile interval.
    """
    if units.weighed.sum() < FEWEST_UNITS:
        return None
    tops, bottoms = (units.sums(table)[:, units.weighed] for table in _tables(effects, units, over))
    means, weights = tops.sum(1) / bottoms.sum(1), (units.of_parts @ units.weight) / units.weight.sum()
    mean = float(weights @ means)
    if np.abs(tops - means[:, None] * bottoms).max() <= 1e-12 * max(1.0, abs(mean)) * np.abs(bottoms).max():
        return mean, mean

    def statistic(*columns: np.ndarray, axis: int) -> np.ndarray:
        """The weighted sum of the parts' means; a part that was not drawn at all stays as it is."""
        top, bottom = np.split(np.stack(columns).sum(axis), 2)
        own = np.broadcast_to(means.reshape(-1, *[1] * (top.ndim - 1)), top.shape).copy()
        return np.asarray(np.tensordot(weights, np.divide(top, bottom, out=own, where=bottom != 0), 1))

    for method in ("BCa", "percentile"):
        low, high = _scipy_interval([*tops, *bottoms], statistic, method, resamples, seed)
        if np.isfinite([low, high]).all():
            return low, high
    return None


def _tables(effects: Effects, units: Units, over: Effects | None) -> Iterator[Float[np.ndarray, "part example"]]:
    """Effects, and what their sums are divided by (1 on average), of each part by itself."""
    yield units.of_parts * effects
    if over is None:
        yield units.of_parts
    else:
        own = units.of_parts * units.weight
        yield units.of_parts * over / ((own @ over) / own.sum(1))[:, None]


def _totals(units: Units, over: Effects | None) -> Float[np.ndarray, "unit"]:
    """What the sums of effects are divided by, in units of weight."""
    return units.totals if over is None else units.sums(over) / units.mean(over)


def _scipy_interval(
    columns: Sequence[Float[np.ndarray, "unit"]],
    statistic: Callable[..., np.ndarray],
    method: str,
    resamples: int,
    seed: int,
) -> Interval:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy's note on degenerate data: the caller falls back
        result = stats.bootstrap(
            tuple(columns),
            statistic,
            paired=True,
            vectorized=True,
            n_resamples=resamples,
            batch=500,
            confidence_level=widened(len(columns[0])),
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


def median_interval(
    effects: Effects, units: Units, over: Effects | None = None, *, resamples: int = 500
) -> Interval | None:
    """Percentile interval of the median over examples, units resampled; ``over`` as for the mean."""
    if units.weighed.sum() < FEWEST_UNITS:
        return None
    members = [np.flatnonzero(units.unit == unit) for unit in range(units.count)]
    totals, weights = _totals(units, over), units.totals

    def median(drawn: np.ndarray) -> float:
        some = drawn.astype(np.int64)
        middle = np.median(effects[np.concatenate([members[unit] for unit in some])])
        return float(middle if over is None else middle * weights[some].sum() / totals[some].sum())

    result = stats.bootstrap(
        (np.arange(units.count),),
        median,
        vectorized=False,
        n_resamples=resamples,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


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
    flips = max(1_999, 100 * len(effects))
    return holm(np.array([sign_flip_p(row, units, resamples=flips) for row in effects]))


def sign_flip_p(effects: Float[np.ndarray, "example"], units: Units, *, resamples: int = 1_999, seed: int = 0) -> float:
    """One-sided p-value that the mean is above 0: the signs of the units' shares flipped (exact where they are few)."""
    shares = units.unit_means(effects)
    if np.all(shares == 0):
        return 1.0
    if len(shares) == 1:  # of its two signs one is as it is; scipy takes two units or more
        return 0.5 if shares[0] > 0 else 1.0
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
