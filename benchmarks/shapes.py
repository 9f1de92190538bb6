"""Random models of real shapes, and tasks for them that need no download: words of one token each."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import GPT2Config, LlamaConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from cotrace.models import LanguageModel, wrap
from cotrace.prompts import PromptPair, Task


def gpt2_small() -> PreTrainedConfig:
    """12 layers of 12 heads, d_model 768, vocabulary 50,257."""
    return GPT2Config()


def llama_160m() -> PreTrainedConfig:
    """A Llama of about the same size: 12 layers of 12 heads on 4 key-value heads, gated MLPs, vocabulary 32,000."""
    return LlamaConfig(
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        vocab_size=32_000,
        max_position_embeddings=1024,
    )


SHAPES: dict[str, Callable[[], PreTrainedConfig]] = {"gpt2-small": gpt2_small, "llama-160m": llama_160m}


def random_model(config: PreTrainedConfig, dtype: torch.dtype = torch.float32, device: str = "cpu") -> LanguageModel:
    """A model with random weights, and a tokenizer of words w0, w1, ..."""
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        module: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return wrap(module.to(device).eval(), word_tokenizer(2000), name=type(module).__name__)


def word_tokenizer(words: int) -> PreTrainedTokenizerFast:
    """One token for each of the words w0, w1, ..."""
    tokens = Tokenizer(WordLevel({f"w{i}": i for i in range(words)}, unk_token="w0"))  # noqa: S106
    tokens.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokens)


def winobias_like(pairs: int, seed: int = 0) -> Task:
    """The lengths of WinoBias: 8 to 15 prompt tokens that differ in the last, two answers of 2 to 9 tokens."""
    draw = random.Random(seed)
    made = []
    for i in range(pairs):
        prompt = _words(draw, draw.randint(7, 14))
        answers = tuple(" " + _words(draw, draw.randint(2, 9)) for _ in range(2))
        made.append(_pair(i, f"{prompt} w1", f"{prompt} w2", answers))
    return Task(name="winobias-like", pairs=tuple(made), metric="odds_ratio", score="mean")


def professions_like(pairs: int, seed: int = 0) -> Task:
    """The lengths of Professions: 4 to 6 prompt tokens that differ in the second, two answers of one token."""
    draw = random.Random(seed)
    made = []
    for i in range(pairs):
        rest = _words(draw, draw.randint(2, 4))
        made.append(_pair(i, f"w5 {_words(draw, 1)} {rest}", f"w5 w7 {rest}", (" w1", " w2")))
    return Task(name="professions-like", pairs=tuple(made), metric="odds_ratio", score="mean")


def prompts_of(pairs: int, length: int, seed: int = 0) -> Task:
    """Prompts of one length that differ in the middle, with two answers of two tokens."""
    draw = random.Random(seed)
    made = []
    for i in range(pairs):
        head, tail = _words(draw, length // 2), _words(draw, length - length // 2 - 1)
        made.append(_pair(i, f"{head} w1 {tail}", f"{head} w2 {tail}", (" w3 w4", " w5 w6")))
    return Task(name="prompts", pairs=tuple(made), metric="log_odds")


def _words(draw: random.Random, count: int) -> str:
    return " ".join(f"w{draw.randint(10, 1999)}" for _ in range(count))


def _pair(i: int, base: str, counterfactual: str, answers: tuple[str, ...]) -> PromptPair:
    return PromptPair(id=str(i), base=base, counterfactual=counterfactual, answers=answers)
