"""Intervals: BCa bootstrap (Efron 1987, JASA 82: 171-185) of means, ratios, medians and numbers of the whole set.

All from 2,000 resamples of at least 10 units, at a level widened for small samples (Hesterberg 2015, arXiv 1411.5279).
Time and memory are linear in units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtr, ndtri, stdtrit  # scipy.stats has the same functions, and takes a second to load

from cotrace.statistics._resampling import FEWEST_UNITS, RESAMPLES, Effects, Units, blocks

Interval = tuple[float, float]
CONFIDENCE = 0.95
MOST_MISSING = 0.05
"""Share of the resamples that may have no value, as where a group is not drawn; with more there is no interval."""
TABLE = 1 << 22
"""Most numbers in one table of sets and units."""
Statistic = Callable[[Sequence[np.ndarray]], np.ndarray]
"""Sums [set, ...] of several columns -> a number [set, ...]."""


def interval_text(interval: Interval | None, form: str | Callable[[float], str] = "+.3g", between: str = " .. ") -> str:
    """Return text such as ``+0.12 .. +0.34``, each end written by ``form``; empty where there is none."""
    show = form if callable(form) else lambda end: f"{end:{form}}"
    return "" if interval is None else between.join(map(show, interval))


def covers(interval: Interval | None, value: float = 0.0) -> bool:
    """Whether there is an interval, and it holds this value."""
    return interval is not None and interval[0] <= value <= interval[1]


# Intervals of numbers that are functions of sums over units: means, ratios, shares. The jackknife has a closed form.


def mean_interval(effects: Effects, units: Units, over: Effects | None = None, **settings: Any) -> Interval | None:
    """Interval of one weighted mean: see ``mean_intervals``."""
    return mean_intervals(effects[None], units, over, **settings)[0]


def mean_intervals(
    effects: Float[np.ndarray, "set example"], units: Units, over: Effects | None = None, **settings: Any
) -> list[Interval | None]:
    """Interval of the weighted mean of each row; of a difference, give the differences. None for too few units.

    Faithfulness is a ratio: its effects are shares of what all pairs together would restore, which is as uncertain as
    they are. ``over`` holds what each pair would restore (the effects of everything), and is resampled with them.
    ``settings``: confidence, resamples, seed.
    """
    if not len(effects):
        return []
    if over is None:
        bottoms = units.of_parts
    else:
        own = units.of_parts * units.weight
        bottoms = units.of_parts * over / ((own @ over) / own.sum(1))[:, None]
    below, shares = list(units.sums(bottoms)[:, None]), (units.of_parts @ units.weight) / units.weight.sum()
    found: list[Interval | None] = []
    for rows in np.array_split(effects, -(-effects.shape[0] * bottoms.shape[0] * units.count // TABLE)):
        above = list(units.sums(units.of_parts[:, None] * rows))
        means = [top.sum(-1) / bottom.sum(-1) for top, bottom in zip(above, below, strict=True)]
        found += _of_sums([*above, *below], _mean_of_parts(shares, means), units, **settings)
    return found


def joint_intervals(
    effects: Float[np.ndarray, "set example"],
    units: Units,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Interval | None]:
    """Intervals of the weighted mean of each row that hold all at once with this confidence. None for too few units.

    By the largest standardised deviation of the resampled means, over all rows (max-T, Westfall and Young 1993), which
    takes account of how they go together; widened for small samples as the others are, and symmetric: what skewness
    would need, percentiles that far out, 2,000 resamples do not give.
    """
    if not len(effects) or not units.enough:
        return [None] * len(effects)
    shares = (units.of_parts @ units.weight) / units.weight.sum()
    below = list(units.sums(units.of_parts[:, None]))
    values, drawn = [], []
    for rows in np.array_split(effects, -(-effects.shape[0] * len(shares) * units.count // TABLE)):
        above = list(units.sums(units.of_parts[:, None] * rows))
        means = [top.sum(-1) / bottom.sum(-1) for top, bottom in zip(above, below, strict=True)]
        mean = _mean_of_parts(shares, means)
        with np.errstate(divide="ignore", invalid="ignore"):
            values.append(mean([column.sum(-1) for column in (*above, *below)]))
            drawn.append(_drawn([*above, *below], mean, units, resamples, seed))
    return _all_at_once(np.concatenate(values), np.concatenate(drawn), units, confidence)


def _all_at_once(
    values: Float[np.ndarray, "set"], drawn: Float[np.ndarray, "set resample"], units: Units, confidence: float
) -> list[Interval | None]:
    away, spread = np.abs(drawn - values[:, None]), drawn.std(1)
    varies = np.ptp(drawn, 1) > 1e-12 * np.maximum(1.0, np.abs(values))
    steps = away[varies] / spread[varies, None]
    largest = float(np.quantile(steps.max(0), confidence)) if varies.any() else 0.0
    half = np.where(varies, _expanded(*_sample(units), float(ndtr(-largest))) * spread, 0.0)
    return [(float(v - h), float(v + h)) for v, h in zip(values, half, strict=True)]


def _mean_of_parts(shares: Float[np.ndarray, "part"], means: Sequence[Float[np.ndarray, "set"]]) -> Statistic:
    """The weighted sum of the parts' ratios; a part that was not drawn at all stays as it is."""

    def mean(sums: Sequence[np.ndarray]) -> np.ndarray:
        total = 0.0
        for i, (share, own) in enumerate(zip(shares, means, strict=True)):
            above, below = sums[i], sums[i + len(shares)]
            total = total + share * np.where(below != 0, above / below, own.reshape(-1, *[1] * (above.ndim - 1)))
        return np.asarray(total)

    return mean


