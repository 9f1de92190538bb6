"""Bootstrap intervals over pairs."""

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


def mean_interval(values: Doubles, weight: Doubles, confidence: float = CONFIDENCE) -> Interval | None:
    """Percentile interval of the weighted mean, pairs resampled; None where there are too few."""
    if len(values) < FEWEST_FOR_INTERVAL:
        return None
    result = stats.bootstrap(
        (values, weight),
        lambda e, w, axis: (e * w).sum(axis) / w.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=100,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def set_interval(
    number: Callable[[npt.NDArray[np.int64]], float],
    strata: Sequence[Sequence[int]],
    resamples: int = 500,
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """Percentile interval of a number of the whole set (a function of indices), pairs resampled within their stratum.

    None where there are too few pairs. Within strata, because a group that is missing from a resample has no rate.
    """
    if sum(map(len, strata)) < FEWEST_FOR_INTERVAL:
        return None
    single = [np.array(stratum) for stratum in strata if len(stratum) == 1]
    several = [np.array(stratum) for stratum in strata if len(stratum) > 1]
    if not several:
        return None
    result = stats.bootstrap(
        several,
        lambda *samples: number(np.sort(np.concatenate([*samples, *single]))),
        vectorized=False,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
