"""The metrics by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cotrace.errors import unknown
from cotrace.metrics.groups import GROUPS
from cotrace.metrics.metric import AnyMetric, Metric, SetMetric
from cotrace.metrics.own import load_own, own_metric
from cotrace.metrics.pairwise import PAIRWISE

METRICS: Mapping[str, AnyMetric] = {**PAIRWISE, **GROUPS}
"""Name -> metric."""


def metric_named(metric: str | AnyMetric | Callable[..., Any]) -> AnyMetric:
    """The metric of that name, of a file's or module's function, or of a function. Raises UnknownName, InputError."""
    if isinstance(metric, Metric | SetMetric):
        return metric
    if not isinstance(metric, str):
        return own_metric(metric)
    if ":" in metric:
        return load_own(metric)
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    return METRICS[metric]
