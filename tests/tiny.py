"""Tiny random decoders of several families, and pairs of random tokens for them: no tokenizer, no network."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from cotrace.models import LanguageModel, wrap
from cotrace.prompts import PromptPair, Task

SHARED = Path(__file__).resolve().parents[2] / "shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the benchmark data beside the checkout are absent")

VOCABULARY = 60
SIZES = {"vocab_size": VOCABULARY, "max_position_embeddings": 64}
LLAMA = {
    **SIZES,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=3, n_head=4),
    "llama": LlamaConfig(**LLAMA),
    "qwen3": Qwen3Config(**LLAMA, head_dim=16),
}
FAMILIES = sorted(CONFIGS)
SITES = [
    "attention_pattern",
    "head_output",
    "attention_output",
    "mlp_output",
    "mlp_neuron",
    "mlp_coordinate",
    "residual",
]
"""The sites that each of these families has."""


def tokenizer() -> PreTrainedTokenizerFast:
    """One token for each of the words w0 .. w59."""
    words = WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w59")
    tokens = Tokenizer(words)
    tokens.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokens)


@cache
def model(family: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> LanguageModel:
    """A random model with weights large enough that every part matters."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = AutoModelForCausalLM.from_config(CONFIGS[family])
        for parameter in module.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return wrap(module.to(dtype).eval(), tokenizer(), name=f"tiny-{family}")


def words(generator: torch.Generator, count: int) -> list[str]:
    return [f"w{i}" for i in torch.randint(0, VOCABULARY, (count,), generator=generator).tolist()]


def task(count: int = 6, *, answer_tokens: tuple[int, ...] = (1, 3), metric: str = "log_odds", seed: int = 0) -> Task:
    """Pairs of random words; base and counterfactual differ in the middle; prompts have different lengths."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for i in range(count):
        base = words(generator, 4 + i % 3)
        other = [*base[:1], *words(generator, 2), *base[3:]]
        answers = tuple("".join(f" {word}" for word in words(generator, n)) for n in answer_tokens)
        pairs.append(
            PromptPair(id=f"p{i}", base=" ".join(base), counterfactual=" ".join(other), answers=answers, target=i % 2)
        )
    return Task(name="random words", pairs=tuple(pairs), metric=metric)
