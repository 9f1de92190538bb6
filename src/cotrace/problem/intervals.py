"""Bootstrap intervals over pairs, or over groups of pairs that stay together in a split."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

Doubles = npt.NDArray[np.float64]
Interval = tuple[float, float]
CONFIDENCE = 0.95
RESAMPLES = 2_000
FEWEST_FOR_INTERVAL = 8


Labels = Sequence[str] | None
"""What each pair stays together with; None where each stands for itself."""


def mean_interval(
    values: Doubles, weight: Doubles, confidence: float = CONFIDENCE, labels: Labels = None
) -> Interval | None:
    """Percentile interval of the weighted mean, pairs (those of one label together) resampled; None for too few."""
    sums, weights = _added([values * weight, weight], labels)
    some = weights > 0  # a resample of pairs that count nothing has no mean
    if some.sum() < FEWEST_FOR_INTERVAL:
        return None
    result = stats.bootstrap(
        (sums[some], weights[some]),
        lambda s, w, axis: s.sum(axis) / w.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=100,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def share_interval(
    values: Doubles, weight: Doubles, over: Doubles, whole: Doubles, labels: Labels = None
) -> Interval | None:
    """Percentile interval of the mean of values by ``weight`` over that of ``over`` by ``whole``; both are resampled.

    ``weight`` is 0 outside a subgroup; a resample without any of it says nothing and is left out.
    """
    sums = _added([values * weight, weight, over * whole, whole], labels)
    sums = sums[:, sums[3] > 0]
    if (sums[1] > 0).sum() < FEWEST_FOR_INTERVAL:
        return None
    count = sums.shape[1]
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    a, b, c, d = sums @ drawn.T
    there = (b > 0) & (c != 0)
    low, high = np.quantile((a * d)[there] / (b * c)[there], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _added(columns: Sequence[Doubles], labels: Labels) -> Doubles:
    """[column, unit]: numbers of the pairs of one label added up."""
    unit = np.arange(len(columns[0])) if labels is None else np.unique(np.array(labels), return_inverse=True)[1]
    return np.stack([np.bincount(unit.reshape(-1), column) for column in columns])


def set_interval(
    number: Callable[[npt.NDArray[np.int64]], float],
    strata: Sequence[Sequence[int]],
    resamples: int = 500,
    confidence: float = CONFIDENCE,
    labels: Labels = None,
) -> Interval | None:
    """Percentile interval of a number of the whole set (a function of indices), pairs resampled within their stratum.

    Pairs of one label (in one stratum) are drawn together. None where there are too few of them. Within strata, because
    a group that is missing from a resample has no rate.
    """
    units = [_members(stratum, labels) for stratum in strata]
    if sum(map(len, units)) < FEWEST_FOR_INTERVAL:
        return None
    single = [stratum[0] for stratum in units if len(stratum) == 1]
    several = [stratum for stratum in units if len(stratum) > 1]
    if not several:
        return None

    def again(*drawn: npt.NDArray[np.int64]) -> float:
        picked = [stratum[int(i)] for stratum, some in zip(several, drawn, strict=True) for i in some]
        return number(np.sort(np.concatenate([*picked, *single])))

    result = stats.bootstrap(
        [np.arange(len(stratum)) for stratum in several],
        again,
        vectorized=False,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _members(stratum: Sequence[int], labels: Labels) -> list[npt.NDArray[np.int64]]:
    """Indices of the pairs of each label."""
    found: dict[object, list[int]] = {}
    for i in stratum:
        found.setdefault(i if labels is None else labels[i], []).append(i)
    return [np.array(members) for members in found.values()]
