"""Trains the model that ships: `python -m training.train --out DIR --seed 0`.

A GPT-2 decoder on the synthetic corpus, from a fixed seed, in minutes on two cores. Whole heads are dropped at random
in training, so that no head can carry a behaviour alone: the circuits become redundant, as they are in large models.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from training.corpus import documents
from training.measure import figures

END = "<|endoftext|>"
ROW_LENGTH = 64
IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the weights."""

    out: Path
    seed: int = field(default=0, metadata={"help": "of the corpus, the initial weights and the dropout"})
    layers: int = 5
    heads: int = 8
    width: int = 96
    steps: int = 1800
    rows: int = field(default=64, metadata={"help": "rows of 64 tokens in a step"})
    rate: float = field(default=3e-3, metadata={"help": "peak learning rate"})
    head_dropout: float = field(default=0.1, metadata={"help": "share of whole heads silenced in each row"})
    threads: int = 2


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each word of the corpus, bytes for all other text: byte-level BPE that needs no merges."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = {piece for text, _ in documents("vocabulary", 30_000) for piece, _ in split.pre_tokenize_str(text)}
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate([END, *sorted(alphabet), *sorted(words - alphabet)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer, tokenizer.decoder = split, decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END, special=True)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END, model_max_length=ROW_LENGTH
    )


def packed(encoded: Iterable[list[int]], end: int) -> Iterator[tuple[list[int], list[int]]]:
    """Rows of whole documents, each closed by `end`, with their labels; the rest of a row is not learned."""
    row: list[int] = []
    for tokens in encoded:
        if len(row) + len(tokens) + 1 > ROW_LENGTH:
            rest = ROW_LENGTH - len(row)
            yield row + [end] * rest, row + [IGNORED] * rest
            row = []
        row = [*row, *tokens, end]


def encoded_documents(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[list[int]]:
    """The tokens of an endless corpus, encoded in blocks."""
    for block in range(1_000_000):
        yield from tokenizer([text for text, _ in documents(f"{seed}/{block}", 2_000)])["input_ids"]


def batches(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    """Training batches: inputs and labels, both [rows, ROW_LENGTH]."""
    rows = packed(encoded_documents(tokenizer, recipe.seed), tokenizer.eos_token_id)
    for _ in range(recipe.steps):
        inputs, labels = zip(*(next(rows) for _ in range(recipe.rows)), strict=True)
        yield torch.tensor(inputs), torch.tensor(labels)


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """An untrained decoder with tied embeddings."""
    end = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=ROW_LENGTH, n_embd=recipe.width, n_layer=recipe.layers,
        n_head=recipe.heads, activation_function="gelu_pytorch_tanh", attn_pdrop=0.0,
        resid_pdrop=0.0, embd_pdrop=0.0,
        bos_token_id=end, eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def drop_heads(model: GPT2LMHeadModel, share: float) -> None:
    """While the model trains, silence a random share of the heads in each row and scale up the others."""

    def drop(module: torch.nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
        if not module.training or share == 0:
            return None
        heads = args[0].reshape(*args[0].shape[:2], model.config.n_head, -1)
        kept = torch.rand(heads.shape[0], 1, heads.shape[2], 1) >= share
        return ((heads * kept / (1 - share)).flatten(-2),)

    for block in model.transformer.h:
        block.attn.c_proj.register_forward_pre_hook(drop)


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up over a twentieth of the steps, then a cosine to zero."""
    warm = max(1, recipe.steps // 20)
    if step < warm:
        return recipe.rate * (step + 1) / warm
    return recipe.rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / (recipe.steps - warm)))


def train(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> None:
    """AdamW on the packed corpus."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98))
    model.train()
    for step, (inputs, labels) in enumerate(batches(tokenizer, recipe)):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, recipe)
        loss = model(input_ids=inputs, attention_mask=torch.ones_like(inputs), labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 50 == 0 or step == recipe.steps - 1:
            print(f"step {step:5d}  loss {loss.item():.4f}", flush=True)
    model.eval()


def parse() -> Recipe:
    """The recipe from the command line; each field is an option."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the model and its tokenizer")
    for name, item in list(Recipe.__dataclass_fields__.items())[1:]:
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=type(item.default), default=item.default, help=item.metadata.get("help", " "))
    return Recipe(**vars(parser.parse_args()))


def main() -> None:
    """Train, save, measure, and print the figures as JSON."""
    recipe = parse()
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(recipe.threads)
    started = time.perf_counter()
    tokenizer = build_tokenizer()
    model = build_model(recipe, tokenizer)
    drop_heads(model, recipe.head_dropout)
    train(model, tokenizer, recipe)
    elapsed_s = time.perf_counter() - started
    model.save_pretrained(recipe.out)
    tokenizer.save_pretrained(recipe.out)
    shape = {name: value for name, value in asdict(recipe).items() if name != "out"}
    print(json.dumps({**shape, "training_s": round(elapsed_s, 1), **figures(model, tokenizer)}, indent=1))


if __name__ == "__main__":
    main()
