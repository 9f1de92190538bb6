"""Side problems: another task over the same components, to be watched or bounded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cotrace.donors import Mean
from cotrace.metrics import AnyMetric
from cotrace.problem.language import LanguageProblem
from cotrace.prompts import Task


def side_problem(
    problem: LanguageProblem,
    task: Task,
    *,
    metric: str | AnyMetric | Callable[..., Any] | None = None,
    holdout: float | int = 0.3,
    seed: int = 0,
) -> LanguageProblem:
    """What masks of ``problem`` do to another task: its metric's change, in ``swap`` mode.

    Pairs with a counterfactual take its donors. Text without one takes, at all its tokens, the mean value over the
    donor runs of ``problem``'s own pairs (training and held-out), and its name says so.
    """
    if all(pair.counterfactual or pair.counterfactual_messages for pair in task.pairs):
        return LanguageProblem(
            problem.model, task, sites=problem.space, donors="counterfactual", metric=metric, holdout=holdout, seed=seed
        )
    return LanguageProblem(
        problem.model,
        replace(task, name=f"{task.name} (mean donor of {problem.task})"),
        sites=problem.space,
        donors=Mean(reference=problem.encoding.pairs),
        positions="prompt+answer",
        metric=metric,
        holdout=holdout,
        seed=seed,
    )