def share_interval(effects: Effects, own: Effects, over: Effects, units: Units) -> Interval | None:
    """Interval of the mean of effects by the weight ``own`` over the mean of ``over`` in all units; both are resampled.

    ``own`` is 0 outside a subgroup. A resample without any of it has no value.
    """
    count = np.bincount(units.unit, own, minlength=units.count)
    if (count > 0).sum() < FEWEST_UNITS:
        return None
    above = np.bincount(units.unit, effects * own, minlength=units.count)
    columns = [column[None] for column in (above, count, units.sums(over), units.totals)]
    return _of_sums(columns, lambda sums: (sums[0] * sums[3]) / (sums[1] * sums[2]), units)[0]


def _of_sums(
    columns: Sequence[Float[np.ndarray, "_ unit"]],
    statistic: Statistic,
    units: Units,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Interval | None]:
    """Intervals of a function of sums over units; a column may be one for all sets."""
    count = max(map(len, columns))
    if not units.enough:
        return [None] * count
    totals = [column.sum(-1) for column in columns]
    there, strata = units.weighed, units.strata[units.weighed]
    with np.errstate(divide="ignore", invalid="ignore"):
        values = statistic(totals)
        left = statistic([total[:, None] - column[:, there] for total, column in zip(totals, columns, strict=True)])
        drawn = _drawn(columns, statistic, units, resamples, seed)
    rows = zip(values, drawn, left, strict=True)
    return [_bca(float(value), row, acceleration(out, strata), units, confidence) for value, row, out in rows]


def _drawn(
    columns: Sequence[Float[np.ndarray, "_ unit"]], statistic: Statistic, units: Units, resamples: int, seed: int
) -> Float[np.ndarray, "set resample"]:
    """The statistic of each resample."""
    found = [
        # Row by row: a product of matrices would round each set by how many there are.
        statistic([np.stack([counts @ row for row in column]) for column in columns])
        for counts in units.resamples(resamples, seed)
    ]
    return np.concatenate(found, -1)


# Intervals of any number of the whole set, such as a gap between groups: it is computed again on the resamples.


