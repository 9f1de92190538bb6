"""Metrics by name: functions of answer scores, nearness to a target, and the user's own.

With odds o = sum of p(others) / p(target), numerator 1 where there is one answer (DESIGN section 5). docs/metrics.md
lists formula, range, transformation and source of each.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cotrace.errors import CotraceError, InputError, unknown
from cotrace.metrics.groups import GROUPS
from cotrace.metrics.metric import (
    Answers,
    AnyMetric,
    Level,
    Metric,
    Reads,
    Scores,
    SetMetric,
    alike,
    chosen,
    log_odds,
    log_share,
    other_answers,
    score_of,
    weighted_mean,
)
from cotrace.validation import checked


def log_probability(scores: Scores, answers: Answers) -> Float[Tensor, "*mask example"]:
    """log p(target), at most 0."""
    return score_of(scores, answers.target)


def logit_diff(scores: Scores, answers: Answers) -> Float[Tensor, "*mask example"]:
    """log p(target) - mean log p(others): the difference of logits where answers are one token; any real number.

    Source: Wang et al. 2022, arXiv 2211.00593 (two answers, for which it is -log o).
    """
    others = other_answers(answers)
    mean = (scores * others).sum(-1) / others.sum(-1)
    return score_of(scores, answers.target) - mean


def nll(scores: Scores, answers: Answers) -> Float[Tensor, "*mask example"]:
    """-log p(target); at least 0. With ``score="mean"`` it is per token, and its exponential the perplexity."""
    return -score_of(scores, answers.target)


def next_token(logits: Scores, answers: Answers) -> Float[Tensor, "*mask example token"]:
    """log p(next token | prompt) of every token."""
    return torch.log_softmax(logits, -1)


def divergence(
    inner: Float[Tensor, "*mask example token"], base: Float[Tensor, "example token"]
) -> Float[Tensor, "*mask example"]:
    """KL(base || z) = sum over tokens of p_base (log p_base - log p_z); at least 0. (Kullback and Leibler 1951.)"""
    return (base.exp() * (base - inner)).sum(-1).clamp(min=0)


def log_right(scores: Scores, answers: Answers) -> Float[Tensor, "*mask example"]:
    """log of p(right answer) / sum p(answers), at most 0: the soft surrogate of being right."""
    return log_share(scores, answers, answers.right)


def right(scores: Scores, answers: Answers) -> Float[Tensor, "*mask example"]:
    """1 where the answer with the largest score is the right one (the label, or the target without one), else 0."""
    return (chosen(scores, answers) == answers.right).to(scores.dtype)


def relative_odds_change(inner: Tensor, base: Tensor) -> Tensor:
    """o_z / o_base - 1, from the difference of log-odds so that nothing cancels."""
    return torch.expm1(inner - base)


def probability_change(inner: Tensor, base: Tensor) -> Tensor:
    """p_z - p_base from log-probabilities: p_base (exp(log p_z - log p_base) - 1)."""
    return base.exp() * torch.expm1(inner - base)


def exponential(inner: Tensor, base: Tensor) -> Tensor:
    """The level whose logarithm is compared."""
    return inner.exp()


def several_answers(answers: Answers) -> None:
    """Raises InputError where some pair has a single answer."""
    alone = int((answers.exists.sum(-1) < 2).sum())
    if alone:
        raise InputError(
            f"{alone} of {len(answers)} pairs have one answer, and this metric compares answers: give each at least "
            "two, or use probability or nll"
        )


UNIT = (0.0, 1.0)
POSITIVE = (0.0, torch.inf)

PAIRWISE: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            name="odds_ratio",
            formula="odds under the mask / odds of the base run - 1 (Yan et al. 2026)",
            lower=-1.0,
            inner=log_odds,
            change=relative_odds_change,
            level=exponential,
            level_range=POSITIVE,
        ),
        Metric(name="log_odds", formula="change of the log-odds", inner=log_odds),
        Metric(
            name="logit_diff",
            formula="change of log p(target) - mean log p(others)",
            inner=logit_diff,
            check=several_answers,
        ),
        Metric(
            name="probability",
            formula="change of the target's probability",
            lower=-1.0,
            upper=1.0,
            inner=log_probability,
            change=probability_change,
            level=exponential,
            level_range=UNIT,
        ),
        Metric(name="nll", formula="change of -log p(target)", inner=nll, level_range=POSITIVE),
        Metric(
            name="kl",
            formula="KL divergence of the next-token distribution from the base run's",
            lower=0.0,
            inner=next_token,
            change=divergence,
            level=divergence,
            level_range=POSITIVE,
            reads="logits",
        ),
        Metric(
            name="accuracy",
            formula="change of the right answer's share of the answers' probability",
            lower=-1.0,
            upper=1.0,
            inner=log_right,
            change=probability_change,
            level=exponential,
            hard=right,
            level_range=UNIT,
            check=several_answers,
        ),
    )
}


@checked("ct.metrics.towards")
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


SIGNATURE = "f(scores, answers) or f(logits, answers), returning a level [mask, example]"


@checked("ct.metrics.own_metric")
def own_metric(function: Callable[..., Any], name: str | None = None) -> Metric:
    """The metric of a function of ``scores`` [mask, example, answer] (log p of each answer) and ``answers``.

    A first parameter named ``logits`` gets the logits [mask, example, token] at the last prompt position in their
    place. It returns the level [mask, example]; the effect is its change. Raises InputError about the signature.

    Args:
        name: Name of the metric in results.
    """
    called = name or str(getattr(function, "__name__", type(function).__name__))
    reads = _reads(function, called)
    return Metric(name=called, formula=f"change of {called}", inner=_checked(function, called), reads=reads)


def load_own(spec: str) -> Metric:
    """The metric named by ``package.module:function`` or ``path/to/file.py:function``. Raises InputError."""
    return own_metric(load_function(spec, "metric"), spec.rpartition(":")[2])


def load_function(spec: str, kind: str) -> Callable[..., Any]:
    """The user's function of that name; ``kind`` says in messages what it is for. Raises InputError."""
    where, _, name = spec.rpartition(":")
    if not where or not name.isidentifier():
        raise InputError(f"{kind} {spec!r}: name it as package.module:function or path/to/file.py:function")
    what = f"{kind} {spec!r}"
    if not where.endswith(".py") and ("/" in where or Path(where).is_file()):
        raise InputError(f"{what}: {where} is no Python file; name one that ends in .py, or a module")
    module = _file(where, what) if where.endswith(".py") else _module(where, what)
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"{what}: {where} has no function {name!r}")
    return function  # type: ignore[no-any-return]


