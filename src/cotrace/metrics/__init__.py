"""Metrics: from answer scores to effects."""

from cotrace.metrics.answers import Answers
from cotrace.metrics.groups import GROUPS, selection_rate_ratio
from cotrace.metrics.metric import AnyMetric, Metric, SetMetric
from cotrace.metrics.own import own_metric
from cotrace.metrics.registry import METRICS, metric_named
from cotrace.metrics.towards import towards

__all__ = [
    "GROUPS",
    "METRICS",
    "Answers",
    "AnyMetric",
    "Metric",
    "SetMetric",
    "metric_named",
    "own_metric",
    "selection_rate_ratio",
    "towards",
]
