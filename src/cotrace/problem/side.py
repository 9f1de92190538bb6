"""Side problems: another task over the same components, to be watched or bounded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from cotrace.arguments import checked
from cotrace.donors import Counterfactual, DonorSource, Mean, Scale, Vector, Zero
from cotrace.metrics import AnyMetric
from cotrace.models import LanguageModel
from cotrace.models.language_model import evaluating
from cotrace.problem.executor import executing
from cotrace.problem.language import LanguageProblem
from cotrace.problem.protocol import Problem
from cotrace.prompts import Task
from cotrace.shipped import SHIPS
from cotrace.showing import warn

SAME_FOR_ALL = (Zero, Scale, Vector, Mean)
"""Donors whose values do not depend on the prompt."""
CHOOSING_LINES = 20
"""Lines of each neutral text that are read to choose between them."""
HIGH = 0.5
"""Share of the loss of guessing among all tokens alike, above which a model does not know a text."""


class UnknownText(UserWarning):
    """A model does not know the neutral text by which side effects are judged."""


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
    with executing(problem.training.scorer.executor):
        made = LanguageProblem(
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
    if task.source.endswith(SHIPS) and (said := unknown_text(made)):
        warn(said, UnknownText)
    return made


def loss_before(side: Problem) -> float | None:
    """The loss per token of a neutral text before anything is changed; None for other problems."""
    if not isinstance(side, LanguageProblem) or side.source_task.encoding != "text":
        return None
    levels = getattr(side.training, "base_levels", None)
    return None if levels is None or side.training.metric.name != "nll" else float(levels.double().mean())


def unknown_text(side: Problem) -> str:
    """What is said where the model does not know the text of a side problem; empty where it does."""
    loss = loss_before(side)
    if loss is None or not isinstance(side, LanguageProblem):
        return ""
    return high_loss(side.model, side.source_task, loss)


def high_loss(model: LanguageModel, task: Task, loss: float) -> str:
    """What is said where a neutral text has so high a loss that the model does not know it; else empty."""
    chance = math.log(model.module.get_input_embeddings().weight.shape[0])
    if loss <= HIGH * chance:
        return ""
    return (
        f"the neutral text {task.source} has a loss of {loss:.2f} per token in {model.name} before anything is changed "
        f"(guessing has {chance:.2f}): it is no text that this model knows, so what happens to it says little; name a "
        "file with text of the model's kind"
    )


@torch.no_grad()
def loss_of(model: LanguageModel, task: Task, most: int = CHOOSING_LINES) -> float:
    """Mean over the first lines of a text of the model's loss per token; infinite where its tokenizer has no words."""
    losses = []
    for pair in task.pairs[:most]:
        ids = _ids(model, pair.base + pair.answers[0])
        if ids is None:
            return math.inf
        if len(ids) > 1:
            row = torch.tensor([ids], device=model.device)
            with evaluating(model.module):
                logits = model.module(input_ids=row, use_cache=False).logits[0, :-1].float()
            losses.append(torch.nn.functional.cross_entropy(logits, row[0, 1:].to(logits.device)).item())
    return sum(losses) / len(losses) if losses else math.inf


def _ids(model: LanguageModel, line: str) -> list[int] | None:
    """The line as tokens; None where some of it has none."""
    tokenizer = model.require_tokenizer()
    try:
        ids: list[int] = tokenizer(line)["input_ids"][: model.most_tokens]
    except Exception:  # a tokenizer without a token for unknown words raises no class of its own
        return None
    alike = len(set(ids)) < len(ids) / 4  # one token stands for every word that is not known
    return None if alike or (tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids) else ids
