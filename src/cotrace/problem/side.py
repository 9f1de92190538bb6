"""Side problems: another task over the same components, to be watched or bounded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cotrace.arguments import checked
from cotrace.donors import Counterfactual, DonorSource, Mean, Scale, Vector, Zero
from cotrace.metrics import AnyMetric
from cotrace.problem.language import LanguageProblem
from cotrace.prompts import Task

SAME_FOR_ALL = (Zero, Scale, Vector, Mean)
"""Donors whose values do not depend on the prompt."""


@checked("ct.side_problem")
def side_problem(
    problem: LanguageProblem,
    task: Task,
    *,
    metric: str | AnyMetric | Callable[..., Any] | None = None,
    holdout: float | int = 0.3,
    seed: int = 0,
) -> LanguageProblem:
    """What masks of ``problem`` do to another task: its metric's change, in ``swap`` mode.

    Donors that are the same for all prompts (zeros, a mean, vectors, a factor) are the problem's own. Else pairs with
    a counterfactual take its run. Text without one takes, at all its tokens, the mean value over the
    base runs of ``problem``'s training pairs, and its name says so.
    """
    paired = all(pair.counterfactual or pair.counterfactual_messages for pair in task.pairs)
    donors: DonorSource = Counterfactual()
    if isinstance(problem.donors, SAME_FOR_ALL) and not getattr(problem.donors, "per_position", False):
        donors = problem.donors
    elif not paired:
        seen = set(problem.training.ids)
        donors = Mean(reference=[pair for pair in problem.encoding.pairs if pair.pair.id in seen])
        task = replace(task, name=f"{task.name} (mean donor of {problem.task})")
    return LanguageProblem(
        problem.model,
        task,
        sites=problem.space,
        donors=donors,
        positions="prompt" if paired else "prompt+answer",
        metric=metric,
        direction="maximise",  # what is measured is a change, whichever way it goes
        holdout=holdout,
        seed=seed,
        **problem.manner,
    )
