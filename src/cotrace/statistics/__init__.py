"""The only bootstrap, jackknife, permutation tests and adjustments for many. Arrays in, intervals and p-values out."""

from cotrace.statistics.intervals import (
    CONFIDENCE,
    Interval,
    counts_of,
    covers,
    interval_of,
    interval_text,
    mean_interval,
    mean_intervals,
    median_interval,
    missing,
    set_interval,
    share_interval,
    widened,
)
from cotrace.statistics.permutation import (
    above_zero,
    controls_needed,
    holm,
    max_t,
    p_values,
    sign_flip_p,
    smallest_p,
)
from cotrace.statistics.units import (
    FEWEST_UNITS,
    RESAMPLES,
    Units,
    need_units,
)

__all__ = [
    "CONFIDENCE",
    "FEWEST_UNITS",
    "RESAMPLES",
    "Interval",
    "Units",
    "above_zero",
    "controls_needed",
    "counts_of",
    "covers",
    "holm",
    "interval_of",
    "interval_text",
    "max_t",
    "mean_interval",
    "mean_intervals",
    "median_interval",
    "missing",
    "need_units",
    "p_values",
    "set_interval",
    "share_interval",
    "sign_flip_p",
    "smallest_p",
    "widened",
]
