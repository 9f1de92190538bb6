"""Towards a target value: the distance of a metric's level from it, to be made small."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from cotrace.errors import InputError
from cotrace.metrics.answers import Answers
from cotrace.metrics.metric import AnyMetric, SetMetric, alike, weighted_mean


def towards(metric: AnyMetric, target: float) -> SetMetric:
    """The metric -|M - target|, M the (soft) mean level over the pairs; M itself is what is reported.

    Its effect, |M_base - target| - |M_z - target|, says how much nearer a mask brings the level; it is at most
    |M_base - target|. Raises InputError where the target lies outside the range of M.
    """
    low, high = metric.level_range
    if not low <= target <= high:
        raise InputError(f"target {target:g} is outside the range {low:g} .. {high:g} of {metric.name}")

    def nearness(scores: Tensor, base: Float[Tensor, "example answer"], answers: Answers) -> Float[Tensor, "*set"]:
        return -(metric.soft_level(scores, base, answers) - target).abs()

    found = SetMetric(
        name=f"{metric.name} to {target:g}",
        formula=f"how much nearer {metric.name} comes to {target:g}",
        soft_level=nearness,
        reported=metric.reported,
        level_range=metric.level_range,
        reads=metric.reads,
        check=metric.check,
        direction="maximise",
        target=target,
        strata=metric.strata if isinstance(metric, SetMetric) else alike,
    )
    if isinstance(metric, SetMetric) or metric.surrogate:
        return found

    def mean(levels: Tensor, base: Float[Tensor, "example column"], answers: Answers) -> Float[Tensor, "*set"]:
        return weighted_mean(levels[..., 0], answers)

    def near(levels: Tensor, base: Float[Tensor, "example column"], answers: Answers) -> Float[Tensor, "*set"]:
        return -(mean(levels, base, answers) - target).abs()

    return replace(found, each=metric, of_levels=replace(found, soft_level=near, reported=mean))
