"""Plain runs of the model: scores of a task's answers after the base and after the counterfactual prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from cotrace.batches import EncodedPair, Layout, Packing, answer_layouts, encode_task
from cotrace.batches.encode import bare_prompts
from cotrace.interventions import forward
from cotrace.metrics.metric import Reads
from cotrace.models import LanguageModel
from cotrace.problem.packing import choose_packing
from cotrace.problem.reading import answer_lengths, answer_scores, next_logits
from cotrace.prompts import PromptPair, Task
from cotrace.showing import Steps

Table = Float[Tensor, "example column"]


@dataclass(frozen=True)
class Runs:
    """The pairs that can be scored, and their scores."""

    pairs: tuple[PromptPair, ...]
    answers: Table
    """log p(answer | base prompt)."""
    base: Float[Tensor, "example read"]
    """What the metric reads, in the base run."""
    donor_answers: Table | None
    """The same after the counterfactual prompt; None where some pair has none."""
    donor: Float[Tensor, "example read"] | None
    refused: tuple[tuple[str, str], ...]
    """(id, reason) of the pairs that cannot be scored."""


def run(model: LanguageModel, task: Task, reads: Reads, batch_tokens: int | None, step: Steps) -> Runs:
    """Run a task's prompts, without any intervention. Raises AlignmentError where no pair can be used."""
    base = _encode(model, task)
    donors = _encode(model, _on_counterfactuals(task)) if has_counterfactuals(task) else None
    both = set(base[0]) & set(donors[0]) if donors else set(base[0])
    kept = [base[0][name] for name in base[0] if name in both]
    answers, read = _scores(model, task, kept, reads, batch_tokens, partial(step, "base prompts"))
    donor_answers, donor_read = (None, None)
    if donors is not None:
        donor_pairs = [donors[0][name] for name in base[0] if name in both]
        donor_answers, donor_read = _scores(
            model, task, donor_pairs, reads, batch_tokens, partial(step, "counterfactual prompts")
        )
    refused = dict([*(donors[1] if donors else ()), *base[1]])
    own = {pair.id: pair for pair in task.pairs}
    pairs = tuple(own[encoded.pair.id] for encoded in kept)
    return Runs(pairs, answers, read, donor_answers, donor_read, tuple(refused.items()))


def has_counterfactuals(task: Task) -> bool:
    """Whether every pair has a second prompt."""
    return all(pair.counterfactual or pair.counterfactual_messages for pair in task.pairs)


def _on_counterfactuals(task: Task) -> Task:
    """The task asked of the counterfactual prompts; target, label and group stay the pair's own."""
    return replace(task, pairs=tuple(_swapped(pair) for pair in task.pairs))


def _swapped(pair: PromptPair) -> PromptPair:
    return replace(
        pair,
        base=pair.counterfactual or "",
        messages=pair.counterfactual_messages,
        spans=pair.counterfactual_spans,
        counterfactual=None,
        counterfactual_messages=(),
        counterfactual_spans={},
    )


def _encode(model: LanguageModel, task: Task) -> tuple[dict[str, EncodedPair], tuple[tuple[str, str], ...]]:
    encoding = encode_task(task, model.require_tokenizer(), paired=False, align="exact", most_tokens=model.most_tokens)
    refused = tuple((refusal.id, refusal.reason) for refusal in encoding.refused)
    return {encoded.pair.id: encoded for encoded in encoding.pairs}, refused


def _passes(pairs: Sequence[EncodedPair], packing: Packing) -> list[Layout]:
    return [layout for whole in answer_layouts(pairs, range(len(pairs)), packing) for layout in whole.passes]


@torch.no_grad()
def _scores(
    model: LanguageModel,
    task: Task,
    pairs: Sequence[EncodedPair],
    reads: Reads,
    batch_tokens: int | None,
    step: Callable[[int, int], None],
) -> tuple[Table, Float[Tensor, "example read"]]:
    """Answer scores, and what the metric reads."""
    packing = choose_packing(model, pairs, batch_tokens)
    lengths = answer_lengths(pairs)
    answers = torch.zeros(lengths.shape, dtype=model.compute_dtype)
    read: dict[int, Tensor] = {}
    passes = _passes(pairs, packing)
    for number, layout in enumerate(passes):
        step(number, len(passes))
        logits = forward(model, layout, []).to(model.compute_dtype)
        answers[list(layout.examples)] += answer_scores(logits, layout)[0]
        if reads == "logits" and packing.frequencies is None:
            read |= dict(zip(layout.examples, next_logits(logits, layout)[0], strict=True))
    if reads == "logits" and packing.frequencies is not None:
        for layout in _passes(bare_prompts(pairs), packing):
            logits = forward(model, layout, []).to(model.compute_dtype)
            read |= dict(zip(layout.examples, next_logits(logits, layout)[0], strict=True))
    answers = answers / lengths if task.score == "mean" else answers
    return answers, torch.stack([read[i] for i in range(len(pairs))]) if reads == "logits" else answers
