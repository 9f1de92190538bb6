"""What a trained model learned: loss against the corpus entropy, accuracies, and the bias against the planted one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from training.corpus import cells, documents, opening
from training.lexicon import FRAMES, JOBS, NAMES, SHE_RATE
from training.pairs import PRONOUNS, Record, pair_files


@torch.no_grad()
def text_log_probs(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Log-probability of each token given those before it, and which places hold a token; both [text, place]."""
    batch = tokenizer(list(texts), padding=True, padding_side="right", return_tensors="pt")
    log_probs = model(**batch).logits[:, :-1].log_softmax(-1)
    held = batch["attention_mask"][:, 1:].bool()
    picked = log_probs.gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
    return picked.masked_fill(~held, 0.0), held


def answer_scores(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], answers: Sequence[Sequence[str]]
) -> Tensor:
    """Log p(answer | prompt), summed over the answer's tokens: [prompt, answer]."""
    texts = [prompt + answer for prompt, options in zip(prompts, answers, strict=True) for answer in options]
    picked, _ = text_log_probs(model, tokenizer, texts)
    starts = torch.tensor([len(tokenizer(prompt)["input_ids"]) - 1 for prompt in prompts])
    inside = torch.arange(picked.shape[1]) >= starts.repeat_interleave(len(answers[0]))[:, None]
    return (picked * inside).sum(-1).reshape(len(prompts), -1)


def log_odds(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, records: Sequence[Record]
) -> tuple[Tensor, Tensor]:
    """Log p(target) - log p(other), with the base prompt's target, on base and on counterfactual: both [pair]."""
    answers, target = [r["answers"] for r in records], torch.tensor([r["target"] for r in records])[:, None]

    def margin(side: str) -> Tensor:
        scores = answer_scores(model, tokenizer, [r[side] for r in records], answers)
        return (scores.gather(1, target) - scores.gather(1, 1 - target)).squeeze(1)

    return margin("base"), margin("counterfactual")


def pair_figures(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, records: Sequence[Record]
) -> dict[str, float]:
    """Mean log-odds on both sides and the share of prompts with the right answer on top."""
    base, counterfactual = log_odds(model, tokenizer, records)
    right = torch.cat([base > 0, counterfactual < 0]).float().mean()
    return {
        "log_odds_base": round(base.mean().item(), 3),
        "log_odds_counterfactual": round(counterfactual.mean().item(), 3),
        "accuracy": round(right.item(), 4),
    }


def she_rates(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast) -> dict[str, float]:
    """p(she) / (p(she) + p(he)) of each occupation, averaged over the frames held out for it."""
    grid = cells(JOBS, FRAMES, held_out=True)
    prompts = [opening(frame, f"the {job}") for job, frame in grid]
    scores = answer_scores(model, tokenizer, prompts, [PRONOUNS] * len(grid))
    shares = scores.softmax(-1)[:, 0].tolist()
    by_job: dict[str, list[float]] = {job: [] for job in JOBS}
    for (job, _), share in zip(grid, shares, strict=True):
        by_job[job].append(share)
    return {job: sum(values) / len(values) for job, values in by_job.items()}


def name_accuracy(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast) -> float:
    """Share of names that get their own pronoun, in the frames held out for them."""
    grid = cells(NAMES, FRAMES, held_out=True)
    scores = answer_scores(model, tokenizer, [opening(f, n) for n, f in grid], [PRONOUNS] * len(grid))
    right = (scores.argmax(-1) == torch.tensor([NAMES.index(n) >= len(NAMES) // 2 for n, _ in grid]).long()).float()
    return right.mean().item()


def losses(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, *, held_out: bool, count: int = 2_000
) -> dict[str, float]:
    """Nats per token on fresh documents, next to the entropy that the corpus itself has."""
    texts, nats = zip(*documents("measure", count, held_out=held_out), strict=True)
    end = tokenizer.eos_token
    picked, held = text_log_probs(model, tokenizer, [f"{end}{text}{end}" for text in texts])
    return {
        "loss": round(-picked.sum().item() / held.sum().item(), 4),
        "entropy": round(sum(nats) / held.sum().item(), 4),
    }


def figures(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """All figures that the documentation states."""
    files = pair_files()
    kinds = {kind: [r for r in files["bias"] if r["meta"]["kind"] == kind] for kind in ("occupation", "referent")}
    groups = {**{f"bias/{kind}": records for kind, records in kinds.items()}, **files}
    rates = she_rates(model, tokenizer)
    errors = [abs(rates[job] - SHE_RATE[job]) for job in JOBS]
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": len(tokenizer),
        "fresh_documents": losses(model, tokenizer, held_out=False),
        "held_out_documents": losses(model, tokenizer, held_out=True),
        "pairs": {name: pair_figures(model, tokenizer, records) for name, records in groups.items()},
        "name_accuracy": round(name_accuracy(model, tokenizer), 4),
        "she_rate_mean_error": round(sum(errors) / len(errors), 4),
        "she_rate_largest_error": round(max(errors), 4),
    }
