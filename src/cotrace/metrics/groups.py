"""Group metrics: gaps between subgroups over the whole set of pairs.

Every rate has two forms: hard, from the answer with the largest score, which is reported; and soft, from the answer's
share of the answers' probability, which searches follow. A largest-minus-smallest gap has a kink where two groups tie.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cotrace.errors import InputError
from cotrace.metrics.metric import Aggregate, Answers, Check, SetMetric, chosen, log_share
from cotrace.validation import checked

Form = Literal["hard", "soft"]


def picks(
    scores: Tensor, answers: Answers, index: Int[Tensor, "example"], form: Form
) -> Float[Tensor, "*mask example"]:
    """Whether each example chooses this answer (hard), or with what share of the probability (soft)."""
    if form == "hard":
        return (chosen(scores, answers) == index).to(scores.dtype)
    return log_share(scores, answers, index).exp()


def rates(
    share: Float[Tensor, "*mask example"], answers: Answers, among: Bool[Tensor, "example"]
) -> Float[Tensor, "*set group"]:
    """Weighted mean share of each group over the examples that are ``among``; groups without any are left out.

    A group that has some, but none in a resample, has no rate there: not a number, and no gap.
    """
    member = (answers.group[None] == torch.arange(len(answers.groups))[:, None]) & among
    weight = member * answers.weight
    return answers.means(share, weight[weight.sum(-1) > 0])


def gap(by_group: Float[Tensor, "*set group"]) -> Float[Tensor, "*set"]:
    """Largest minus smallest."""
    return by_group.amax(-1) - by_group.amin(-1)


def selection_rates(scores: Tensor, answers: Answers, form: Form = "hard") -> Float[Tensor, "*set group"]:
    """p(favourable answer chosen | group)."""
    return rates(picks(scores, answers, answers.favourable, form), answers, torch.ones(len(answers)).bool())


@checked("ct.metrics.selection_rate_ratio")
def selection_rate_ratio(scores: Tensor, answers: Answers) -> Float[Tensor, "*mask"]:
    """Smallest selection rate / largest, in [0, 1]; 0 / 0 is nan. Below 0.8 it fails the four-fifths rule (29 CFR
    1607.4 D).

    Args:
        scores: log p of each answer, under each mask.
        answers: Facts of the answers.
    """
    by_group = selection_rates(scores, answers)
    return by_group.amin(-1) / by_group.amax(-1)


def demographic_parity_gap(scores: Tensor, answers: Answers, form: Form) -> Float[Tensor, "*set"]:
    """max_g - min_g of p(favourable | g), in [0, 1]. (Dwork et al. 2012, arXiv 1104.3913: statistical parity.)"""
    return gap(selection_rates(scores, answers, form))


def equal_opportunity_gap(scores: Tensor, answers: Answers, form: Form) -> Float[Tensor, "*set"]:
    """max_g - min_g of p(favourable | g, gold favourable), in [0, 1]. (Hardt, Price, Srebro 2016, arXiv 1610.02413.)"""
    return gap(rates(picks(scores, answers, answers.favourable, form), answers, answers.label == answers.favourable))


def equalized_odds_gap(scores: Tensor, answers: Answers, form: Form) -> Float[Tensor, "*set"]:
    """The larger of the gaps of p(favourable | g, gold favourable) and p(favourable | g, gold not), in [0, 1].

    Source: Hardt, Price, Srebro 2016, arXiv 1610.02413.
    """
    share, positive = picks(scores, answers, answers.favourable, form), answers.label == answers.favourable
    return torch.maximum(gap(rates(share, answers, positive)), gap(rates(share, answers, ~positive)))


def stereotype_gap(scores: Tensor, answers: Answers, form: Form) -> Float[Tensor, "*set"]:
    """2 mean_g p(target | g) - 1, in [-1, 1]; the target is the stereotypical answer.

    0 where the answer does not depend on the group, whichever answer is likelier overall: for two groups with opposite
    targets it is the difference of an answer's rate between them. The stereotype score of StereoSet (Nadeem et al.
    2021, arXiv 2004.09456; ideal 1/2), each group weighing the same.
    """
    share = picks(scores, answers, answers.target, form)
    return 2 * rates(share, answers, torch.ones(len(answers)).bool()).mean(-1) - 1


def by_group(answers: Answers) -> Int[Tensor, "example"]:
    """The groups, as what every resample must hold as many of."""
    return answers.group


def by_label(answers: Answers) -> Int[Tensor, "example"]:
    """Return for each group the pairs whose gold answer is favourable, and the others."""
    return 2 * answers.group + (answers.label == answers.favourable)


def need_groups(answers: Answers) -> None:
    """Raises InputError unless every pair has a group, and there are at least two groups of at least two pairs."""
    without = int((answers.group < 0).sum())
    if without:
        raise InputError(
            f"{without} of {len(answers)} pairs have no 'group', which a group metric needs: add the field"
        )
    counts = [int((answers.group == g).sum()) for g in range(len(answers.groups))]
    present = {name: count for name, count in zip(answers.groups, counts, strict=True) if count}
    if len(present) < 2:
        raise InputError(f"a group metric compares groups, and all {len(answers)} pairs are of {answers.groups[0]!r}")
    for name, count in present.items():
        if count < 2:
            raise InputError(
                f"group {name!r} has one pair, from which no rate can be told: give at least two, or drop it"
            )


def need_favourable(answers: Answers) -> None:
    """Raises InputError unless every pair has a group and a favourable answer among several."""
    need_groups(answers)
    _need(answers.favourable, "favourable", answers)


def need_labels(answers: Answers) -> None:
    """Raises InputError unless every pair has a label too, and every group a pair whose gold answer is favourable."""
    need_favourable(answers)
    _need(answers.label, "label", answers)
    _need_both(answers, answers.label == answers.favourable, "is favourable")


def need_both_labels(answers: Answers) -> None:
    """Raises InputError unless every group also has a pair whose gold answer is not the favourable one."""
    need_labels(answers)
    _need_both(answers, answers.label != answers.favourable, "is not favourable")


def _need(index: Int[Tensor, "example"], field: str, answers: Answers) -> None:
    without = int((index < 0).sum())
    if without:
        raise InputError(f"{without} of {len(answers)} pairs have no {field!r}, which this group metric needs: add it")


def _need_both(answers: Answers, among: Bool[Tensor, "example"], what: str) -> None:
    for g, name in enumerate(answers.groups):
        member = answers.group == g
        if bool(member.any()) and not bool((member & among & (answers.weight > 0)).any()):
            raise InputError(f"group {name!r} has no pair whose label {what}: this group metric needs one")


Gap = Callable[[Tensor, Answers, Form], Tensor]
FAVOURABLE = "the largest difference between groups in the rate of the favourable answer"


def _set_metric(
    formula: Gap, words: str, check: Check, answer: str, strata: Callable[[Answers], Tensor], low: float = 0.0
) -> SetMetric:
    """The metric of a gap in [low, 1]; ``answer`` is whose rate it is made of, a field of the answers."""

    def form(kind: Form) -> Aggregate:
        return lambda scores, base, answers: formula(scores, answers, kind)

    return SetMetric(
        name=formula.__name__,
        formula=f"change of {words}",
        lower=low - 1,
        upper=1 - low,
        soft_level=form("soft"),
        reported=form("hard"),
        level_range=(low, 1.0),
        check=check,
        rates=lambda scores, answers: picks(scores, answers, getattr(answers, answer), "hard"),
        direction="minimise",
        strata=strata,
    )


GROUPS: Mapping[str, SetMetric] = {
    metric.name: metric
    for metric in (
        _set_metric(demographic_parity_gap, FAVOURABLE, need_favourable, "favourable", by_group),
        _set_metric(equal_opportunity_gap, f"{FAVOURABLE} where it is right", need_labels, "favourable", by_label),
        _set_metric(
            equalized_odds_gap, f"{FAVOURABLE} where it is right, or wrong", need_both_labels, "favourable", by_label
        ),
        _set_metric(
            stereotype_gap,
            "2 x (mean over groups of the stereotypical answer's rate) - 1",
            need_groups,
            "target",
            by_group,
            low=-1.0,
        ),
    )
}
