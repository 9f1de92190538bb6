"""Tiny random decoders of several kinds: grouped queries, gated MLPs, Conv1D, fused and parallel projections."""

from __future__ import annotations

from functools import cache

import torch

from cotrace.models import LanguageModel, wrap
from tests.families import tiny_model
from tests.tiny import tokenizer

FAMILIES = ("gpt2", "llama", "qwen3", "gemma2", "gpt_neox", "phi3", "bloom", "opt")
GATED_GROUPED = ("llama", "qwen3", "gemma2", "phi3")


@cache
def tiny(family: str) -> LanguageModel:
    """A float32 model with a tokenizer of the words w0 .. w59."""
    return wrap(tiny_model(family), tokenizer(), name=f"tiny-{family}")


def ids(rows: int = 3, length: int = 7) -> torch.Tensor:
    """Different tokens in every row."""
    return torch.randint(2, 60, (rows, length), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def log_p(module: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of every next token, [row, pos, token]."""
    return torch.log_softmax(module(input_ids=tokens, use_cache=False).logits.double(), -1)