def _file(path: str, what: str) -> ModuleType:
    if not Path(path).is_file():
        raise InputError(f"{what}: there is no file {path}")
    found = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    guarded(lambda: found.loader.exec_module(module), f"{what}: {path} cannot be run")  # type: ignore[union-attr]
    return module


def _module(name: str, what: str) -> ModuleType:
    module: ModuleType = guarded(lambda: importlib.import_module(name), f"{what}: cannot import {name}")
    return module


def guarded(action: Callable[[], Any], what: str) -> Any:
    """The result of somebody else's code; whatever it raises becomes one line."""
    try:
        return action()
    except CotraceError:
        raise
    except Exception as error:
        raise InputError(f"{what}: {type(error).__name__}: {error}") from error


def _reads(function: Callable[..., Any], name: str) -> Reads:
    try:
        signature = inspect.signature(function)
        signature.bind(None, None)
    except (TypeError, ValueError):
        raise InputError(f"metric {name}: cannot be called with two arguments; write it as {SIGNATURE}") from None
    first = next(iter(signature.parameters.values()))
    return "logits" if first.name == "logits" else "answers"


def _checked(function: Callable[..., Any], name: str) -> Level:
    """The function, always given [mask, example, column], its result checked."""

    def inner(scores: Tensor, answers: Answers) -> Tensor:
        table = scores.reshape(-1, *scores.shape[-2:])
        levels = guarded(lambda: function(table, answers), f"metric {name} fails")
        _check(levels, table, name)
        return levels.reshape(scores.shape[:-1])  # type: ignore[no-any-return]

    return inner


def _check(levels: Any, table: Tensor, name: str) -> None:
    wanted = list(table.shape[:-1])
    if not isinstance(levels, Tensor):
        raise InputError(f"metric {name} returns {type(levels).__name__}, not a tensor [mask, example]")
    if list(levels.shape) != wanted:
        raise InputError(f"metric {name} returns shape {list(levels.shape)}, not [mask, example], here {wanted}")
    if not levels.is_floating_point():
        raise InputError(f"metric {name} returns {levels.dtype}, which has no gradient: return floating-point numbers")
    if not bool(torch.isfinite(levels).all()):
        raise InputError(f"metric {name} returns numbers that are not finite")
    if table.requires_grad and not levels.requires_grad:
        raise InputError(f"metric {name} has no gradient with respect to its argument: do not detach, round or compare")


METRICS: Mapping[str, AnyMetric] = {**PAIRWISE, **GROUPS}
"""Name -> metric."""


@checked("ct.metrics.metric_named")
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
