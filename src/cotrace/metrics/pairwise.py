"""Metrics with an effect of each example: functions of answer scores, log p(answer | prompt).

With odds o = sum of p(others) / p(target), numerator 1 where there is one answer (DESIGN section 5). docs/metrics.md
lists formula, range, transformation and source of each.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from cotrace.errors import InputError
from cotrace.metrics.answers import Answers, chosen, log_share, other_answers, other_score, target_score
from cotrace.metrics.metric import Metric, Scores


def log_odds(scores: Scores, answers: Answers) -> Float[Tensor, "*mask example"]:
    """log o = log sum p(others) - log p(target); any real number."""
    return other_score(scores, answers) - target_score(scores, answers)


def log_probability(scores: Scores, answers: Answers) -> Float[Tensor, "*mask example"]:
    """log p(target), at most 0."""
    return target_score(scores, answers)


def logit_diff(scores: Scores, answers: Answers) -> Float[Tensor, "*mask example"]:
    """log p(target) - mean log p(others): the difference of logits where answers are one token; any real number.

    Source: Wang et al. 2022, arXiv 2211.00593 (two answers, for which it is -log o).
    """
    others = other_answers(answers)
    mean = (scores * others).sum(-1) / others.sum(-1)
    return target_score(scores, answers) - mean


def nll(scores: Scores, answers: Answers) -> Float[Tensor, "*mask example"]:
    """-log p(target); at least 0. With ``score="mean"`` it is per token, and its exponential the perplexity."""
    return -target_score(scores, answers)


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
