"""Metrics: from answer scores to effects."""

from cotrace.metrics.groups import GROUPS, selection_rate_ratio
from cotrace.metrics.metric import Answers, AnyMetric, Metric, SetMetric
from cotrace.metrics.named import METRICS, metric_named, own_metric, towards

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