def counts_of(units: Units, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[Float[np.ndarray, "draw example"]]:
    """How often each example counts: in the data as they are, with each group left out, in the resamples; in blocks.

    The same for every set, so that differences are paired.
    """
    yield np.ones((1, len(units.unit)))
    group, strata = units.left_out
    start = 0
    for rows in blocks(len(strata), units.count):
        numbers = np.arange(start, start + rows)
        yield np.asarray(group[units.unit] != numbers[:, None], np.float64)
        start += rows
    for counts in units.resamples(resamples, seed):
        yield counts[:, units.unit]


def interval_of(values: Float[np.ndarray, "draw"], units: Units, *, confidence: float = CONFIDENCE) -> Interval | None:
    """Interval from the values that the number has on ``counts_of``. None for too few units or values."""
    strata = units.left_out[1]
    if not units.enough or not np.isfinite(values[0]):
        return None
    left, drawn = values[1 : 1 + len(strata)], values[1 + len(strata) :]
    return _bca(float(values[0]), drawn, acceleration(left, strata), units, confidence)


def missing(values: Float[np.ndarray, "draw"], units: Units) -> int:
    """How many of the resamples have no value, as where a group is not drawn."""
    return int((~np.isfinite(values[1 + len(units.left_out[1]) :])).sum())


def set_interval(
    value: Callable[[Float[np.ndarray, "draw example"]], Any], units: Units, *, confidence: float = CONFIDENCE
) -> Interval | None:
    """Interval of a number of the whole set, given as a function of how often each example counts. None for too few."""
    if not units.enough:
        return None
    found = np.concatenate([np.asarray(value(counts), np.float64) for counts in counts_of(units)])
    return interval_of(found, units, confidence=confidence)


def median_interval(
    effects: Effects, units: Units, over: Effects | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval | None:
    """Interval of the median over examples, units resampled; ``over`` as for the mean.

    The jackknife says nothing of a median's skewness (it takes two values), so the acceleration is 0.
    """
    if not units.enough:
        return None
    order = np.argsort(effects, kind="stable")
    ordered, unit = effects[order], units.unit[order]
    scale = None if over is None else units.sums(over) / units.mean(over)

    def medians(counts: Float[np.ndarray, "some unit"]) -> Float[np.ndarray, "some"]:
        upto = np.cumsum(counts[:, unit], 1)
        last = upto[:, -1:]
        places = [(upto <= np.floor((last - lower) / 2)).sum(1) for lower in (1, 0)]
        middle = (ordered[places[0]] + ordered[places[1]]) / 2
        return np.asarray(middle if scale is None else middle * (counts @ units.totals) / (counts @ scale))

    value = float(medians(np.ones((1, units.count)))[0])
    every = replace(units, weight=np.ones(len(effects)))  # medians are not weighted
    drawn = np.concatenate([medians(counts) for counts in every.resamples(resamples, seed)])
    return _bca(value, drawn, 0.0, units, CONFIDENCE)


def _bca(
    value: float, drawn: Float[np.ndarray, "resample"], pull: float, units: Units, confidence: float
) -> Interval | None:
    """Bias-corrected and accelerated percentiles of the resampled values; of no width where these are alike."""
    there = drawn[np.isfinite(drawn)]
    if len(there) < (1 - MOST_MISSING) * len(drawn):
        return None
    if np.ptp(there) <= 1e-12 * max(1.0, abs(value)):
        return value, value
    alike = 1e-6 * np.ptp(there)  # a resample of the same units has the same value but for rounding
    below = (np.sum(there < value - alike) + np.sum(there <= value + alike)) / (2 * len(there))
    centre = ndtri(np.clip(below, 1 / len(there), 1 - 1 / len(there)))
    level = widened(*_sample(units), confidence)
    shifted = centre + np.array([-1, 1]) * ndtri((1 + level) / 2)
    at = ndtr(centre + shifted / np.maximum(1 - pull * shifted, 1e-9))
    low, high = np.quantile(there, at)
    return float(low), float(high)


def acceleration(left_out: Float[np.ndarray, "group"], strata: Int[np.ndarray, "group"] | None = None) -> float:
    """Skewness of the values with each unit (or group of some) left out; 0 where they are alike or one has no value.

    Each stratum by itself, for several samples: Efron and Tibshirani 1993, An Introduction to the Bootstrap, 14.3.
    """
    own = np.unique(np.zeros(len(left_out)) if strata is None else strata, return_inverse=True)[1].reshape(-1)
    count = np.bincount(own)
    distance = (np.bincount(own, left_out) / count)[own] - left_out
    distance *= ((count - 1) / count)[own]
    spread = float((distance**2).sum())
    return float((distance**3).sum() / (6 * spread**1.5)) if spread > 0 else 0.0


def widened(count: int, strata: int = 1, confidence: float = CONFIDENCE) -> float:
    """The level whose normal quantile is Student's, times sqrt(n / (n - strata)).

    Resampling n units understates the spread by that factor and takes it as known (Hesterberg 2015, arXiv 1411.5279,
    the expanded percentile interval); every stratum costs a degree of freedom.
    """
    return float(2 * ndtr(_expanded(count, strata, (1 - confidence) / 2)) - 1)


def _expanded(count: int, strata: int, tail: float) -> float:
    """Return Student's quantile with so much of the distribution above it, times sqrt(n / (n - strata))."""
    free = count - strata
    return float(-np.sqrt(count / free) * stdtrit(free, tail))


def _sample(units: Units) -> tuple[int, int]:
    """How many units count, and in how many strata."""
    return int(units.weighed.sum()), len(np.unique(units.strata[units.weighed]))
